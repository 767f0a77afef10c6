package region

import (
	"context"
	"time"
)

const (
	// firstWait and longestWait bound the pause before a loop tries the centre again. A longer first wait delays every
	// short cut's end; a longer longest wait leaves stock unsold after a long one.
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
	// streamSilence ends a stream that brought nothing: its far end is gone without a word. Streams from the centre give
	// proof of life every 15 s.
	streamSilence = 40 * time.Second
)

// backoff is one loop's pauses: doubling, with full jitter so that nodes which lost the same centre do not come back at
// the same moment.
type backoff struct {
	n    *Node
	next time.Duration
}

func (n *Node) newBackoff() *backoff { return &backoff{n: n, next: firstWait} }

func (b *backoff) reset() { b.next = firstWait }

// pause is how long to wait now.
func (b *backoff) pause() time.Duration {
	d := b.next/2 + b.n.jitter(b.next)
	b.next = min(2*b.next, longestWait)
	return d
}

func (b *backoff) sleep(ctx context.Context) {
	select {
	case <-time.After(b.pause()):
	case <-ctx.Done():
	}
}

// poke wakes a loop that listens on a channel of one: several pokes before it listens are one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

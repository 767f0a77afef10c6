package forward

import (
	"sync"

	"github.com/rimlight/rimlight/router/measure"
)

const (
	// hedgeBurst is how many hedges a router may make at once after a quiet time.
	hedgeBurst = 40
	// retryBurst is how many retries may be made at once after a quiet time: about what one router has under way at a
	// region that dies. Less fails viewers in the first instant; more is more of a storm when every region is full.
	retryBurst = 500
)

// budget bounds second attempts to a share of the calls that went well, with some saved up. Successes pay: a platform that
// answers nobody is not asked twice by everybody, which is how an overload outlives its cause.
type budget struct {
	share, burst float64

	mu     sync.Mutex
	tokens float64
}

func newBudget(share, burst float64) *budget {
	b := &budget{share: share, burst: burst}
	if share > 0 {
		b.tokens = burst
	}
	return b
}

// add puts in tokens, or gives back what take took.
func (b *budget) add(tokens float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+tokens, b.burst)
}

// take takes what one attempt costs, if it is there.
func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// earn takes in how a call ended.
func (f *Forwarder) earn(r result) {
	if r.verdict == measure.Good {
		f.hedges.add(max(0, f.hedges.share))
		f.retries.add(max(0, f.retries.share))
	}
}

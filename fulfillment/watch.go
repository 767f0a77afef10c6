package fulfillment

import (
	"context"
	"time"
)

const (
	// proofOfLife is how often a watch stream says something when nothing changes: the contract's 15 s with a margin for
	// the way. The store is read again then, so a poke that never came delays a change by this much and no more.
	proofOfLife = 10 * time.Second
	// watchBatch bounds one message of a watch stream, far below the 1 MiB that services take from each other.
	watchBatch = 500
)

// watch calls send at once, after every poke and at every proof of life, and again at once while it has more, until the
// stream or the service ends. alive asks send to say something even if nothing changed.
func (s *Service) watch(ctx context.Context, h *hub, send func(alive bool) (more bool, err error)) error {
	tick := time.NewTicker(proofOfLife)
	defer tick.Stop()
	alive := true
	for {
		changed := h.wait()
		more, err := send(alive)
		if err != nil {
			return err
		}
		if alive = false; more {
			continue // bounded by what is stored, and by a send that fails when the stream ends
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return errStopping
		case <-changed:
		case <-tick.C:
			alive = true
		}
	}
}

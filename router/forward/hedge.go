package forward

import (
	"context"
	"errors"
	"time"

	"github.com/rimlight/rimlight/internal/rpc/frame"
)

// hedgesUntil is the platform's utilisation above which nobody hedges: second copies would make late answers later.
const hedgesUntil = 0.85

// What ends an attempt because the other one is over.
var (
	errOutrun    = errors.New("another region answered first")       // it was late
	errNotNeeded = errors.New("the first region answered after all") // it was a hedge, and says nothing about the node
)

// attempted is an attempt that is over.
type attempted struct {
	n      *node // nil: nobody was asked
	answer *frame.Frame
	r      result
}

// race makes an attempt, and a second one elsewhere when the answer is late; whatever is answered first ends the other.
// An error of the second one never ends the first. hedged.n is nil when one attempt was enough or nobody else would do.
func (c *call) race(ctx context.Context, n *node, request *frame.Frame) (first, hedged attempted) {
	firstCtx, endFirst := context.WithCancelCause(ctx)
	defer endFirst(nil)
	hedgeCtx, endHedge := context.WithCancelCause(ctx)
	defer endHedge(nil)
	timeout := c.attemptTimeout(ctx, n) // before the hedge may count as another attempt
	over := make(chan struct{})
	timer := time.AfterFunc(max(n.region.Late(), c.f.config.HedgeFloor), func() {
		defer close(over)
		if hedged.n = c.hedge(hedgeCtx, n); hedged.n == nil {
			return
		}
		hedged.answer, hedged.r = c.invoke(hedgeCtx, hedged.n, request, c.attemptTimeout(hedgeCtx, hedged.n))
		if hedged.r.err == nil {
			endFirst(errOutrun)
		}
	})
	first.n = n
	first.answer, first.r = c.invoke(firstCtx, n, request, timeout)
	if timer.Stop() {
		return first, attempted{}
	}
	if !first.r.retry { // it was answered, or nobody else can help
		endHedge(errNotNeeded)
	}
	<-over // and so hedged and the decision are ours again
	if hedged.n != nil {
		c.f.metrics.hedges.WithLabelValues(outcome(first, hedged)).Inc()
	}
	return first, hedged
}

// hedge chooses where the second attempt goes; nil: there is none.
func (c *call) hedge(ctx context.Context, late *node) *node {
	if c.f.deps.Measured.Snapshot().Utilisation() > hedgesUntil {
		c.f.metrics.hedges.WithLabelValues("closed").Inc()
		return nil
	}
	if !c.f.hedges.take() {
		c.f.metrics.hedges.WithLabelValues("over_budget").Inc()
		return nil
	}
	before := len(c.decision.Attempts)
	c.request.Hedging = late.region.Name
	n := c.choose(ctx)
	c.request.Hedging = ""
	if n == nil { // not worth a line of the decision: nothing came of it
		c.decision.Attempts = c.decision.Attempts[:before]
		c.f.metrics.hedges.WithLabelValues("nobody").Inc()
		c.f.hedges.add(1)
	}
	return n
}

// outcome is how a race ended, in the words of the metrics.
func outcome(first, hedged attempted) string {
	switch {
	case first.r.err == nil:
		return "lost"
	case hedged.r.err == nil:
		return "won"
	default:
		return "failed"
	}
}

package node

import (
	"context"
	"errors"
	"sync"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// workAgain is when work that failed is tried again. At half, a printer without paper is asked twice as often; at double, a
// parcel misses the carrier.
const workAgain = time.Second

// work packs and sends, up to Parallel parcels at the same time, until ctx ends.
func (n *Node) work(ctx context.Context) error {
	for ctx.Err() == nil {
		todo, err := n.inbox.toDo(ctx, n.cfg.Parallel)
		if err == nil && len(todo) == 0 {
			select {
			case <-ctx.Done():
			case <-n.pokeDo:
			}
			continue
		}
		if err == nil {
			err = n.workOn(ctx, todo)
		}
		poke(n.pokeSay)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop: what it was doing is in the inbox
		case errors.Is(err, sqldb.ErrBroken):
			return err
		case err != nil:
			n.deps.Log.ErrorContext(ctx, "work failed, and is tried again", "error", err)
			pause(ctx, workAgain)
		}
	}
	return nil
}

// workOn takes each of the entries one step further.
func (n *Node) workOn(ctx context.Context, todo []entry) error {
	problems := make([]error, len(todo))
	var hands sync.WaitGroup
	for i, e := range todo {
		hands.Go(func() { problems[i] = n.workOnOne(ctx, e) })
	}
	hands.Wait()
	return errors.Join(problems...)
}

func (n *Node) workOnOne(ctx context.Context, e entry) error {
	old := e
	if e.state == cleared {
		ctx, span := n.deps.Traces.Resume(ctx, e.trace, "node.send")
		defer span.End()
		if err := n.deps.Packer.Send(ctx, e.labelled()); err != nil {
			return err
		}
		e.state, e.gone = shipped, true
		return n.inbox.advance(ctx, old, e)
	}
	ctx, span := n.deps.Traces.Resume(ctx, e.trace, "node.pack")
	defer span.End()
	tracking, err := n.pack(ctx, e)
	no := (*RefusedError)(nil)
	switch {
	case errors.As(err, &no):
		e.state, e.reason = refused, no.Reason
	case err != nil:
		return err
	default:
		e.state, e.Tracking = packed, tracking
	}
	if e.state == packed && mutant.On(mutant.SentUncleared) {
		if err := n.deps.Packer.Send(ctx, e.labelled()); err != nil {
			return err
		}
	}
	return n.inbox.advance(ctx, old, e)
}

// pack lets the packer read where the parcel goes, and nobody else.
func (n *Node) pack(ctx context.Context, e entry) (tracking string, err error) {
	p := e.Parcel
	if p.Details, err = n.open(e.Details, e.drop, e.purchase); err != nil { // it opened when it came: its key is gone since
		n.deps.Log.ErrorContext(ctx, "an accepted order's delivery details do not open any more", "order_id", e.OrderID, "error", err)
		return "", &RefusedError{fulfillmentv1.RejectReason_REJECT_REASON_UNDELIVERABLE}
	}
	return n.deps.Packer.Pack(ctx, p)
}

// labelled is the parcel as the carrier gets it: its label says where to.
func (e entry) labelled() Parcel {
	p := e.Parcel
	p.Details = nil
	return p
}

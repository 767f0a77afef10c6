package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// reconnectDelay is the pause before a broken stream is taken up again.
const reconnectDelay = 300 * time.Millisecond

// dropWatch follows WatchDrops over as many streams as it takes.
type dropWatch struct {
	offers  offerv1.OfferServiceClient
	channel string
	resume  string
}

// run hands every message to fn until fn or the context ends it, or the server refuses.
func (d *dropWatch) run(ctx context.Context, fn func(*offerv1.WatchDropsResponse) error) error {
	for answered := false; ; {
		err := d.once(ctx, func(m *offerv1.WatchDropsResponse) error {
			answered = true
			return fn(m)
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted: that is how watching ends
		}
		if _, again := rpcerr.Retry(err); !errors.Is(err, io.EOF) && (!again || !answered) {
			return err // a platform that never answered is unreachable, one that did comes back
		}
		select {
		case <-time.After(reconnectDelay):
		case <-ctx.Done():
		}
	}
}

func (d *dropWatch) once(ctx context.Context, fn func(*offerv1.WatchDropsResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.offers.WatchDrops(ctx, &offerv1.WatchDropsRequest{
		Hints: &offerv1.RoutingHints{}, ChannelId: d.channel, ResumeToken: d.resume,
	})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		d.resume = m.GetResumeToken()
		if err := fn(m); err != nil {
			return err
		}
	}
}

// errFound ends a watch that has seen what it waited for.
var errFound = errors.New("found")

// goods are the kinds that somebody wants to buy.
type goods struct{ digital, parcels bool }

func (g goods) want(d *offerv1.Drop) bool {
	return d.GetPhysical() && g.parcels || !d.GetPhysical() && g.digital
}

// nextOpen waits for an open drop with something left, of the kinds that are wanted; or for the one with the given id.
func nextOpen(ctx context.Context, offers offerv1.OfferServiceClient, channel, id string, kinds goods, waiting func(next *offerv1.Drop)) (*offerv1.Drop, error) {
	watch := dropWatch{offers: offers, channel: channel}
	known := map[string]*offerv1.Drop{}
	var found *offerv1.Drop
	err := watch.run(ctx, func(m *offerv1.WatchDropsResponse) error {
		for _, d := range m.GetSnapshot().GetDrops() {
			known[d.GetDropId()] = d
		}
		if d := m.GetChanged(); d != nil {
			known[d.GetDropId()] = d
		}
		var next *offerv1.Drop
		for _, d := range known {
			switch {
			case id != "" && d.GetDropId() != id, id == "" && !kinds.want(d):
			case id != "" && d.GetState() >= offerv1.DropState_DROP_STATE_DRAINING:
				return refusal{fmt.Sprintf("DROP_NOT_OPEN: %q is %s", d.GetTitle(), short(d.GetState(), "DROP_STATE_"))}
			case d.GetState() == offerv1.DropState_DROP_STATE_OPEN && d.GetPhysical() && len(d.GetDeliveryKeys()) == 0:
				next = d // nobody is known yet who could send it
			case d.GetState() == offerv1.DropState_DROP_STATE_OPEN && (id != "" || d.GetAvailability() != offerv1.Availability_AVAILABILITY_SOLD_OUT):
				found = d
				return errFound
			case d.GetState() == offerv1.DropState_DROP_STATE_PAUSED && next == nil:
				next = d
			case d.GetState() < offerv1.DropState_DROP_STATE_OPEN && (next == nil || next.GetState() == offerv1.DropState_DROP_STATE_PAUSED || d.GetOpenTime().AsTime().Before(next.GetOpenTime().AsTime())):
				next = d
			}
		}
		waiting(next)
		return nil
	})
	if errors.Is(err, errFound) {
		return found, nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return nil, err
}

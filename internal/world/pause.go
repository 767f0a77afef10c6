package world

import (
	"context"
	"fmt"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// PauseWithin is how soon after the shop's command no region accepts a purchase any more, where nothing is cut.
const PauseWithin = 2 * time.Second

// Pause is a time in which the shop held a drop: from the command to the command that let it go on.
type Pause struct {
	Drop     string
	From, To time.Duration
}

// pauseDrops holds every drop that can be held, and lets it go on.
func (w *world) pauseDrops(ctx context.Context, f Fault) {
	catalogue := fulfillmentv1.NewCatalogServiceClient(w.net.Conn("operator", "fulfillment"))
	held := map[string]time.Duration{}
	for i, drop := range w.drops {
		at := time.Since(w.start)
		if _, err := catalogue.ChangeDrop(ctx, &fulfillmentv1.ChangeDropRequest{
			RequestId: fmt.Sprintf("pause-%d-%v", i, f.At), DropId: drop, Reason: "a test",
			Change: &fulfillmentv1.ChangeDropRequest_Pause{Pause: &fulfillmentv1.PauseDrop{}},
		}); err == nil { // else it is over, or fulfillment is away
			held[drop] = at
		}
	}
	w.sleepUntil(ctx, f.At+f.For)
	for i, drop := range w.drops {
		from, ok := held[drop]
		if !ok {
			continue
		}
		w.watch.pause(Pause{Drop: drop, From: from, To: time.Since(w.start)})
		if _, err := catalogue.ChangeDrop(ctx, &fulfillmentv1.ChangeDropRequest{
			RequestId: fmt.Sprintf("resume-%d-%v", i, f.At), DropId: drop, Reason: "a test",
			Change: &fulfillmentv1.ChangeDropRequest_Resume{Resume: &fulfillmentv1.ResumeDrop{}},
		}); err != nil && ctx.Err() == nil {
			w.watch.surprise("resuming a drop: %v", err)
		}
	}
}

func (w *witness) pause(p Pause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pauses = append(w.pauses, p)
}

// pausedSellsNothing holds every journal to the shop's word, whatever viewers were answered.
func pausedSellsNothing(e *Evidence, x *index, broken func(string, ...any)) {
	for _, p := range e.Pauses {
		for _, r := range x.receipts {
			if at := r.accepted.Sub(e.Began); r.drop == p.Drop && at > p.From+PauseWithin && at < p.To {
				broken("unit %d was sold %v after its drop was paused", r.serial, at-p.From)
			}
		}
	}
}

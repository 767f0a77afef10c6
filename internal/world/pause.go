package world

import (
	"context"
	"fmt"
	"slices"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// PauseWithin is how soon after the shop's command no region accepts a purchase any more, where nothing is cut.
const PauseWithin = 2 * time.Second

// Pause is a time in which the shop held a drop: from the command to the command that let it go on.
type Pause struct {
	Drop     string
	From, To time.Duration
}

// pauseDrops holds every drop that can be held, and lets it go on. Commands are given until they are answered: one that
// waits for fulfillment to come back is the first that it hears, before any reader of the catalogue is there again.
func (w *world) pauseDrops(ctx context.Context, f Fault) {
	held := map[string]time.Duration{}
	for i, drop := range w.drops {
		at := time.Since(w.start)
		if w.changeDrop(ctx, &fulfillmentv1.ChangeDropRequest{
			RequestId: fmt.Sprintf("pause-%d-%v", i, f.At), DropId: drop, Reason: "a test",
			Change: &fulfillmentv1.ChangeDropRequest_Pause{Pause: &fulfillmentv1.PauseDrop{}},
		}) {
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
		w.changeDrop(ctx, &fulfillmentv1.ChangeDropRequest{
			RequestId: fmt.Sprintf("resume-%d-%v", i, f.At), DropId: drop, Reason: "a test",
			Change: &fulfillmentv1.ChangeDropRequest_Resume{Resume: &fulfillmentv1.ResumeDrop{}},
		})
	}
}

// changeDrop asks until it is answered; false: the drop's time is over, or the world's.
func (w *world) changeDrop(ctx context.Context, request *fulfillmentv1.ChangeDropRequest) bool {
	catalogue := fulfillmentv1.NewCatalogServiceClient(w.net.Conn("operator", "fulfillment"))
	for {
		call, cancel := context.WithTimeout(ctx, tryTimeout)
		_, err := catalogue.ChangeDrop(call, request)
		cancel()
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil || rpcerr.Reason(err) == errorsv1.Reason_REASON_DROP_CHANGE_REFUSED:
			return false
		case !elsewhere(err):
			w.watch.surprise("changing a drop: %v", err)
			return false
		case !sleep(ctx, askAgain):
			return false
		}
	}
}

// askAgain is sooner than a reader of the catalogue comes back.
const askAgain = 100 * time.Millisecond

func (w *witness) pause(p Pause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pauses = append(w.pauses, p)
}

// pausedSellsNothing holds every journal to the shop's word, whatever viewers were answered. A node that cannot hear it
// goes on, so there is nothing to hold it to where there are other faults.
func pausedSellsNothing(e *Evidence, x *index, broken func(string, ...any)) {
	if slices.ContainsFunc(e.Config.Schedule, func(f Fault) bool { return f.Kind != Paused }) {
		return
	}
	for _, p := range e.Pauses {
		for _, r := range x.receipts {
			if at := r.accepted.Sub(e.Began); r.drop == p.Drop && at > p.From+PauseWithin && at < p.To {
				broken("unit %d was sold %v after its drop was paused", r.serial, at-p.From)
			}
		}
	}
}

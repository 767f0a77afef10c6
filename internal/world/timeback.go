package world

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
)

// mostBack is dropclock.MostBack, said once more: the law must not believe what it judges.
func mostBack(planned time.Duration) time.Duration { return min(30*time.Second, planned/4) }

// slipDrops makes the scenario one of a drop with enough for those who come in extra time.
func (c *Config) slipDrops() {
	r := c.draws("late answers", 0)
	c.Drops = []Drop{{Title: "slipped", Units: 30 + r.IntN(10), Viewers: 40, Opens: 13 * time.Second, Lasts: 40 * time.Second}}
	c.Abandon = 0.2
	c.Schedule = append(c.Schedule, Fault{
		Kind: LateAnswers, At: 15*time.Second + time.Duration(r.Int64N(int64(20*time.Second))), For: 10 * time.Second,
		By: time.Duration(r.Int64N(int64(20 * time.Second))),
	})
}

// slips tells scenarios in which drops may close later than planned.
func (c Config) slips() bool {
	for _, f := range c.Schedule {
		if f.Kind == LateAnswers {
			return true
		}
	}
	return false
}

// comeLate lets a third of the viewers come when the drop would be closed if nothing were given back. Nobody counts on
// their buying.
func (c Config) comeLate(v *viewerPlan) {
	if r := c.draws("comes late", v.Number); c.slips() && r.IntN(3) == 0 {
		d := c.Drops[v.Drop]
		v.Arrives = d.Opens + d.Lasts + time.Duration(r.Int64N(int64(mostBack(d.Lasts)+2*time.Second)))
		v.overtime = true
	}
}

// reportDelays is a router's part: each second it tells fulfillment how much of every drop's window was lost so far, By
// in the end. What is not heard is said again with the next.
func (w *world) reportDelays(ctx context.Context, f Fault) {
	catalogue := fulfillmentv1.NewCatalogServiceClient(w.net.Conn("router", "fulfillment"))
	for passed := time.Second; passed <= f.For && w.sleepUntil(ctx, f.At+passed); passed += time.Second {
		lost := time.Duration(float64(f.By) * float64(passed) / float64(f.For))
		for _, drop := range w.drops {
			call, cancel := context.WithTimeout(ctx, tryTimeout)
			_, err := catalogue.ReportDelay(call, &fulfillmentv1.ReportDelayRequest{
				DropId: drop, Delay: durationpb.New(lost), Cause: "network", SlipId: fmt.Sprintf("router-%v", f.At),
			})
			cancel()
			if err != nil && !elsewhere(err) && ctx.Err() == nil {
				w.watch.surprise("reporting a delay: %v", err)
			}
		}
	}
}

// Closing is when a drop closes, as fulfillment has it.
type Closing struct {
	Planned, Granted time.Time
}

func (w *world) readClosings(ctx context.Context, e *Evidence) error {
	type row struct {
		drop          string
		closing, back int64
	}
	var all []row
	err := rows(ctx, w.centre.stockDB, &all, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.drop, &r.closing, &r.back)
	}, `SELECT LOWER(HEX(drop_id)), close_time_us, time_back_us FROM drops`)
	e.Closings = map[string]Closing{}
	for _, r := range all {
		id, _ := hex.DecodeString(r.drop) // HEX wrote it
		e.Closings[ids.Text(id)] = Closing{Planned: time.UnixMicro(r.closing - r.back), Granted: time.UnixMicro(r.closing)}
	}
	return err
}

// timeBackIsGranted holds fulfillment to the cap, and every sale to a signed word: an offer that was made after the planned
// close carries one, by which it was in time. A node opens and closes on its own clock.
func timeBackIsGranted(e *Evidence, x *index, broken func(string, ...any)) {
	for id, c := range e.Closings {
		if back, most := c.Granted.Sub(c.Planned), mostBack(e.Config.Drops[x.drops[id]].Lasts); back < 0 || back > most {
			broken("drop %d closes %v later than planned, where it is %v at most", x.drops[id], back, most)
		}
	}
	for text, r := range x.receipts {
		d := e.Config.Drops[x.drops[r.drop]]
		planned := e.Began.Add(d.Opens + d.Lasts)
		switch late := r.offered.Sub(planned); {
		case r.closes.IsZero() && late >= dropclock.Grace:
			broken("purchase %s was offered %v after the close of drop %d, and its receipt %.12s... has no word for it", r.purchase, late, x.drops[r.drop], text)
		case !r.closes.IsZero() && (!r.offered.Before(r.closes) || r.closes.Sub(planned) > mostBack(d.Lasts)):
			broken("purchase %s was offered %v after the planned close of drop %d, by a word that it closes %v later", r.purchase, late, x.drops[r.drop], r.closes.Sub(planned))
		}
	}
}

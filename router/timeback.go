package router

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/router/slo"
)

// TimeBack is who decides what viewers get back of a drop's window; fulfillment's CatalogServiceClient is one.
type TimeBack interface {
	ReportDelay(context.Context, *fulfillmentv1.ReportDelayRequest, ...grpc.CallOption) (*fulfillmentv1.ReportDelayResponse, error)
}

const (
	// reportWithin bounds one report; the next one says all that it said.
	reportWithin = 2 * time.Second
	// reportTries is how often a report is tried that nothing newer replaces, a second apart: longer than a slip's end is
	// news, shorter than a drop.
	reportTries = 10
)

// delays reports what late answers cost a drop's viewers, in a lane of its own: a centre that hangs holds nobody up. Only
// the newest report of a drop waits, and at most as many drops as there are windows.
type delays struct {
	to      TimeBack
	log     *slog.Logger
	reports *prometheus.CounterVec

	mu      sync.Mutex
	waiting map[string]*delayReport // by drop
	poked   chan struct{}           // of one
}

type delayReport struct {
	request *fulfillmentv1.ReportDelayRequest
	tries   int
}

func newDelays(deps Deps) *delays {
	return &delays{
		to: deps.TimeBack, log: deps.Log, waiting: map[string]*delayReport{}, poked: make(chan struct{}, 1),
		reports: promauto.With(deps.Metrics).NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_delay_reports_total",
			Help: "Reports to fulfillment of what late answers cost a drop's viewers, by what became of them: taken, failed.",
		}, []string{"result"}),
	}
}

// tell puts a report in place of the drop's older one. It never blocks.
func (d *delays) tell(l slo.Loss, slipID string) {
	if d.to == nil {
		return
	}
	d.mu.Lock()
	d.waiting[l.Drop] = &delayReport{request: &fulfillmentv1.ReportDelayRequest{
		DropId: l.Drop, Delay: durationpb.New(l.Total), Cause: l.Slip.Cause.String(), SlipId: slipID,
	}}
	d.mu.Unlock()
	select {
	case d.poked <- struct{}{}:
	default:
	}
}

// run reports until the context ends. What waits then is lost: other routers measured the same.
func (d *delays) run(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if d.reportAll(ctx) {
			again = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.poked:
		case <-again:
		}
	}
}

// reportAll tries every report that waits, once, and tells whether any is left.
func (d *delays) reportAll(ctx context.Context) (left bool) {
	d.mu.Lock()
	all := d.waiting
	d.waiting = map[string]*delayReport{}
	d.mu.Unlock()
	for drop, r := range all {
		call, cancel := context.WithTimeout(ctx, reportWithin)
		answer, err := d.to.ReportDelay(call, r.request)
		cancel()
		if err == nil {
			d.reports.WithLabelValues("taken").Inc()
			d.log.Info("late answers were reported", slog.String("drop_id", drop), slog.Int64("delay_ms", r.request.GetDelay().AsDuration().Milliseconds()),
				slog.Int64("time_back_ms", answer.GetExtra().AsDuration().Milliseconds()), slog.String("limit", answer.GetLimit()))
			continue
		}
		if ctx.Err() != nil {
			return false
		}
		r.tries++
		if r.tries == 1 || r.tries == reportTries {
			d.log.Warn("late answers could not be reported: their viewers get no time back", slog.String("drop_id", drop),
				slog.Int("tries", r.tries), slog.Any("error", err))
		}
		d.reports.WithLabelValues("failed").Inc()
		d.mu.Lock()
		if d.waiting[drop] == nil && r.tries < reportTries {
			d.waiting[drop] = r
		}
		left = left || d.waiting[drop] != nil
		d.mu.Unlock()
	}
	return left
}

package router

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/protobuf/encoding/protojson"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/webhook"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
	"github.com/rimlight/rimlight/router/slo"
)

// judgeInterval is how often a router asks its peers for their counts and judges the sum: an alert comes at most so much,
// and a question's time, after the window is full of late calls. Docs: decision 0010.
const judgeInterval = time.Second

// watcher counts this router's calls and judges the fleet's.
type watcher struct {
	config  slo.Config
	base    time.Time // of the steady clock
	windows *slo.Windows
	judge   *slo.Judge // the loop's alone
	lost    *slo.Lost  // the loop's alone
	metrics sloMetrics
}

type sloMetrics struct {
	late   *prometheus.CounterVec
	slips  *prometheus.CounterVec
	active *prometheus.GaugeVec
}

func newWatcher(config slo.Config, registerer prometheus.Registerer) *watcher {
	f := promauto.With(registerer)
	w := &watcher{
		config: config.WithDefaults(), base: time.Now(), windows: slo.NewWindows(), judge: slo.NewJudge(config), lost: slo.NewLost(config),
		metrics: sloMetrics{
			late: f.NewCounterVec(prometheus.CounterOpts{
				Name: "rimlight_router_late_calls_total", Help: "Calls that took longer than their objective or were failed by the platform.",
			}, []string{"method"}),
			slips: f.NewCounterVec(prometheus.CounterOpts{
				Name: "rimlight_router_slips_total", Help: "Slips that began: too many of the fleet's calls were late.",
			}, []string{"scope", "rule", "cause"}),
			active: f.NewGaugeVec(prometheus.GaugeOpts{
				Name: "rimlight_router_slips_active", Help: "Slips that last.",
			}, []string{"scope", "rule"}),
		},
	}
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "rimlight_router_slo_overflow_total", Help: "Calls that were not counted in a window for want of room.",
	}, func() float64 { return float64(w.windows.Overflow()) })
	return w
}

func (w *watcher) now() time.Duration { return time.Since(w.base) }

// record counts one finished call: for its viewer's flow and drop, and each attempt for its region.
func (w *watcher) record(d *forward.Decision) {
	if len(d.Attempts) == 0 {
		return // it came with too little time left: nothing was tried
	}
	objective := w.config.Of(d.Flow)
	var room [6]slo.Sample
	samples := room[:0]
	cause, longest := slo.NoRegion, time.Duration(-1)
	for i := range d.Attempts {
		a := &d.Attempts[i]
		if a.Choice.Region == nil {
			continue
		}
		took := a.Duration
		if d.Ours < d.Total { // a forwarded service's stream: its caller took the rest
			took = min(took, d.Ours)
		}
		s, counted := attemptSample(a, took, objective)
		if took > longest {
			longest, cause = took, s.Cause
		}
		if counted {
			samples = append(samples, s)
		}
	}
	late := d.Failed() || d.Ours > objective
	if late {
		w.metrics.late.WithLabelValues(d.Flow).Inc()
	}
	samples = append(samples, slo.Sample{Key: slo.Key{Scope: slo.Flow, Name: d.Flow}, Took: d.Ours, Late: late, Cause: cause})
	if d.Drop != "" {
		samples = append(samples, slo.Sample{Key: slo.Key{Scope: slo.Drop, Name: d.Drop}, Took: d.Ours, Late: late, Cause: cause})
	}
	w.windows.Record(w.now(), d.ID, samples...)
}

// attemptSample is what an attempt says about its region. One that another region had to make good for is late, whenever
// that one answered. A caller who goes away early says nothing.
func attemptSample(a *forward.Attempt, took, objective time.Duration) (s slo.Sample, counted bool) {
	s = slo.Sample{Key: slo.Key{Scope: slo.Region, Name: a.Choice.Region.Name}, Took: took, Late: true}
	switch a.Verdict {
	case measure.Good:
		s.Late, s.Cause = took > objective, longestPart(a, took)
	case measure.Failed:
		s.Cause = slo.Service
	case measure.Shed:
		s.Cause = slo.Queue
	case measure.Ignored:
		s.Cause = slo.Unknown
		return s, took > objective
	default:
		s.Cause = slo.Unknown
	}
	return s, true
}

// longestPart is what an answered attempt spent most of its time with.
func longestPart(a *forward.Attempt, took time.Duration) slo.Cause {
	if a.Residence <= 0 {
		return slo.Unknown
	}
	inside := min(a.Residence, took)
	network, service := took-inside, min(a.Service, inside)
	queue := inside - service
	switch {
	case network >= service && network >= queue:
		return slo.Network
	case queue > service:
		return slo.Queue
	default:
		return slo.Service
	}
}

// counts are this router's windows. Calls without an answer are blamed on the network where the probes fail, too.
func (r *Router) counts() []slo.Count {
	list := r.slo.windows.Counts(r.slo.now())
	answers := map[string]bool{}
	for _, s := range r.table.States() {
		answers[s.Target.Region] = answers[s.Target.Region] || s.Row.Reachable && s.LastError == ""
	}
	cut := false // some region whose calls had no answer does not answer probes
	for i := range list {
		if c := &list[i]; c.Key.Scope == slo.Region {
			cut = cut || c.Sliding.Causes[slo.Unknown] > 0 && !answers[c.Key.Name]
			c.Sliding = c.Sliding.Resolve(answers[c.Key.Name])
		}
	}
	for i := range list {
		if c := &list[i]; c.Key.Scope != slo.Region {
			c.Sliding, c.Whole = c.Sliding.Resolve(!cut), c.Whole.Resolve(!cut)
		}
	}
	return list
}

// watchSLO judges the fleet's calls until the context ends.
func (r *Router) watchSLO(ctx context.Context) error {
	ticker := time.NewTicker(judgeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			r.judgeFleet(ctx)
		}
	}
}

func (r *Router) judgeFleet(ctx context.Context) {
	views, silent := askPeers(ctx, r, func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.GetWindowsResponse, error) {
		return c.GetWindows(ctx, &routerv1.GetWindowsRequest{})
	})
	if ctx.Err() != nil {
		return
	}
	routers := [][]slo.Count{r.counts()}
	for _, v := range views {
		routers = append(routers, countsOf(v.GetWindows()))
	}
	fleet, left := slo.Sum(routers...)
	if left > 0 {
		r.deps.Log.Warn("the peers count more windows than are judged", slog.Int("left_out", left))
	}
	changes := r.slo.judge.Evaluate(r.slo.now(), r.deps.Now(), fleet, silent)
	losses := r.slo.lost.Add(r.slo.now(), r.slo.judge.Active(), routers...)
	for _, l := range losses {
		if !slices.ContainsFunc(changes, func(s slo.Slip) bool { return s.Number == l.Slip.Number }) {
			changes = append(changes, l.Slip) // what it cost is news
		}
	}
	for _, change := range r.slips.take(changes, fleet, silent, r.slipProto) {
		r.announce(change)
	}
	r.slips.refresh(r.slo.judge.Active())
	for _, l := range losses {
		r.delays.tell(l, r.slips.id(l.Slip.Number))
	}
	active := map[[2]string]int{}
	for _, s := range r.slo.judge.Active() {
		active[[2]string{s.Key.Scope.String(), s.Rule.String()}]++
	}
	r.slo.metrics.active.Reset()
	for labels, n := range active {
		r.slo.metrics.active.WithLabelValues(labels[:]...).Set(float64(n))
	}
}

// announce tells operators of a slip that began or ended.
func (r *Router) announce(c slipChange) {
	if !c.began && !c.slip.Ended() {
		return
	}
	attrs := []any{
		slog.String("slip", c.message.GetSlipId()), slog.String("scope", c.slip.Key.Scope.String()), slog.String("name", c.slip.Key.Name),
		slog.String("rule", c.slip.Rule.String()), slog.String("cause", c.slip.Cause.String()),
		slog.Float64("share_before", c.slip.Before), slog.Float64("worst_share", c.slip.Worst), slog.Int64("late_calls", c.slip.Late),
	}
	r.tellHooks(c)
	if c.began {
		r.slo.metrics.slips.WithLabelValues(c.slip.Key.Scope.String(), c.slip.Rule.String(), c.slip.Cause.String()).Inc()
		r.deps.Log.Warn("slip began: too many calls are late", attrs...)
		return
	}
	r.deps.Log.Warn("slip ended", append(attrs, slog.Float64("share_after", c.slip.After))...)
}

// tellHooks sends a slip as {"type", "timestamp", "data"}, as Standard Webhooks recommends. The id is of the slip and what
// happened to it, so that a receiver can drop repetitions.
func (r *Router) tellHooks(c slipChange) {
	data, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(c.message)
	if err != nil {
		r.deps.Log.Error("a slip could not be encoded", slog.Any("error", err))
		return
	}
	kind, at := "began", c.slip.Start
	if c.slip.Ended() {
		kind, at = "ended", c.slip.End
	}
	body, err := json.Marshal(struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}{"slip." + kind, at.UTC(), data})
	if err != nil {
		r.deps.Log.Error("a slip could not be encoded", slog.Any("error", err))
		return
	}
	_, id, _ := strings.Cut(c.message.GetSlipId(), "/")
	r.hooks.Send(webhook.Event{ID: "slip_" + id + "_" + kind, Body: body})
}

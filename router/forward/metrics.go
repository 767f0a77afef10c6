package forward

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/router/arbiter"
)

type metrics struct {
	off        bool // nobody reads them: what every call would count is not counted
	calls      *prometheus.CounterVec
	answer     *prometheus.HistogramVec
	choices    map[arbiter.Regime]prometheus.Counter
	flows      map[string]flowMetrics // by label
	retries    *prometheus.CounterVec
	withheld   *prometheus.CounterVec
	hedges     *prometheus.CounterVec
	wrong      *prometheus.CounterVec
	probeBytes *prometheus.CounterVec
}

// flowMetrics are the series that nearly every call of a flow counts in. They are looked up once and not per call: a
// router's calls are short.
type flowMetrics struct {
	ok     prometheus.Counter
	answer prometheus.Observer
}

// newMetrics registers the series. labels are all that calls will be counted under.
func newMetrics(registerer prometheus.Registerer, labels []string) metrics {
	f := promauto.With(registerer)
	choices := f.NewCounterVec(prometheus.CounterOpts{
		Name: "rimlight_router_choices_total", Help: "Choices by regime.",
	}, []string{"regime"})
	m := metrics{
		off: registerer == nil,
		calls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_calls_total", Help: "Arbitrated calls by OfferService method or forwarded service, and code.",
		}, []string{"method", "code"}),
		answer: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rimlight_router_answer_seconds", Help: "Arrival to answer, or to a stream's first message.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .3, .5, 1, 2, 5},
		}, []string{"method"}),
		choices: map[arbiter.Regime]prometheus.Counter{}, flows: map[string]flowMetrics{},
		retries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_retries_total", Help: "Attempts at another region by the reason of the failure before.",
		}, []string{"reason"}),
		withheld: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_retries_withheld_total",
			Help: "Attempts at another region that the budget did not allow, by the reason of the failure before.",
		}, []string{"reason"}),
		wrong: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_wrong_ejections_total",
			Help: "Ejections of nodes whose probes were good and idle all the while, and whose first call afterwards went well.",
		}, []string{"region"}),
		probeBytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_probe_bytes_total", Help: "Bytes of probe messages, without framing and headers (sent, received).",
		}, []string{"region", "direction"}),
		hedges: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_hedges_total",
			Help: "Late answers by what was done: asked elsewhere (won, lost, failed), or not (closed, over_budget, nobody).",
		}, []string{"result"}),
	}
	for regime := range arbiter.Regimes {
		m.choices[regime] = choices.WithLabelValues(regime.String())
	}
	for _, label := range labels {
		m.flows[label] = flowMetrics{ok: m.calls.WithLabelValues(label, codes.OK.String()), answer: m.answer.WithLabelValues(label)}
	}
	return m
}

// observed counts a call. Its label is bounded: a method of ours, or a service from the configuration.
func (f *Forwarder) observed(label string, call func() error) error {
	err := call()
	switch {
	case f.metrics.off:
	case err == nil:
		f.metrics.flows[label].ok.Inc()
	default:
		f.metrics.calls.WithLabelValues(label, status.Code(err).String()).Inc()
	}
	return err
}

func (f *Forwarder) answered(label string, total time.Duration) {
	if !f.metrics.off {
		f.metrics.flows[label].answer.Observe(total.Seconds())
	}
}

func (f *Forwarder) chosen(by arbiter.Regime) {
	if !f.metrics.off {
		f.metrics.choices[by].Inc()
	}
}

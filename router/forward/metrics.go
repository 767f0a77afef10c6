package forward

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/router/arbiter"
)

type metrics struct {
	off        bool // nobody reads them: what every call would count is not counted
	calls      *prometheus.CounterVec
	answer     *prometheus.HistogramVec
	choices    *prometheus.CounterVec
	retries    *prometheus.CounterVec
	withheld   *prometheus.CounterVec
	hedges     *prometheus.CounterVec
	wrong      *prometheus.CounterVec
	probeBytes *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) metrics {
	f := promauto.With(registerer)
	return metrics{
		off: registerer == nil,
		calls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_calls_total", Help: "Arbitrated calls by OfferService method or forwarded service, and code.",
		}, []string{"method", "code"}),
		answer: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rimlight_router_answer_seconds", Help: "Arrival to answer, or to a stream's first message.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .3, .5, 1, 2, 5},
		}, []string{"method"}),
		choices: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_choices_total", Help: "Choices by regime.",
		}, []string{"regime"}),
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
}

// observed counts a call. Its label is bounded: a method of ours, or a service from the configuration.
func (f *Forwarder) observed(label string, call func() error) error {
	err := call()
	if !f.metrics.off {
		f.metrics.calls.WithLabelValues(label, status.Code(err).String()).Inc()
	}
	return err
}

func (f *Forwarder) answered(label string, total time.Duration) {
	if !f.metrics.off {
		f.metrics.answer.WithLabelValues(label).Observe(total.Seconds())
	}
}

func (f *Forwarder) chosen(by arbiter.Regime) {
	if !f.metrics.off {
		f.metrics.choices.WithLabelValues(by.String()).Inc()
	}
}

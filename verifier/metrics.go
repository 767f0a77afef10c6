package verifier

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rimlight/rimlight/verifier/store"
)

type metrics struct {
	entries       *prometheus.CounterVec
	events        *prometheus.CounterVec
	jobs          *prometheus.CounterVec
	payments      *prometheus.CounterVec
	webhooks      *prometheus.CounterVec
	strangeOrders prometheus.Counter
	forgotten     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "rimlight", Subsystem: "verifier", Name: name, Help: help}, labels)
	}
	m := &metrics{
		entries:  counter("entries_total", "Redemptions taken in, by result: accepted, rejected, presented; cancelled before any came.", "result"),
		events:   counter("purchase_events_total", "Events of purchases, by the state that they tell of.", "state"),
		jobs:     counter("jobs_total", "Jobs worked on, by kind and result: done or failed.", "kind", "result"),
		payments: counter("payment_calls_total", "Calls to the payment provider, by call and result: ok, unknown, failed.", "call", "result"),
		webhooks: counter("webhook_attempts_total", "Events posted to webhooks, by result: delivered, failed, disabled after it.", "result"),
		strangeOrders: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "rimlight", Subsystem: "verifier", Name: "strange_orders_total",
			Help: "Orders reported by fulfillment that belong to no paid purchase.",
		}),
		forgotten: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "rimlight", Subsystem: "verifier", Name: "forgotten_rows_total",
			Help: "Rows of settled drops that were deleted after their time: cancelled tokens, instruments and their uses.",
		}),
	}
	return m, errors.Join(r.Register(m.forgotten), r.Register(m.entries), r.Register(m.events), r.Register(m.jobs), r.Register(m.payments), r.Register(m.strangeOrders), r.Register(m.webhooks))
}

func (m *metrics) countEvents(changed []store.Changed) {
	for _, c := range changed {
		m.events.WithLabelValues(c.State.String()).Inc()
	}
}

func (m *metrics) countJobs(kind store.Kind, n int, err error) {
	result := "done"
	if err != nil {
		result = "failed"
	}
	m.jobs.WithLabelValues(string(kind), result).Add(float64(n))
}

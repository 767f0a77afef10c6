package fulfillment

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are bounded by design: no label carries an id.
type metrics struct {
	granted   prometheus.Counter
	grants    *prometheus.CounterVec // by result: lease, nothing_free, sold_out, repeated
	returned  prometheus.Counter
	recalled  prometheus.Counter
	settled   *prometheus.CounterVec // by result: yes, no
	released  prometheus.Counter
	delivered prometheus.Histogram
	dead      prometheus.Counter
	shipped   prometheus.Counter
	refused   *prometheus.CounterVec // by reason
	nodes     prometheus.Gauge
	rounds    prometheus.Counter

	timeBack    prometheus.Counter
	quarantined prometheus.Counter
	closed      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "rimlight", Subsystem: "fulfillment", Name: name, Help: help})
	}
	byResult := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "rimlight", Subsystem: "fulfillment", Name: name, Help: help}, []string{"result"})
	}
	m := &metrics{
		granted:  counter("units_granted_total", "Units lent to nodes."),
		grants:   byResult("grants_total", "Answers to GrantLease."),
		returned: counter("units_returned_total", "Units that nodes gave back."),
		recalled: counter("units_recalled_total", "Units that nodes were asked to give back; a wish is repeated until it is met."),
		settled:  byResult("settles_total", "Claims of purchases on units, repeats included."),
		released: counter("units_released_total", "Units that the verifier freed."),
		delivered: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "rimlight", Subsystem: "fulfillment", Name: "order_delivery_seconds",
			Help: "From placing an order to its delivery.", Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}),
		dead:    counter("orders_dead_total", "Orders that no attempt could deliver."),
		shipped: counter("orders_shipped_total", "Orders whose parcel left."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "rimlight", Subsystem: "fulfillment", Name: "orders_refused_total", Help: "Orders that a node did not take, or gave up.",
		}, []string{"reason"}),
		nodes: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "rimlight", Subsystem: "fulfillment", Name: "working_nodes", Help: "Microfulfillment nodes that are connected.",
		}),
		rounds: counter("worker_failed_rounds_total", "Rounds of delivering or routing orders that a failure ended early."),

		timeBack:    counter("time_back_seconds_total", "By how much drops close later because answers to their viewers were late."),
		quarantined: counter("leases_quarantined_total", "Leases that were put aside."),
		closed:      counter("units_closed_total", "Units that closing a lease set free."),
	}
	var problems []error
	for _, c := range []prometheus.Collector{m.granted, m.grants, m.returned, m.recalled, m.settled, m.released, m.delivered, m.dead, m.shipped, m.refused, m.nodes, m.rounds, m.timeBack, m.quarantined, m.closed} {
		problems = append(problems, r.Register(c))
	}
	return m, errors.Join(problems...)
}

package region

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the node's collectors. No label comes from outside.
type metrics struct {
	offers, redemptions                  *prometheus.CounterVec
	leased, returned                     prometheus.Counter
	snapshots                            *prometheus.CounterVec
	stockErrors, forwardBreaks, rejected prometheus.Counter
}

func newMetrics(r prometheus.Registerer, n *Node) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"result"})
	}
	m := &metrics{
		offers:        vector("rimlight_region_offers_total", "Offers decided, by result: granted, not_open, sold_out, viewer_limit."),
		redemptions:   vector("rimlight_region_redemptions_total", "Redemptions, by result: accepted, repeated, no_unit, cancelled, shed, no_space."),
		leased:        counter("rimlight_region_leased_units_total", "Units that arrived in leases."),
		returned:      counter("rimlight_region_returned_units_total", "Units given back and acknowledged."),
		stockErrors:   counter("rimlight_region_stock_call_errors_total", "Calls to fulfillment's StockService that failed."),
		forwardBreaks: counter("rimlight_region_forward_breaks_total", "Forwarding streams that ended."),
		snapshots:     vector("rimlight_region_snapshots_total", "Snapshots, by result: saved, failed, ignored at a start that read the whole journal instead."),
		rejected:      counter("rimlight_region_rejected_redemptions_total", "Redemptions that the verifier called no genuine receipt."),
	}
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rimlight_region_journal_lag_redemptions", Help: "Redemptions that the verifier has not acknowledged.",
	}, func() float64 { return float64(n.till.lag()) })
	full := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rimlight_region_journal_full", Help: "1 while the disk is full and the node accepts nothing.",
	}, func() float64 {
		if n.room.full.Load() {
			return 1
		}
		return 0
	})
	var errs []error
	for _, c := range []prometheus.Collector{
		m.offers, m.redemptions, m.leased, m.returned, m.stockErrors, m.forwardBreaks, m.rejected, m.snapshots, lag, full,
	} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

package measure

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	off         bool // nobody reads them: what every call would count is not counted
	probes      *prometheus.CounterVec
	calls       *prometheus.CounterVec
	transitions *prometheus.CounterVec
	ejections   *prometheus.CounterVec
	suspicions  *prometheus.CounterVec
	nonsense    *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) metrics {
	f := promauto.With(registerer)
	return metrics{
		off: registerer == nil,
		probes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_probes_total", Help: "Probes of region nodes by result (good, failed).",
		}, []string{"region", "result"}),
		calls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_attempts_total",
			Help: "Forwarded attempts by what they say about the region (good, failed, broken, ignored, shed, outrun).",
		}, []string{"region", "verdict"}),
		transitions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_reachability_changes_total", Help: "Region nodes that became reachable or unreachable.",
		}, []string{"region", "to"}),
		ejections: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_ejections_total", Help: "Region nodes that were ejected because their calls failed.",
		}, []string{"region"}),
		suspicions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_suspicions_total", Help: "Region nodes that became suspect because an answer was overdue.",
		}, []string{"region"}),
		nonsense: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_nonsense_reports_total", Help: "Load reports with a figure out of its range, which was clamped.",
		}, []string{"region"}),
	}
}

// called counts a call. Its series is looked up once: this happens under the table's mutex.
func (m metrics) called(e *entry, v Verdict) {
	if m.off {
		return
	}
	if e.counted[v] == nil {
		e.counted[v] = m.calls.WithLabelValues(e.target.Region, v.String())
	}
	e.counted[v].Inc()
}

// count counts a change of state.
func (m metrics) count(region string, before, after state) {
	if after.reachable != before.reachable {
		m.transitions.WithLabelValues(region, transition(after.reachable)).Inc()
	}
	if after.ejected && !before.ejected {
		m.ejections.WithLabelValues(region).Inc()
	}
}

func transition(reachable bool) string {
	if reachable {
		return "reachable"
	}
	return "unreachable"
}

package measure

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	probes      *prometheus.CounterVec
	calls       *prometheus.CounterVec
	transitions *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) metrics {
	f := promauto.With(registerer)
	return metrics{
		probes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_probes_total", Help: "Probes of region nodes by result (good, failed).",
		}, []string{"region", "result"}),
		calls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_attempts_total",
			Help: "Forwarded attempts by what they say about the region (good, failed, broken, ignored).",
		}, []string{"region", "verdict"}),
		transitions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_router_reachability_changes_total", Help: "Region nodes that became reachable or unreachable.",
		}, []string{"region", "to"}),
	}
}

func transition(reachable bool) string {
	if reachable {
		return "reachable"
	}
	return "unreachable"
}

package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/sim"
)

// production is the policy that needs no stand-in.
const production = "rimlight"

// startRouter starts a router as `rimlight router` does, over the plan's links and with the job's policy.
func startRouter(ctx context.Context, j job, plan *sim.Plan, now *clock) (*service, error) {
	var policy forward.Policy
	if j.Policy != production {
		rival, err := newRival(plan, j.Policy, j.Index)
		if err != nil {
			return nil, err
		}
		policy = rival
	}
	metrics := prometheus.NewRegistry()
	p, err := process.StartRouter(ctx, process.Router{
		Common: process.Common{Listen: "127.0.0.1:0", Log: silent(), Metrics: metrics},
		Name:   "bench-" + plan.Origins[j.Index], AdminListen: "127.0.0.1:0", Regions: j.Regions, Policy: policy,
		DialTo: func(region string) process.Dialer {
			l := &link{plan: plan, router: j.Index, region: slices.Index(plan.Regions, region), now: now}
			return l.dialer()
		},
	})
	if err != nil {
		return nil, err
	}
	last := func() (s spent, err error) {
		families, err := metrics.Gather()
		if err != nil {
			return s, fmt.Errorf("reading the router's metrics: %w", err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				switch f.GetName() {
				case "rimlight_router_attempts_total":
					s.Attempts += int(m.GetCounter().GetValue())
				case "rimlight_router_probes_total":
					s.Probes += int(m.GetCounter().GetValue())
				}
			}
		}
		return s, nil
	}
	return &service{addr: p.Addr(), run: p.Run, ready: p.Ready(), last: last}, nil
}

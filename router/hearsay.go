package router

import (
	"context"
	"log/slog"
	"sync"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router/measure"
)

// hearTime is for how long after its start a router asks those that it meets: the ring is joined within seconds, and by then
// its own probes have told more. Half misses a slow join; double asks for what nobody needs.
const hearTime = 10 * time.Second

// hearPeers asks each other router once, early in this one's life, how far the regions are from there. It races the first
// probes and delays nothing.
func (r *Router) hearPeers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hearTime)
	defer cancel()
	var asking sync.WaitGroup
	defer asking.Wait()
	asked := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.met:
		}
		for _, p := range r.peerList() {
			if !asked[p.name] {
				asked[p.name] = true
				asking.Go(func() { r.hear(ctx, p) })
			}
		}
	}
}

// hear asks one router. A handshake in the time that it takes makes the way longer than it is, never shorter.
func (r *Router) hear(ctx context.Context, p peer) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	start := time.Now()
	answer, err := p.client.ListRegions(ctx, &routerv1.ListRegionsRequest{LocalOnly: true})
	way := time.Since(start)
	if err != nil {
		r.deps.Log.Debug("a router did not tell what it measured", slog.String("router", p.name), slog.Any("error", err))
		return
	}
	taken := r.table.Hear(way, told(answer.GetRegions()))
	r.deps.Log.Debug("heard what another router measured", slog.String("router", p.name), slog.Int("used_for_nodes", taken))
}

// told is what a router measured itself: of a region's nodes that answer it, the nearest one's figures.
func told(regions []*routerv1.RegionStatus) map[string]measure.Memory {
	known := map[string]measure.Memory{}
	for _, g := range regions {
		n := g.GetNetwork().AsDuration()
		if m, there := known[g.GetName()]; g.GetReachable() && n > 0 && (!there || n < m.Network) {
			known[g.GetName()] = measure.Memory{Network: n, Service: g.GetService().AsDuration()}
		}
	}
	return known
}

package world

import (
	"context"
	"sync"
	"time"
)

// causeFaults plays the plan's faults and returns when the last one is over and everything is up.
func (w *world) causeFaults(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, c := range w.plan.cuts {
		running.Go(func() {
			if !w.sleepUntil(ctx, c.At) {
				return
			}
			w.watch.fault("cut")
			w.net.Cut(c.From, c.To)
			w.sleepUntil(ctx, c.At+c.For)
			w.net.Heal(c.From, c.To) // the same pair's other cut, if there is one, ends with it
		})
	}
	for name, h := range w.hosts() {
		running.Go(func() {
			for _, o := range w.plan.outages {
				if o.Host == name && !w.suffer(ctx, h, o) {
					return
				}
			}
		})
	}
}

// suffer takes a host down and up again. false: it could not, or the world ends.
func (w *world) suffer(ctx context.Context, h *host, o Outage) bool {
	if !w.sleepUntil(ctx, o.At) {
		return false
	}
	kind := "stop of " + h.kind()
	if o.Crash {
		kind = "crash of " + h.kind()
	}
	w.watch.fault(kind)
	if err := h.down(o.Crash); err != nil {
		w.watch.surprise("stopping %s: %v", h.name, err)
	}
	if !w.sleepUntil(ctx, o.At+o.For) {
		return false
	}
	if err := h.start(); err != nil {
		w.watch.surprise("%v", err)
		return false
	}
	return true
}

func (h *host) kind() string {
	if h.name == "verifier" || h.name == "fulfillment" {
		return h.name
	}
	return "node"
}

// sleepUntil waits for a moment of the world's time; false when the world ends first.
func (w *world) sleepUntil(ctx context.Context, at time.Duration) bool {
	return sleep(ctx, time.Until(w.start.Add(at)))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package measure_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

func TestWhatIsRememberedServesUntilTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWorld{probes: map[string]int{}, nodes: map[string]fakeNode{
			"near": {path: 20 * ms, service: 2 * ms}, "moon": {path: 700 * ms, service: 2 * ms},
		}}
		table, err := measure.New(measure.Config{}, measure.Deps{
			Prober: w, Now: time.Now, Random: rand.New(rand.NewPCG(1, 2)), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		// It was another world: the moon was next door.
		table.Remember(map[string]measure.Memory{"near": {30 * ms, 5 * ms}, "moon": {ms, ms}, "gone": {ms, ms}})
		table.Set([]measure.Target{target("near"), target("moon")})
		if g := row(table, "near"); !g.Saved || g.Reachable || g.Network != 30*ms || g.Service != 5*ms {
			t.Errorf("at first: got %+v", g)
		}
		if c := arbiter.Pick(table.Snapshot(), arbiter.Request{}, 0); c.Regime != arbiter.Cold || c.Region.Name != "moon" {
			t.Errorf("at first: chose %v under %v", c.Region, c.Regime)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = table.Run(ctx) })
		defer running.Wait()
		defer cancel()
		time.Sleep(100 * ms)
		if g := row(table, "near"); g.Saved || g.Network != 20*ms || g.Service != 2*ms {
			t.Errorf("after its answer: got %+v", g)
		}
		if c := arbiter.Pick(table.Snapshot(), arbiter.Request{}, 0); c.Regime != arbiter.Normal || c.Region.Name != "near" {
			t.Errorf("after an answer: chose %v under %v", c.Region, c.Regime)
		}
		time.Sleep(time.Second) // a memory of 1 ms must not give up a probe of 700
		if g := row(table, "moon"); g.Saved || !g.Reachable || g.Network != 700*ms {
			t.Errorf("the moon: got %+v", g)
		}
		if known := table.Memories(); len(known) != 2 || known["near"] != (measure.Memory{Network: 20 * ms, Service: 2 * ms}) {
			t.Errorf("got %v", known)
		}

		second := target("near")
		second.Address = "another"
		table.Set([]measure.Target{target("near"), target("moon"), second})
		found := false
		for _, g := range table.Snapshot().Regions {
			found = found || g.Key == second.Key() && g.Saved && g.Network == 20*ms
		}
		if !found {
			t.Error("a region's second node does not begin with what is known of the first")
		}
	})
}

func TestWhatOthersMeasuredServesUntilTheFirstAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		time.Sleep(50 * ms) // near has answered
		told := map[string]measure.Memory{
			"near": {ms, ms}, "far": {60 * ms, 3 * ms}, "moon": {ms, 3 * ms}, "gone": {ms, ms},
		}
		if got := table.Hear(10*ms, told); got != 2 {
			t.Errorf("used for %d nodes, want 2: one has answered, one is nobody", got)
		}
		if got := table.Hear(-time.Second, told); got != 0 {
			t.Errorf("used for %d nodes although no way is shorter than none", got)
		}
		time.Sleep(20 * ms)
		if g := row(table, "near"); g.Saved || g.Network != 20*ms {
			t.Errorf("hearsay beat a measurement: %+v", g)
		}
		if g := row(table, "far"); !g.Saved || g.Reachable || g.Network != 70*ms || g.Service != 3*ms {
			t.Errorf("before its answer: got %+v", g)
		}
		time.Sleep(time.Second) // what was said of the moon must not give up its probe
		if g := row(table, "far"); g.Saved || g.Network != 80*ms {
			t.Errorf("after its answer: got %+v", g)
		}
		if g := row(table, "moon"); g.Saved || !g.Reachable || g.Network != 700*ms || w.count("moon") > 2 {
			t.Errorf("the moon, after %d probes: got %+v", w.count("moon"), g)
		}
	}, func(w *fakeWorld) { w.change("moon", func(n *fakeNode) { n.path = 700 * ms }) })
}

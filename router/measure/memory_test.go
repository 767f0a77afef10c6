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

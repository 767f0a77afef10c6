package measure_test

import (
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/measure"
)

// end ends a call that was sent just now.
func end(table *measure.Table, region string, verdict measure.Verdict) {
	table.Observe(key(region), measure.Outcome{Verdict: verdict, Sent: table.Begin(key(region), true)})
}

func TestAnErrorSinkIsEjectedAlthoughItsProbesAreGood(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for range 3 {
			end(table, "near", measure.Failed)
		}
		if !row(table, "near").Ejected { // at once: no time has passed
			t.Fatal("not ejected after three failures in a row")
		}
		took := until(t, "the trials", time.Second, func() bool { return !row(table, "near").Ejected })
		within(t, "the backoff", took, 500*ms, 25*ms)
		if h := row(table, "near").Held; h != 0.75 {
			t.Errorf("it is held back by %v, want 0.75", h)
		}
		time.Sleep(time.Minute)
		if h := row(table, "near").Held; h != 0.75 {
			t.Errorf("without trials it is held back by %v, want 0.75", h)
		}
		for range 3 {
			end(table, "near", measure.Good)
		}
		took = until(t, "all calls", 3*time.Second, func() bool { return row(table, "near").Held == 0 })
		within(t, "the ramp", took, 2*time.Second, 25*ms)
	})
}

func TestAnOverdueAnswerIsNoticedWithoutAnyOtherEvent(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		time.Sleep(5 * time.Second)
		w.change("near", func(n *fakeNode) { n.hangs = true })
		before := w.count("near")
		table.Begin(key("near"), true)
		// n + 4d + 6S + 10 ms = about 42 ms, looked at every 20 ms.
		took := until(t, "suspect", time.Second, func() bool { return row(table, "near").Suspect })
		within(t, "the suspicion", took, 55*ms, 15*ms)
		if w.count("near") == before {
			t.Error("the suspect was not probed at once")
		}
		until(t, "unreachable", 1500*ms, func() bool { return !row(table, "near").Reachable })
		w.change("near", func(n *fakeNode) { n.hangs = false })
		until(t, "back and warming up", 500*ms, func() bool { r := row(table, "near"); return r.Reachable && !r.Suspect && r.Held > 0.7 })
	})
}

func TestTroubledNodesAreProbedFiveTimesAsOften(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for range 3 {
			end(table, "near", measure.Failed)
		}
		before := w.count("near")
		time.Sleep(10 * time.Second)
		if n := w.count("near") - before; n < 45 || n > 56 {
			t.Errorf("%d probes in 10 s, want about 50", n)
		}
		doubted := target("far")
		doubted.Suspect = true
		table.Set([]measure.Target{target("near"), doubted, target("moon")})
		before = w.count("far")
		time.Sleep(10 * time.Second)
		if n := w.count("far") - before; n < 18 || n > 22 {
			t.Errorf("%d probes in 10 s of what gossip doubts, want about 20", n)
		}
	})
}

func TestANewNodeRampsUpAndTheFirstOnesDoNot(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		<-table.Ready()
		if h := row(table, "near").Held; h != 0 {
			t.Errorf("near is held back by %v at the start", h)
		}
		w.change("new", func(n *fakeNode) { n.path = 10 * ms })
		table.Set([]measure.Target{target("near"), target("far"), target("moon"), target("new")})
		until(t, "the new one", 100*ms, func() bool { return row(table, "new").Reachable })
		if h := row(table, "new").Held; h < 0.7 {
			t.Errorf("new is held back by %v", h)
		}
		until(t, "all calls", 3*time.Second, func() bool { return row(table, "new").Held == 0 })
	})
}

func TestAnIdleTableWithATroubledNodeIsQuiet(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for range 3 {
			end(table, "near", measure.Failed)
		}
		time.Sleep(5 * time.Second) // now it waits for trials
		before := table.Snapshot().Version
		time.Sleep(10 * time.Second)
		if n := table.Snapshot().Version - before; n > 80 {
			t.Errorf("%d snapshots in 10 s, want one per probe", n)
		}
	})
}

func TestNonsenseIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	bubbleWith(t, registry, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		sane := &regionv1.LoadReport{Residence: durationpb.New(ms), ServiceTime: durationpb.New(ms), Parallelism: 4, ArrivalsPerSecond: 10}
		mad := &regionv1.LoadReport{Residence: durationpb.New(time.Hour), ArrivalsPerSecond: math.Inf(1), InFlight: math.MaxUint32}
		for _, load := range []*regionv1.LoadReport{sane, mad, sane, mad} {
			table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Total: 21 * ms, Load: load})
		}
		if n := counter(t, registry, "rimlight_router_nonsense_reports_total"); n != 2 {
			t.Errorf("%v nonsense reports were counted, want 2", n)
		}
		if n := row(table, "near").Network; n < 19*ms {
			t.Errorf("nonsense brought near within %v", n)
		}
	})
}

// counter is the sum of a counter over its labels.
func counter(t *testing.T, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

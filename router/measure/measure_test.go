package measure_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// fakeNode is one region node and the path to it.
type fakeNode struct {
	path    time.Duration // there and back
	service time.Duration
	connect time.Duration // handshakes, before every probe
	refuses bool          // connection refused, after one round trip
	hangs   bool          // black hole
	foreign bool
	full    bool // of its disk
	mode    regionv1.RegionMode
	stock   uint32
}

// fakeWorld implements measure.Prober.
type fakeWorld struct {
	mu     sync.Mutex
	nodes  map[string]fakeNode // by region
	probes map[string]int
}

func (w *fakeWorld) change(region string, f func(*fakeNode)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[region]
	f(&n)
	w.nodes[region] = n
}

func (w *fakeWorld) count(region string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probes[region]
}

// Connect implements measure.Prober.
func (w *fakeWorld) Connect(ctx context.Context, t measure.Target) error {
	w.mu.Lock()
	takes := w.nodes[t.Region].connect
	w.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
		return nil
	}
}

// Probe implements measure.Prober.
func (w *fakeWorld) Probe(ctx context.Context, t measure.Target) (*regionv1.ProbeResponse, error) {
	w.mu.Lock()
	n := w.nodes[t.Region]
	w.probes[t.Region]++
	w.mu.Unlock()
	if n.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(n.path + n.service):
	}
	if n.refuses {
		return nil, errors.New("connection refused")
	}
	if n.foreign {
		return nil, nil
	}
	return &regionv1.ProbeResponse{
		NodeId: "id-" + t.Region, Region: t.Region, Mode: n.mode, JournalFull: n.full, Zones: []string{"earth"}, Load: load(n.service, 4, 0),
		Stock: []*regionv1.DropStock{{DropId: "d", Untouched: n.stock}},
	}, nil
}

func load(residence time.Duration, parallelism, inFlight uint32) *regionv1.LoadReport {
	return &regionv1.LoadReport{
		Residence: durationpb.New(residence), ServiceTime: durationpb.New(residence), Parallelism: parallelism, InFlight: inFlight,
	}
}

// bubble runs a test in virtual time around a running table with three nodes: near 20 ms, far 80 ms, moon 300 ms. The
// world is prepared before the first probe.
func bubble(t *testing.T, test func(t *testing.T, w *fakeWorld, table *measure.Table), prepare ...func(*fakeWorld)) {
	bubbleWith(t, nil, test, prepare...)
}

func bubbleWith(
	t *testing.T, metrics prometheus.Registerer, test func(t *testing.T, w *fakeWorld, table *measure.Table), prepare ...func(*fakeWorld),
) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWorld{probes: map[string]int{}, nodes: map[string]fakeNode{
			"near": {path: 20 * ms, service: 2 * ms, stock: 5},
			"far":  {path: 80 * ms, service: 2 * ms, stock: 5},
			"moon": {path: 300 * ms, service: 2 * ms, stock: 5},
		}}
		for _, p := range prepare {
			p(w)
		}
		table, err := measure.New(measure.Config{}, measure.Deps{
			Prober: w, Now: time.Now, Random: rand.New(rand.NewPCG(1, 2)), Log: slog.New(slog.DiscardHandler),
			Metrics: metrics,
		})
		if err != nil {
			t.Fatal(err)
		}
		table.Set([]measure.Target{target("near"), target("far"), target("moon")})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := table.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		test(t, w, table)
		cancel()
		running.Wait()
	})
}

func target(region string) measure.Target {
	return measure.Target{Region: region, Address: region + ":1", Zones: []string{"earth"}}
}

func key(region string) string { return target(region).Key() }

// row is a region as published; nil if it is not there.
func row(table *measure.Table, region string) *arbiter.Region {
	for _, r := range table.Snapshot().Regions {
		if r.Name == region {
			return r
		}
	}
	return nil
}

func within(t *testing.T, what string, got, want, tolerance time.Duration) {
	t.Helper()
	if got < want-tolerance || got > want+tolerance {
		t.Errorf("%s: got %v, want %v +- %v", what, got, want, tolerance)
	}
}

// until waits until a condition holds, looking every millisecond, and tells how long that took.
//
//rimlight:bubble it polls in virtual time
func until(t *testing.T, what string, most time.Duration, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > most {
			t.Fatalf("%s: not within %v", what, most)
		}
		time.Sleep(ms)
	}
	return time.Since(start)
}

func TestReadyAfterTheSlowestFirstProbe(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		start := time.Now()
		<-table.Ready()
		within(t, "ready", time.Since(start), 302*ms, ms)
		for region, want := range map[string]time.Duration{"near": 20 * ms, "far": 80 * ms, "moon": 300 * ms} {
			r := row(table, region)
			if !r.Reachable || r.NodeID != "id-"+region {
				t.Errorf("%s: got %+v", region, r)
			}
			within(t, region, r.Network, want, ms)
			within(t, region+" service", r.Service, 2*ms, ms)
		}
	})
}

// A handshake is two or three round trips; taken for the network's time it makes every region look far for minutes.
func TestHandshakesAreNotTheNetworksTime(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		within(t, "the network", row(table, "near").Network, 20*ms, ms)
	}, func(w *fakeWorld) { w.change("near", func(n *fakeNode) { n.connect = 40 * ms }) })
}

func TestAHandshakeThatNeverEndsIsAFailedProbe(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		until(t, "the node is unreachable", 10*time.Second, func() bool { return !row(table, "near").Reachable })
	}, func(w *fakeWorld) { w.change("near", func(n *fakeNode) { n.connect = time.Hour }) })
}

func TestReadyDoesNotWaitForTheDead(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		start := time.Now()
		<-table.Ready()
		within(t, "ready", time.Since(start), 400*ms, ms)
		if row(table, "moon").Reachable || !row(table, "near").Reachable {
			t.Error("want near reachable and moon not")
		}
	}, func(w *fakeWorld) { w.change("moon", func(n *fakeNode) { n.hangs = true }) })
}

func TestProbesComeOnceASecondAndFiveTimesWhileFailing(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, _ *measure.Table) {
		time.Sleep(20 * time.Second)
		if n := w.count("near"); n < 18 || n > 23 {
			t.Errorf("healthy: %d probes in 20 s, want about 20", n)
		}
		if n := w.count("far"); n < 90 || n > 110 {
			t.Errorf("failing: %d probes in 20 s, want about 100", n)
		}
	}, func(w *fakeWorld) { w.change("far", func(n *fakeNode) { n.refuses = true }) })
}

func TestTimeline(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		event func(*fakeNode)
		holds func(*arbiter.Region) bool
		most  time.Duration
	}{
		{"a node that refuses is unreachable after three probes",
			func(n *fakeNode) { n.refuses = true }, func(r *arbiter.Region) bool { return !r.Reachable }, 1700 * ms},
		{"a black hole is unreachable after three probes that are not waited for long",
			func(n *fakeNode) { n.hangs = true }, func(r *arbiter.Region) bool { return !r.Reachable }, 2200 * ms},
		{"a slow node is slow, not far",
			func(n *fakeNode) { n.service = 100 * ms },
			func(r *arbiter.Region) bool { return r.Service == 100*ms && r.Network < 25*ms }, 1300 * ms},
		{"a long path is far, not slow",
			func(n *fakeNode) { n.path = 120 * ms },
			func(r *arbiter.Region) bool { return r.Service == 2*ms && r.Network > 100*ms }, 4500 * ms},
		{"a drained node is known within a probe",
			func(n *fakeNode) { n.mode = regionv1.RegionMode_REGION_MODE_DRAINED },
			func(r *arbiter.Region) bool { return r.Mode == arbiter.Drained }, 1300 * ms},
		{"a node without stock is known within a probe",
			func(n *fakeNode) { n.stock = 0 },
			func(r *arbiter.Region) bool { return r.Stock["d"] == arbiter.StockNone }, 1300 * ms},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
				time.Sleep(20 * time.Second)
				if tt.holds(row(table, "near")) {
					t.Fatal("holds before the event")
				}
				w.change("near", tt.event)
				t.Logf("took %v", until(t, tt.rule, tt.most, func() bool { return tt.holds(row(table, "near")) }))
			})
		})
	}
}

func TestOneLostProbeIsWeather(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		time.Sleep(5 * time.Second)
		before := w.count("near")
		w.change("near", func(n *fakeNode) { n.refuses = true })
		until(t, "two lost probes", 3*time.Second, func() bool { return w.count("near") == before+2 })
		time.Sleep(25 * ms) // the second one's answer
		w.change("near", func(n *fakeNode) { n.refuses = false })
		if !row(table, "near").Reachable {
			t.Error("unreachable after two lost probes")
		}
		time.Sleep(5 * time.Second)
		if !row(table, "near").Reachable {
			t.Error("unreachable although the third one was good")
		}
	})
}

func TestAGoodProbeEndsUnreachability(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		time.Sleep(5 * time.Second)
		w.change("near", func(n *fakeNode) { n.refuses = true })
		until(t, "unreachable", 2*time.Second, func() bool { return !row(table, "near").Reachable })
		time.Sleep(time.Minute)
		if n := row(table, "near").Network; n < 19*ms {
			t.Errorf("the network time decayed to %v", n)
		}
		w.change("near", func(n *fakeNode) { n.refuses = false })
		until(t, "reachable", 250*ms, func() bool { return row(table, "near").Reachable })
	})
}

func TestThreeBrokenCallsInARowAreEnough(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		broken := func() { table.Observe(key("near"), measure.Outcome{Verdict: measure.Broken}) }
		broken()
		broken()
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good})
		broken()
		broken()
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Ignored}) // a caller that went away proves nothing
		if !row(table, "near").Reachable {
			t.Error("unreachable after two in a row")
		}
		broken()
		if row(table, "near").Reachable { // at once: no time has passed
			t.Error("reachable after three in a row")
		}
	})
}

func TestShedCallsLowerTheRateAndNoMore(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for range 8 {
			table.Observe(key("near"), measure.Outcome{Verdict: measure.Shed})
			table.Observe(key("near"), measure.Outcome{Verdict: measure.Ignored})
		}
		time.Sleep(50 * ms)
		if r := row(table, "near"); !r.Reachable || r.Ejected || r.SuccessRate != 0.2 {
			t.Errorf("got %v, %v, %v; want reachable at 0.2", r.Reachable, r.Ejected, r.SuccessRate)
		}
		time.Sleep(12 * time.Second)
		if r := row(table, "near"); r.SuccessRate != 1 {
			t.Errorf("got %v after the window, want 1", r.SuccessRate)
		}
	})
}

func TestCallsKeepNetworkAndServiceApart(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for range 100 {
			sent := table.Begin(key("near"), true)
			time.Sleep(70 * ms)
			table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Sent: sent, Total: 70 * ms, Load: load(50*ms, 4, 3)})
		}
		time.Sleep(21 * ms)
		r := row(table, "near")
		within(t, "network", r.Network, 20*ms, ms)
	})
}

func TestCallsSentSinceTheReportAreInTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Load: load(2*ms, 4, 7)})
		for range 5 {
			table.Begin(key("near"), false)
		}
		time.Sleep(41 * ms) // two publications at most
		if q := row(table, "near").InFlight; q != 12 {
			t.Errorf("got %d in flight, want the 7 reported and 5 of our own", q)
		}
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Load: load(2*ms, 4, 2)})
		time.Sleep(41 * ms)
		if q := row(table, "near").InFlight; q != 2 {
			t.Errorf("got %d in flight, want the 2 of the newest report", q)
		}
	})
}

func TestAnsweredCallsAreNotInTheQueueEvenWithoutAReport(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for _, verdict := range []measure.Verdict{measure.Good, measure.Failed, measure.Ignored} {
			sent := table.Begin(key("near"), true)
			table.Observe(key("near"), measure.Outcome{Verdict: verdict, Sent: sent})
		}
		table.Begin(key("near"), true)
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Late: true})
		time.Sleep(41 * ms)
		if q := row(table, "near").InFlight; q != 1 {
			t.Errorf("got %d in flight, want the one that was not answered", q)
		}
	})
}

func TestABurstPublishesAtMostEvery20ms(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		before := table.Snapshot().Version
		for range 1000 {
			table.Begin(key("near"), true)
			time.Sleep(ms / 5)
		}
		if n := table.Snapshot().Version - before; n < 8 || n > 14 {
			t.Errorf("%d snapshots in 200 ms, want about 10", n)
		}
	})
}

func TestAnIdleTablePublishesOnlyWhatProbesBring(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		before := table.Snapshot().Version
		time.Sleep(10 * time.Second)
		if n := table.Snapshot().Version - before; n > 35 {
			t.Errorf("%d snapshots in 10 s of three probes each second", n)
		}
	})
}

func TestAnAnswerWithoutUnitIsBelievedUntilTheNextProbe(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		old := row(table, "near")
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, OutOfStock: "d"})
		time.Sleep(41 * ms)
		if got := row(table, "near").Stock["d"]; got != arbiter.StockNone {
			t.Errorf("got %v, want none", got)
		}
		if old.Stock["d"] != arbiter.StockHeld {
			t.Error("a published row changed")
		}
		until(t, "stock again", 1300*ms, func() bool { return row(table, "near").Stock["d"] == arbiter.StockHeld })
	})
}

func TestTheNewestWordAboutTheModeCounts(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		<-table.Ready()
		gossip := func(mode arbiter.Mode) {
			near := target("near")
			near.Mode = mode
			table.Set([]measure.Target{near, target("far"), target("moon")})
		}
		w.change("near", func(n *fakeNode) { n.mode = regionv1.RegionMode_REGION_MODE_DRAINED })
		gossip(arbiter.Drained)
		if row(table, "near").Mode != arbiter.Drained {
			t.Error("gossip's news was not taken at once")
		}
		w.change("near", func(n *fakeNode) { n.mode = regionv1.RegionMode_REGION_MODE_SERVING })
		until(t, "the node's own word", 1300*ms, func() bool { return row(table, "near").Mode == arbiter.Serving })
		gossip(arbiter.Drained) // the same old news, with somebody else's change
		if row(table, "near").Mode != arbiter.Serving {
			t.Error("stale gossip beat the node's newer word")
		}
		table.SetMode(key("near"), arbiter.Cordoned)
		if row(table, "near").Mode != arbiter.Cordoned {
			t.Error("the operator's change waits for a probe")
		}
	})
}

func TestADrainingAnswerStopsNewOffersUntilTheNextProbe(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Draining: true})
		if row(table, "near").Mode != arbiter.Cordoned {
			t.Error("want cordoned at once")
		}
		until(t, "serving again", 1300*ms, func() bool { return row(table, "near").Mode == arbiter.Serving })
	})
}

func TestAFullDiskIsBelievedUntilTheNextProbe(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		<-table.Ready()
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, JournalFull: true})
		if !row(table, "near").Full {
			t.Error("want full at once")
		}
		until(t, "room again", 1300*ms, func() bool { return !row(table, "near").Full })
		w.change("near", func(n *fakeNode) { n.full = true })
		until(t, "full by its own word", 1300*ms, func() bool { return row(table, "near").Full })
	})
}

func TestAForeignBackendIsTimedByProbesAndCalls(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		<-table.Ready()
		for range 100 {
			sent := table.Begin(key("near"), true)
			time.Sleep(50 * ms)
			table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Sent: sent, Total: 50 * ms})
		}
		time.Sleep(41 * ms)
		r := row(table, "near")
		within(t, "network", r.Network, 20*ms, ms)
		within(t, "service", r.Service, 30*ms, ms)
		if !r.Reachable || r.Parallelism != 0 {
			t.Errorf("got %+v", r)
		}
	}, func(w *fakeWorld) { w.change("near", func(n *fakeNode) { n.foreign, n.service = true, 0 }) })
}

func TestTargetsComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld, table *measure.Table) {
		<-table.Ready()
		table.Set([]measure.Target{target("far")})
		if row(table, "near") != nil || row(table, "far") == nil {
			t.Error("want far alone, at once")
		}
		if !row(table, "far").Reachable {
			t.Error("far lost its measurements")
		}
		before := w.count("near")
		time.Sleep(10 * time.Second)
		if w.count("near") > before+1 {
			t.Error("a target that is gone is still probed")
		}
		table.Set([]measure.Target{target("far"), target("near")})
		if row(table, "near").Reachable {
			t.Error("a new target is reachable before its first probe")
		}
		until(t, "near is back", 50*ms, func() bool { return row(table, "near").Reachable })
		table.Observe("nobody@1", measure.Outcome{Verdict: measure.Broken})
		table.Begin("nobody@1", true)
	})
}

func TestStatesTellPeopleWhatIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fakeWorld, table *measure.Table) {
		time.Sleep(5 * time.Second)
		states := table.States()
		if len(states) != 3 || states[0].Target.Region != "far" || states[1].LastError == "" || !states[1].LastAnswer.IsZero() ||
			time.Since(states[2].LastAnswer) > 1200*ms || states[2].Answer.GetNodeId() != "id-near" {
			t.Errorf("got %+v", states)
		}
	}, func(w *fakeWorld) { w.change("moon", func(n *fakeNode) { n.refuses = true }) })
}

func TestValidateReportsAllProblems(t *testing.T) {
	_, err := measure.New(measure.Config{ProbeInterval: -1, ReadyTimeout: -1}, measure.Deps{})
	if err == nil {
		t.Fatal("want an error")
	}
	if joined := err.Error(); len(joined) < 60 {
		t.Errorf("got %q, want both problems", joined)
	}
}

func BenchmarkObserve(b *testing.B) {
	table, err := measure.New(measure.Config{}, measure.Deps{
		Prober: &fakeWorld{}, Now: time.Now, Random: rand.New(rand.NewPCG(1, 2)), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	table.Set([]measure.Target{target("near")})
	report := load(2*ms, 4, 1)
	b.ReportAllocs()
	for b.Loop() {
		sent := table.Begin(key("near"), true)
		table.Observe(key("near"), measure.Outcome{Verdict: measure.Good, Sent: sent, Total: 22 * ms, Load: report})
	}
}

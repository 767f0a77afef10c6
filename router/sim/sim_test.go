package sim

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/internal/wan"
)

func TestEventsComeInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		times := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 60).Draw(t, "times")
		for i, at := range times {
			q.push(event{at: time.Duration(at), id: int32(i)})
		}
		var got []event
		for len(q.events) > 0 {
			got = append(got, q.pop())
		}
		if len(got) != len(times) {
			t.Fatalf("got %d events, want %d", len(got), len(times))
		}
		if !slices.IsSortedFunc(got, func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) }) {
			t.Errorf("out of order: %v", got)
		}
	})
}

func TestTheSameSeedGivesTheSameRows(t *testing.T) {
	selected, err := Select(scenarios(t), "S3")
	if err != nil {
		t.Fatal(err)
	}
	play := func(seeds int) []Row {
		s := Suite{Options: Options{Matrix: wan.Default(), Capacity: 0.25}, Scenarios: selected, Seeds: seeds, Policies: []string{"rimlight", "prequal", boundName}}
		rows, err := s.Run()
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	once := play(1)
	if diff := gocmp.Diff(once, play(1)); diff != "" {
		t.Errorf("two runs differ:\n%s", diff)
	}
	if gocmp.Equal(once, play(2), cmpopts.IgnoreFields(Row{}, "Over200Low", "Over200High", "MeanLow", "MeanHigh")) {
		t.Error("a second seed changes nothing")
	}
}

// Every call ends exactly once, and every policy sees the same calls.
func TestCallsAreConserved(t *testing.T) {
	for _, s := range scenarios(t) {
		for k := range s.Parts {
			w, err := build(s, &s.Parts[k], Options{Matrix: wan.Default(), Capacity: 0.25})
			if err != nil {
				t.Fatal(err)
			}
			calls := w.bound(3).calls
			for _, name := range []string{"rimlight", "round_robin"} {
				spec, err := Lookup(name)
				if err != nil {
					t.Fatal(err)
				}
				o := play(w, spec, 3)
				if o.open != 0 || o.calls != o.ok+o.errors+o.sheds {
					t.Errorf("%s/%s, %s: %d calls are open; %d calls, %d ok + %d errors + %d sheds", s.ID, s.Parts[k].Name, name, o.open, o.calls, o.ok, o.errors, o.sheds)
				}
				if o.calls != calls {
					t.Errorf("%s/%s: %s saw %d calls, the bound %d", s.ID, s.Parts[k].Name, name, o.calls, calls)
				}
			}
		}
	}
}

// A region is an M/M/c queue: its mean wait is Erlang's.
func TestWaitsAreErlangs(t *testing.T) {
	for _, load := range []float64{0.5, 0.8, 0.9} {
		w := place(t, Part{Load: 1, Seconds: 200, Regions: 2})
		mu := float64(w.slots[0]) * 1000 / w.mean
		for i := range w.rate {
			w.rate[i] = load * mu / float64(len(w.rate))
		}
		o := play(w, fixed(0), 5)
		distance := 0.0
		for i := range w.rtt {
			distance += (1.01*w.rtt[i][0] + 0.4) / float64(len(w.rtt))
		}
		got := o.sum/float64(o.calls) - distance - w.mean
		want := MMcWait(w.slots[0], w.mean, load)
		if o.ok != o.calls || math.Abs(got-want) > 0.12*want+0.1 {
			t.Errorf("at %.0f %% load: waits %.2f ms on average, want %.2f (%d of %d calls answered)", 100*load, got, want, o.ok, o.calls)
		}
	}
}

func TestErlangsC(t *testing.T) {
	for _, c := range []struct {
		slots                int
		utilisation, service float64
		want                 float64
	}{
		{1, 0.5, 10, 10},       // M/M/1: rho/(1-rho) services
		{1, 0.9, 10, 90},       //
		{2, 0.5, 10, 10.0 / 3}, // C = 1/3, divided by 2*(1-0.5)
		{4, 0.75, 8, 4.0755},   // C(4, 3 erlang) = 0.5094
		{3, 0, 10, 0},          //
	} {
		if got := MMcWait(c.slots, c.service, c.utilisation); math.Abs(got-c.want) > 0.001*c.want {
			t.Errorf("%d slots at %.2f: %.4f, want %.4f", c.slots, c.utilisation, got, c.want)
		}
	}
}

// No policy is better than the bound by more than what it may know: the state of the queues at this instant.
func TestTheBoundIsNotBeaten(t *testing.T) {
	for _, s := range scenarios(t) {
		for k := range s.Parts {
			w, err := build(s, &s.Parts[k], Options{Matrix: wan.Default(), Capacity: 0.25})
			if err != nil {
				t.Fatal(err)
			}
			b := w.bound(7)
			for _, name := range []string{"rimlight", "nearest", "prequal-full"} {
				spec, err := Lookup(name)
				if err != nil {
					t.Fatal(err)
				}
				o := play(w, spec, 7)
				n := float64(o.calls)
				if mean, best := o.sum/n, b.sum/n; mean < 0.97*best {
					t.Errorf("%s/%s: %s has a mean of %.2f ms, the bound %.2f", s.ID, s.Parts[k].Name, name, mean, best)
				}
				if bad, best := float64(o.over200)/n, float64(b.over200)/n; bad < best-0.002-0.05*best {
					t.Errorf("%s/%s: of %s %.3f %% are bad, of the bound %.3f %%", s.ID, s.Parts[k].Name, name, 100*bad, 100*best)
				}
			}
		}
	}
}

// The plan of the bound: worked by hand. Two origins, two regions of one slot and 10 ms each (100 calls/s).
func TestTheBoundsPlan(t *testing.T) {
	near := [][]float64{{10, 60}, {60, 10}}
	slots, service := []int{1, 1}, []float64{10, 10}
	t.Run("everybody at home when there is room", func(t *testing.T) {
		f := solve([]float64{20, 20}, near, service, slots)
		if f.share[0][0] < 1 || f.share[1][0] != 0 {
			t.Errorf("shares %v", f.share)
		}
		if want := MMcWait(1, 10, 0.2); math.Abs(f.wait[0]-want) > 1e-6 {
			t.Errorf("waits %v ms, want %v", f.wait[0], want)
		}
	})
	t.Run("leaves home when that costs less than waiting there", func(t *testing.T) {
		// The marginal wait of M/M/1 is 10*rho*(2-rho)/(1-rho)^2: 50 ms more at rho 0.59, in the segment up to 0.6.
		f := solve([]float64{90, 0}, near, service, slots)
		if got := 90 * f.share[0][0]; math.Abs(got-60) > 1e-3 {
			t.Errorf("%v calls/s stay, want 60", got)
		}
	})
	t.Run("sheds what nobody has room for", func(t *testing.T) {
		f := solve([]float64{250, 0}, near, service, slots)
		if got := 250 * f.share[0][1]; math.Abs(got-200) > 1e-3 {
			t.Errorf("%v calls/s are served, want 200", got)
		}
	})
	t.Run("no path, no service", func(t *testing.T) {
		f := solve([]float64{10}, [][]float64{{math.Inf(1), math.Inf(1)}}, service, slots)
		if f.share[0][1] != 0 {
			t.Errorf("shares %v", f.share)
		}
	})
}

// Many routers with stale views must not all move at once: not when nearly full, nor in a crowd. A toll of 6 fails here.
func TestManyRoutersDoNotHerd(t *testing.T) {
	spec, err := Lookup("rimlight")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		routers    int
		load, most float64
		crowd      []Crowd
	}{
		{24, 0.7, 0.06, nil}, {96, 0.7, 0.06, nil}, {24, 0.9, 0.06, nil}, {96, 0.9, 0.06, nil},
		{24, 0.5, 0.07, []Crowd{{"busiest", 0, 8, 3.2}}}, {96, 0.5, 0.07, []Crowd{{"busiest", 0, 8, 3.2}}},
	} {
		p := Part{Name: "steady", Routers: tt.routers, Load: tt.load, PeakLoad: 0.9, Seconds: 8, Crowds: tt.crowd}
		w, err := build(&Scenario{ID: "T", Parts: []Part{p}}, &p, Options{Matrix: wan.Default()})
		if err != nil {
			t.Fatal(err)
		}
		// Half a second has about 2,000 calls: chance alone moves a share of 30 % by 2 points.
		got := play(w, spec, 11).swing()
		if got > tt.most {
			t.Errorf("with %d routers at a load of %.1f (crowd: %v) a region's share of the calls jumps by %.1f points within half a second, want at most %.0f",
				tt.routers, tt.load, len(tt.crowd) > 0, 100*got, 100*tt.most)
		}
	}
}

func TestRecoveryIsUntilFewAreBad(t *testing.T) {
	w := &world{end: 4 * time.Second, event: time.Second}
	o := newOutcome(w)
	for at := time.Duration(0); at < w.end; at += time.Millisecond {
		ms := 10.0
		if at >= time.Second && at < 1300*time.Millisecond {
			ms = 250
		}
		o.add(at, ms, Answered)
	}
	if got := o.recovery(); got != 300*time.Millisecond {
		t.Errorf("recovered after %v, want 300 ms", got)
	}
	if w.event = -1; o.recovery() != 0 {
		t.Error("recovers from nothing")
	}
}

func TestQuantiles(t *testing.T) {
	h := make([]int32, histogramSize)
	for ms := 1; ms <= 1000; ms++ {
		h[bucketOf(float64(ms))]++
	}
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990, 0.999: 999} {
		if got := quantile(h, q); math.Abs(got-want) > 0.01*want {
			t.Errorf("quantile %v is %.1f ms, want %.1f", q, got, want)
		}
	}
}

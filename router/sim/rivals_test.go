package sim

import (
	"math"
	"testing"
	"time"
)

const ms = time.Millisecond

// sends is what a policy picks, one call after the other, each of them under way from then on.
func sends(p Policy, n, regions int) []int {
	var got []int
	for range n {
		i := p.Pick(0, everyone(regions))
		p.Sent(0, i)
		got = append(got, i)
	}
	return got
}

func TestRoundRobinTakesTurns(t *testing.T) {
	got := sends(&roundRobin{next: 2}, 4, 3)
	if want := [...]int{2, 0, 1, 2}; [4]int(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// leastrequest.go: the drawn endpoint with fewer calls under way.
func TestLeastRequest(t *testing.T) {
	for _, full := range []bool{false, true} {
		p := &leastRequest{env: env(1, 1), choices: 2, full: full}
		p.n[0] = 5
		zero := 0
		for range 1000 {
			if p.Pick(0, everyone(2)) == 0 {
				zero++
			}
		}
		// Drawn with replacement, the busy one is taken when both draws hit it: a quarter of the picks.
		if want := map[bool]int{false: 250, true: 0}[full]; zero < want-60 || zero > want+60 {
			t.Errorf("full %v: the busy endpoint got %d of 1000 calls, want about %d", full, zero, want)
		}
	}
}

// scheduler.go: weights are scaled to 65535, endpoints without one get the mean, and equal ones mean round robin.
func TestWeightedRoundRobinScales(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights []float64
		want    []uint16
	}{
		{"the heaviest is 65535", []float64{100, 50, 25}, []uint16{65535, 32768, 16384}},
		{"without a weight: the mean", []float64{100, 50, 0}, []uint16{65535, 32768, 49151}},
		{"equal weights are round robin", []float64{7, 7, 7}, nil},
		{"fewer than two weights are round robin", []float64{7, 0, 0}, nil},
	} {
		got := scale(c.weights)
		if len(got) != len(c.want) {
			t.Fatalf("%s: got %v, want %v", c.name, got, c.want)
		}
		for i := range got {
			if d := int(got[i]) - int(c.want[i]); d < -1 || d > 1 {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
		}
	}
}

// balancer.go, OnLoadReport: rps / (utilisation + error rate * penalty); picks follow the weights.
func TestWeightedRoundRobinFollowsReports(t *testing.T) {
	p := newWeightedRoundRobin(env(1, 1, 1)).(*weightedRoundRobin)
	p.observe(0, 0, 100, 0.5, 0)   // 200
	p.observe(0, 1, 100, 0.5, 0.5) // 100
	p.observe(0, 2, 100, 1, 0)     // 100
	counts := map[int]int{}
	for range 4000 {
		counts[p.Pick(2*time.Second, everyone(3))]++
	}
	if counts[0] < 1950 || counts[0] > 2050 || counts[1] < 950 || counts[1] > 1050 {
		t.Errorf("got %v, want 2000, 1000, 1000", counts)
	}
	if p.weight(blackout/2, 0) != 0 {
		t.Error("a weight counts within the blackout period")
	}
}

// peak_ewma.rs, test compound_decay: a default of 20 ms, decay 1 s there; here the default is 30 ms and the decay 10 s.
func TestPeakEWMADecaysAndJumps(t *testing.T) {
	p := newPeakEWMA(true)(env(1, 1)).(*peakEWMA)
	if got := p.load(0, 0); got != float64(30*ms) {
		t.Errorf("starts at %v, want 30 ms", got)
	}
	if got := p.load(10*time.Second, 0); math.Abs(got-float64(30*ms)/math.E) > 1 {
		t.Errorf("after one decay %v, want 30/e ms", got)
	}
	p.Sent(10*time.Second, 0)
	p.Sent(10*time.Second, 0)
	p.Done(10400*ms, 0, Outcome{Total: 400 * ms})
	if got := p.load(10400*ms, 0); got != float64(800*ms) {
		t.Errorf("a peak of 400 ms with one call under way loads %v, want 800 ms", got)
	}
	p.Done(10400*ms, 0, Outcome{Total: 100 * ms})
	if got := p.load(10400*ms, 0); got != float64(400*ms) {
		t.Errorf("a lower sample at once changes the peak to %v", got)
	}
	if p.Pick(10400*ms, everyone(2)) != 1 {
		t.Error("picks the loaded one")
	}
}

// least_request_lb.cc, unweightedHostPickFullScan: ties are drawn evenly.
func TestEnvoyLeastRequest(t *testing.T) {
	p := &envoyLeastRequest{env: env(1, 1, 1), full: true}
	p.n[1] = 1
	counts := map[int]int{}
	for range 1000 {
		counts[p.Pick(0, everyone(3))]++
	}
	if counts[1] != 0 || counts[0] < 440 || counts[2] < 440 {
		t.Errorf("got %v, want half each for 0 and 2", counts)
	}
	p.full = false
	zero := 0
	for range 900 {
		if p.Pick(0, everyone(3)) == 1 {
			zero++
		}
	}
	if zero < 60 || zero > 140 { // both of two draws with replacement: a ninth
		t.Errorf("two choices took the busy one %d of 900 times, want about 100", zero)
	}
}

// Three replicas cold, one hot: calls in flight 1, 2, 3, 10, so the 0.84 quantile is 3; latencies 9, 4, 8, 1 ms.
func TestPrequalIsHotColdLexicographic(t *testing.T) {
	p := &prequal{env: env(1, 1, 1, 1), full: true}
	for i, rif := range []int{1, 2, 3, 10} {
		p.insert(pooled{region: i, rif: rif, latency: []float64{9, 4, 8, 1}[i]})
	}
	if got := p.threshold(); got != 3 {
		t.Errorf("the threshold is %d, want 3", got)
	}
	if got := p.choose(bit(4) - 1); got != 1 {
		t.Errorf("chose %d, want 1, the fastest cold one", got)
	}
	if got := p.choose(bit(3)); got != 3 {
		t.Errorf("chose %d, want 3, the only hot one", got)
	}
	if p.Pick(0, everyone(4)) != 1 || p.pool[1].rif != 3 {
		t.Errorf("its own call is not counted: %+v", p.pool)
	}
}

func TestPrequalRemovesTheOldestAndTheWorstInTurn(t *testing.T) {
	p := &prequal{env: env(1, 1, 1)}
	for i, rif := range []int{1, 2, 9} {
		p.insert(pooled{region: i, rif: rif, latency: float64(i)})
	}
	p.remove()
	if p.pool[0].region != 1 {
		t.Errorf("the oldest is still there: %+v", p.pool)
	}
	p.remove() // of 2 and 9 the quantile is 2: 9 is hot
	if len(p.pool) != 1 || p.pool[0].region != 1 {
		t.Errorf("the hot one is still there: %+v", p.pool)
	}
}

func TestNearestFollowsProbesAndLocalityFailoverDoesNot(t *testing.T) {
	near, locality := newNearest(env(20, 30)), newLocalityFailover(env(20, 30))
	for range 30 {
		for _, p := range []Policy{near, locality} {
			p.Probed(0, 0, 140*ms, &Report{})
		}
	}
	if near.Pick(0, everyone(2)) != 1 {
		t.Error("nearest stays with a region that drifted away")
	}
	if locality.Pick(0, everyone(2)) != 0 {
		t.Error("locality failover leaves a healthy locality")
	}
	if locality.Pick(0, Ask{Allowed: bit(1)}) != 1 {
		t.Error("locality failover does not fail over")
	}
}

// Two origins near region 0, which has room for 80; the rest flows on in proportion, and what has no room stays.
func TestWaterfallPours(t *testing.T) {
	rtt := [][]float64{{10, 50, 90}, {20, 30, 90}}
	plan := pour([]float64{60, 100}, rtt, []float64{80, 60, 10})
	want := [][]float64{{30 + 3.75, 22.5, 3.75}, {50 + 6.25, 37.5, 6.25}}
	for r := range want {
		for i := range want[r] {
			if math.Abs(plan[r][i]-want[r][i]) > 1e-9 {
				t.Fatalf("got %v, want %v", plan, want)
			}
		}
	}
}

// p2c.go: of two distinct servers the one with fewer calls under way.
func TestTraefikP2C(t *testing.T) {
	p := &traefikP2C{env: env(1, 1)}
	p.n[0] = 1
	for range 100 {
		if p.Pick(0, everyone(2)) == 0 {
			t.Fatal("took the busier one of two")
		}
	}
}

// leasttime.go: mean time to the first byte times one more than the calls under way; no sample scores 0; ties take turns.
func TestTraefikLeastTime(t *testing.T) {
	p := newTraefikLeastTime(env(1, 1, 1)).(*traefikLeastTime)
	if got := sends(p, 6, 3); [6]int(got) != [6]int{0, 0, 1, 0, 1, 2} {
		t.Errorf("without samples: %v, want 0, 0, 1, 0, 1, 2: the first of the earliest deadlines", got)
	}
	done := func(i int, total time.Duration) { p.Done(0, i, Outcome{Total: total, Report: &Report{}}) }
	done(0, 10*ms)
	done(0, 10900*time.Microsecond) // whole milliseconds: 10
	done(1, 30*ms)
	if got := p.Pick(0, everyone(3)); got != 2 {
		t.Errorf("picked %d: a server without a sample scores 0 and wins every pick", got)
	}
	done(2, 100*ms)
	p.n[0], p.n[1], p.n[2] = 2, 0, 0 // 10*(1+2) = 30 ties with 30*(1+0)
	first, second := p.Pick(0, everyone(3)), p.Pick(0, everyone(3))
	if first == second || first == 2 || second == 2 {
		t.Errorf("a tie of 0 and 1 went to %d and %d", first, second)
	}
}

func TestFailuresEject(t *testing.T) {
	fail := func(v Verdict, times int) *ejector {
		e := newEjector(env(1, 2, 3, 4), newNearest(env(1, 2, 3, 4))).(*ejector)
		for range times {
			e.Done(0, 0, Outcome{Verdict: v})
		}
		return e
	}
	for _, c := range []struct {
		name  string
		e     *ejector
		at    time.Duration
		wants int
	}{
		{"four failures in a row are not enough", fail(Failed, 4), ms, 0},
		{"five are", fail(Failed, 5), ms, 1},
		{"for thirty seconds", fail(Failed, 5), 31 * time.Second, 0},
		{"sheds are no failures", fail(Exhausted, 9), ms, 0},
		{"timeouts are", fail(TimedOut, 5), ms, 1},
		{"one broken connection is down", fail(Broken, 1), ms, 1},
		{"until it can be had again", fail(Broken, 1), 2 * time.Second, 0},
	} {
		if got := c.e.Pick(c.at, everyone(4)); got != c.wants {
			t.Errorf("%s: picked %d, want %d", c.name, got, c.wants)
		}
	}
	e := fail(Failed, 4)
	e.Done(0, 0, Outcome{Verdict: Answered})
	e.Done(0, 0, Outcome{Verdict: Failed})
	if e.Pick(ms, everyone(4)) != 0 {
		t.Error("a success in between does not count")
	}
	if fail(Failed, 5).Pick(ms, Ask{Allowed: bit(0)}) != 0 {
		t.Error("nobody is left, and nobody is tried")
	}
}

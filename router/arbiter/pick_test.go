package arbiter_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/router/arbiter"
)

const ms = time.Millisecond

// node is a healthy serving node with stock of drop "d".
func node(name string, network time.Duration, change ...func(*arbiter.Region)) *arbiter.Region {
	r := &arbiter.Region{
		Key: name + "@1", Name: name, NodeID: "id-" + name, Zones: []string{"earth"}, Reachable: true, Network: network,
		Deviation: ms, Service: 2 * ms, Parallelism: 4, SuccessRate: 1, Stock: map[string]arbiter.Stock{"d": arbiter.StockHeld},
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func snapshot(regions ...*arbiter.Region) *arbiter.Snapshot {
	return &arbiter.Snapshot{Version: 1, Regions: regions}
}

func drained(r *arbiter.Region)     { r.Mode = arbiter.Drained }
func cordoned(r *arbiter.Region)    { r.Mode = arbiter.Cordoned }
func full(r *arbiter.Region)        { r.Full = true }
func unreachable(r *arbiter.Region) { r.Reachable = false }
func empty(r *arbiter.Region)       { r.Stock = map[string]arbiter.Stock{"d": arbiter.StockNone} }
func zone(z string) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.Zones = []string{z} }
}
func busy(inFlight uint32) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.InFlight = inFlight }
}
func success(rate float64) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.SuccessRate = rate }
}

func TestPick(t *testing.T) {
	offer := arbiter.Request{Kind: arbiter.Offer, Drop: "d"}
	for _, tt := range []struct {
		rule    string
		request arbiter.Request
		regions []*arbiter.Region
		want    string // region; empty: none
		regime  arbiter.Regime
		reasons string // of the candidates, by their order
	}{
		{"the lowest predicted time wins", offer,
			[]*arbiter.Region{node("far", 80*ms), node("near", 20*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"a long queue outweighs nearness", offer,
			[]*arbiter.Region{node("far", 80*ms), node("near", 20*ms, busy(200))}, "far", arbiter.Spill, "eligible eligible"},
		{"an idle node has no wait up to its parallelism", offer,
			[]*arbiter.Region{node("busy", 20*ms, busy(3)), node("far", 25*ms)}, "busy", arbiter.Normal, "eligible eligible"},
		{"failing fast is not fast", offer,
			[]*arbiter.Region{node("sink", 1*ms, success(0.02)), node("far", 80*ms)}, "far", arbiter.Normal, "eligible eligible"},
		{"one failure among many does not send calls over an ocean", offer,
			[]*arbiter.Region{node("near", 20*ms, success(0.98)), node("far", 80*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"residency is hard", arbiter.Request{Kind: arbiter.Offer, Zones: []string{"eu", "uk"}},
			[]*arbiter.Region{node("us", 1*ms, zone("us")), node("eu", 90*ms, zone("eu"))}, "eu", arbiter.Normal, "residency eligible"},
		{"residency is not given up in a panic", arbiter.Request{Kind: arbiter.Offer, Zones: []string{"eu"}},
			[]*arbiter.Region{node("us", 1*ms, zone("us"))}, "", arbiter.None, "residency"},
		{"a region without stock is passed over", offer,
			[]*arbiter.Region{node("near", 1*ms, empty), node("far", 90*ms)}, "far", arbiter.Normal, "no_stock eligible"},
		{"unknown stock is no reason", arbiter.Request{Kind: arbiter.Offer, Drop: "other"},
			[]*arbiter.Region{node("near", 1*ms, empty), node("far", 90*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"stock does not matter for a read", arbiter.Request{Kind: arbiter.Read, Drop: "d"},
			[]*arbiter.Region{node("near", 1*ms, empty), node("far", 90*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"stock is given up when nobody has any", offer,
			[]*arbiter.Region{node("a", 50*ms, empty), node("b", 20*ms, empty)}, "b", arbiter.Panic, "no_stock no_stock"},
		{"an answer without stock beats silence", offer,
			[]*arbiter.Region{node("dead", 1*ms, unreachable), node("empty", 90*ms, empty)}, "empty", arbiter.Panic, "unreachable no_stock"},
		{"reachability is given up when nobody is reachable", offer,
			[]*arbiter.Region{node("a", 50*ms, unreachable), node("b", 20*ms, unreachable)}, "b", arbiter.Panic, "unreachable unreachable"},
		{"a node that never answered does not score 0", offer,
			[]*arbiter.Region{node("new", 0, unreachable), node("known", 90*ms, unreachable)}, "known", arbiter.Panic, "unreachable unreachable"},
		{"a cordoned node gets no new offers", offer,
			[]*arbiter.Region{node("near", 1*ms, cordoned), node("far", 90*ms)}, "far", arbiter.Normal, "draining eligible"},
		{"a cordoned node redeems", arbiter.Request{Kind: arbiter.Redeem, Drop: "d"},
			[]*arbiter.Region{node("near", 1*ms, cordoned), node("far", 90*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"a cordoned node gets no calls of foreign services", arbiter.Request{},
			[]*arbiter.Region{node("near", 1*ms, cordoned), node("far", 90*ms)}, "far", arbiter.Normal, "draining eligible"},
		{"a drained node redeems nothing", arbiter.Request{Kind: arbiter.Redeem},
			[]*arbiter.Region{node("near", 1*ms, drained), node("far", 90*ms)}, "far", arbiter.Normal, "draining eligible"},
		{"draining is not given up in a panic", offer,
			[]*arbiter.Region{node("a", 1*ms, drained), node("b", 1*ms, cordoned, empty)}, "", arbiter.None, "draining no_stock"},
		{"a node with a full disk gets no offers", offer,
			[]*arbiter.Region{node("near", 1*ms, full), node("far", 90*ms)}, "far", arbiter.Normal, "journal_full eligible"},
		{"a node with a full disk redeems nothing, not in a panic either", arbiter.Request{Kind: arbiter.Redeem, Drop: "d"},
			[]*arbiter.Region{node("near", 1*ms, full)}, "", arbiter.None, "journal_full"},
		{"a node with a full disk answers for what it has", arbiter.Request{Kind: arbiter.Read},
			[]*arbiter.Region{node("near", 1*ms, full), node("far", 90*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"nobody is asked twice", arbiter.Request{Tried: []string{"near@1"}},
			[]*arbiter.Region{node("near", 1*ms), node("far", 90*ms)}, "far", arbiter.Normal, "tried eligible"},
		{"nobody is left", arbiter.Request{Tried: []string{"near@1"}},
			[]*arbiter.Region{node("near", 1*ms)}, "", arbiter.None, "tried"},
		{"nobody is known", offer, nil, "", arbiter.None, ""},
		{"a read goes to the preferred region", arbiter.Request{Kind: arbiter.Read, Preferred: "far"},
			[]*arbiter.Region{node("near", 1*ms), node("far", 90*ms)}, "far", arbiter.Preferred, "eligible eligible"},
		{"a preferred region that cannot serve is not waited for", arbiter.Request{Kind: arbiter.Read, Preferred: "far"},
			[]*arbiter.Region{node("near", 1*ms), node("far", 90*ms, unreachable)}, "near", arbiter.Normal, "eligible unreachable"},
		{"a redemption goes by score whatever is preferred", arbiter.Request{Kind: arbiter.Redeem, Preferred: "far"},
			[]*arbiter.Region{node("near", 1*ms), node("far", 90*ms)}, "near", arbiter.Normal, "eligible eligible"},
		{"a budget that nobody fits is late as expected", arbiter.Request{Budget: 10 * ms},
			[]*arbiter.Region{node("near", 40*ms), node("far", 90*ms)}, "near", arbiter.LateExpected, "eligible eligible"},
		{"what fits the budget is preferred to what is nearly as fast but jitters",
			arbiter.Request{Budget: 30 * ms},
			[]*arbiter.Region{node("jitters", 20*ms, func(r *arbiter.Region) { r.Deviation = 20 * ms }), node("steady", 25*ms)},
			"steady", arbiter.Normal, "eligible eligible"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := snapshot(tt.regions...)
			got := arbiter.Explain(s, tt.request, 0.5)
			if name(got.Choice) != tt.want || got.Regime != tt.regime {
				t.Errorf("got %q under %v, want %q under %v: %s", name(got.Choice), got.Regime, tt.want, tt.regime, got.Sentence)
			}
			var reasons []string
			for _, c := range got.Candidates {
				reasons = append(reasons, c.Reason.String())
			}
			if r := strings.Join(reasons, " "); r != tt.reasons {
				t.Errorf("reasons: got %q, want %q", r, tt.reasons)
			}
			if again := arbiter.Pick(s, tt.request, 0.5); again != got.Choice {
				t.Errorf("Pick and Explain differ: %+v, %+v", again, got.Choice)
			}
		})
	}
}

func name(c arbiter.Choice) string {
	if c.Region == nil {
		return ""
	}
	return c.Region.Name
}

func TestNearTiesAreDrawnTheBetterTheLikelier(t *testing.T) {
	s := snapshot(node("a", 20*ms), node("b", 21*ms), node("far", 60*ms))
	wins := map[string]int{}
	for i := range 1000 {
		wins[name(arbiter.Pick(s, arbiter.Request{}, float64(i)/1000))]++
	}
	// T is 1 ms, above 4 % of 22 ms, and b is 1 ms behind: e to 1.
	if wins["a"] < 721 || wins["a"] > 741 || wins["far"] != 0 || wins["a"]+wins["b"] != 1000 {
		t.Errorf("got %v, want about 731 to 269 and none over the ocean", wins)
	}
}

func TestTheSentenceNamesTheNumbers(t *testing.T) {
	e := arbiter.Explain(snapshot(node("near", 20*ms, busy(7)), node("far", 80*ms), node("gone", ms, unreachable)), arbiter.Request{}, 0.5)
	want := "near is expected to answer soonest: 26.0 ms = 20.0 ms network + 2.0 ms service + 2.0 ms wait + 2.0 ms for its crowd, at 100.0 % success; " +
		"next is far at 82.0 ms."
	if e.Sentence != want {
		t.Errorf("got  %s\nwant %s", e.Sentence, want)
	}
	e = arbiter.Explain(snapshot(node("a", ms, drained), node("b", ms, zone("us"))), arbiter.Request{Zones: []string{"earth"}}, 0.5)
	if want := "Nobody can be chosen: 1 residency, 1 draining."; e.Sentence != want {
		t.Errorf("got  %s\nwant %s", e.Sentence, want)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	s := many(6)
	r := arbiter.Request{Kind: arbiter.Read, Preferred: "r3", Budget: 300 * ms, Zones: []string{"earth"}}
	if n := testing.AllocsPerRun(100, func() { arbiter.Pick(s, r, 0.3) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// oracle is the choice as the rules say it, without regard for speed: sort, filter, compare.
func oracle(s *arbiter.Snapshot, r arbiter.Request) (allowed []*arbiter.Region, regime arbiter.Regime) {
	pool := func(ok func(*arbiter.Region) bool) (found []*arbiter.Region) {
		for _, g := range s.Regions {
			if ok(g) {
				found = append(found, g)
			}
		}
		return found
	}
	hard := func(g *arbiter.Region) bool {
		inZone := len(r.Zones) == 0 || slices.ContainsFunc(g.Zones, func(z string) bool { return slices.Contains(r.Zones, z) })
		open := g.Mode == arbiter.Serving || g.Mode == arbiter.Cordoned && (r.Kind == arbiter.Redeem || r.Kind == arbiter.Read)
		return inZone && open && !slices.Contains(r.Tried, g.Key)
	}
	stocked := func(g *arbiter.Region) bool {
		return r.Kind == arbiter.Read || r.Kind == arbiter.Other || g.Stock[r.Drop] != arbiter.StockNone
	}
	regime = arbiter.Normal
	all := pool(func(g *arbiter.Region) bool { return hard(g) && stocked(g) && g.Reachable })
	if len(all) == 0 {
		regime = arbiter.Panic
		all = pool(func(g *arbiter.Region) bool { return hard(g) && g.Reachable })
	}
	if len(all) == 0 {
		all = pool(hard)
	}
	if len(all) == 0 {
		return nil, arbiter.None
	}
	late := false
	times := map[*arbiter.Region]time.Duration{}
	for _, g := range all {
		times[g] = oracleExpected(g, all)
	}
	if r.Budget > 0 {
		fit := slices.DeleteFunc(slices.Clone(all), func(g *arbiter.Region) bool { return times[g]-oracleWait(g)+2*g.Deviation > r.Budget })
		late = len(fit) == 0
		if !late {
			all = fit
		} else if regime == arbiter.Normal {
			regime = arbiter.LateExpected
		}
	}
	if r.Kind == arbiter.Read && r.Preferred != "" && !late {
		named := slices.DeleteFunc(slices.Clone(all), func(g *arbiter.Region) bool { return g.Name != r.Preferred })
		if len(named) > 0 {
			all = named
			if regime == arbiter.Normal {
				regime = arbiter.Preferred
			}
		}
	}
	best := slices.MinFunc(all, func(a, b *arbiter.Region) int { return int(times[a] - times[b]) })
	near := max(2*ms, time.Duration(0.05*float64(times[best])))
	return slices.DeleteFunc(all, func(g *arbiter.Region) bool { return times[g] > times[best]+near }), regime
}

func oracleTime(g *arbiter.Region) time.Duration {
	l := g.Network + g.Service
	if !g.Reachable && g.Network == 0 {
		l += 400 * ms
	}
	return l + oracleWait(g)
}

func oracleWait(g *arbiter.Region) time.Duration {
	if g.Parallelism == 0 {
		return 0
	}
	return time.Duration(max(0, float64(g.InFlight)+1-float64(g.Parallelism)) * float64(g.Service) / float64(g.Parallelism))
}

// oracleCost leaves out the doubt: the oracle's regions do not tell their arrivals.
func oracleCost(g *arbiter.Region) time.Duration { return oracleTime(g) + oracleWait(g) }

func oracleExpected(g *arbiter.Region, all []*arbiter.Region) time.Duration {
	elsewhere := time.Duration(math.MaxInt64)
	for _, other := range all {
		if other != g {
			elsewhere = min(elsewhere, oracleCost(other))
		}
	}
	if len(all) == 1 {
		elsewhere = oracleCost(g)
	}
	return oracleCost(g) + time.Duration((1-g.SuccessRate)*float64(2*elsewhere))
}

func TestPickAgreesWithTheOracle(t *testing.T) {
	duration := func(most time.Duration) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.Int64Range(0, int64(most/ms)), func(n int64) time.Duration { return time.Duration(n) * ms })
	}
	rapid.Check(t, func(t *rapid.T) {
		var regions []*arbiter.Region
		for i := range rapid.IntRange(0, 8).Draw(t, "regions") {
			name := string(rune('a' + i))
			regions = append(regions, &arbiter.Region{
				Key: name, Name: name, Zones: rapid.SliceOfN(rapid.SampledFrom([]string{"eu", "us"}), 0, 2).Draw(t, "zones"),
				Mode:  rapid.SampledFrom([]arbiter.Mode{arbiter.Serving, arbiter.Serving, arbiter.Cordoned, arbiter.Drained}).Draw(t, "mode"),
				Stock: map[string]arbiter.Stock{"d": arbiter.Stock(rapid.IntRange(0, 2).Draw(t, "stock"))}, Reachable: rapid.IntRange(0, 3).Draw(t, "reachable") > 0,
				Network: duration(200*ms).Draw(t, "n"), Deviation: duration(10*ms).Draw(t, "d"), Service: duration(20*ms).Draw(t, "s"),
				Parallelism: rapid.Uint32Range(0, 8).Draw(t, "c"), InFlight: rapid.Uint32Range(0, 60).Draw(t, "q"),
				SuccessRate: rapid.SampledFrom([]float64{1, 0.99, 0.5, 0}).Draw(t, "rate"),
			})
		}
		s := snapshot(regions...)
		r := arbiter.Request{
			Kind: arbiter.Kind(rapid.IntRange(0, 3).Draw(t, "kind")), Drop: "d", Preferred: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "preferred"),
			Zones:  rapid.SliceOfN(rapid.SampledFrom([]string{"eu", "us"}), 0, 1).Draw(t, "asked"),
			Budget: duration(300*ms).Draw(t, "budget"), Tried: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 1).Draw(t, "tried"),
		}
		got := arbiter.Pick(s, r, rapid.Float64Range(0, 0.999).Draw(t, "draw"))
		if got.Regime == arbiter.Spill {
			got.Regime = arbiter.Normal // the oracle does not ask what would have been without queues
		}
		allowed, regime := oracle(s, r)
		if got.Regime != regime || (got.Region == nil) != (len(allowed) == 0) || got.Region != nil && !slices.Contains(allowed, got.Region) {
			t.Fatalf("got %q under %v, want one of %v under %v", name(got), got.Regime, allowed, regime)
		}
	})
}

// FuzzPick looks for panics and for choices that break a hard filter, whatever a node reports.
func FuzzPick(f *testing.F) {
	f.Add(int64(20), int64(1), int64(2), uint32(4), uint32(9), 0.9, true, uint8(0), uint8(1), int64(100), 0.5)
	f.Add(int64(math.MaxInt64), int64(math.MinInt64), int64(math.MaxInt64), uint32(1), uint32(math.MaxUint32), math.NaN(), false, uint8(2), uint8(3), int64(-1), 1.0)
	f.Fuzz(func(t *testing.T, n, d, service int64, c, q uint32, rate float64, reachable bool, mode, kind uint8, budget int64, draw float64) {
		odd := &arbiter.Region{
			Key: "odd", Name: "odd", Mode: arbiter.Mode(mode % 3), Reachable: reachable, Network: time.Duration(n), Deviation: time.Duration(d),
			Service: time.Duration(service), Parallelism: c, InFlight: q, SuccessRate: rate,
		}
		r := arbiter.Request{Kind: arbiter.Kind(kind % 4), Drop: "d", Preferred: "odd", Budget: time.Duration(budget)}
		for _, s := range []*arbiter.Snapshot{snapshot(odd), snapshot(odd, node("sane", 30*ms)), snapshot(node("sane", 30*ms), odd, odd)} {
			e := arbiter.Explain(s, r, draw)
			if e.Region != nil && e.Region.Mode == arbiter.Drained {
				t.Errorf("a drained node was chosen: %s", e.Sentence)
			}
			if e.Expected < 0 {
				t.Errorf("negative time %v", e.Expected)
			}
		}
	})
}

func many(n int) *arbiter.Snapshot {
	var regions []*arbiter.Region
	for i := range n {
		r := node("r"+string(rune('0'+i%10)), time.Duration(20+i*7%180)*ms)
		r.Key = r.Name + "@" + string(rune(i))
		regions = append(regions, r)
	}
	return snapshot(regions...)
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{6, 100, 1000} {
		b.Run(map[int]string{6: "regions=6", 100: "regions=100", 1000: "regions=1000"}[n], func(b *testing.B) {
			s := many(n)
			r := arbiter.Request{Kind: arbiter.Offer, Drop: "d", Budget: 200 * ms, Zones: []string{"earth"}}
			took := make([]time.Duration, 0, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				arbiter.Pick(s, r, 0.5)
				if len(took) < cap(took) {
					took = append(took, time.Since(start))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		})
	}
}

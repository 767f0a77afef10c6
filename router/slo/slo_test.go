package slo_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/router/slo"
)

var (
	offer = slo.Key{Scope: slo.Flow, Name: "RequestOffer"}
	tokyo = slo.Key{Scope: slo.Region, Name: "tokyo"}
	drop  = slo.Key{Scope: slo.Drop, Name: "d1"}
)

// say records so many calls, of which some are late.
func say(w *slo.Windows, now time.Duration, key slo.Key, calls, late int, cause slo.Cause) {
	for i := range calls {
		w.Record(now, fmt.Sprintf("%s/%v/%d", key.Name, now, i), slo.Sample{Key: key, Took: time.Millisecond, Late: i < late, Cause: cause})
	}
}

// TestWindowsCountLikeAList holds the ring against a list of all calls.
func TestWindowsCountLikeAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type event struct {
			at   time.Duration
			late bool
		}
		const step = 250 * time.Millisecond
		w := slo.NewWindows()
		var events []event
		now := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "start"))
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			now += time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "gap"))
			late := rapid.Bool().Draw(t, "late")
			events = append(events, event{now, late})
			w.Record(now, "id", slo.Sample{Key: drop, Late: late, Cause: slo.Service})
		}
		now += time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "after"))
		var want slo.Counts
		for _, e := range events {
			if now/step-e.at/step < 20 {
				want.Calls++
				if e.late {
					want.Causes[slo.Service]++
				}
			}
		}
		got := w.Counts(now)
		if len(got) != 1 || got[0].Sliding != want || got[0].Whole.Calls != int64(len(events)) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestWindowsAreBounded(t *testing.T) {
	w := slo.NewWindows()
	for i := range 300 {
		say(w, 0, slo.Key{Scope: slo.Drop, Name: fmt.Sprint(i)}, 1, 0, 0)
	}
	if got := len(w.Counts(0)); got != 256 || w.Overflow() != 44 {
		t.Errorf("%d drops are kept, %d samples overflowed", got, w.Overflow())
	}
	if got := len(w.Counts(6 * time.Minute)); got != 0 {
		t.Errorf("%d drops are kept although nobody asks for them", got)
	}
	say(w, 6*time.Minute, drop, 1, 0, 0)
	if got := len(w.Counts(6 * time.Minute)); got != 1 {
		t.Error("there is no room for a new drop")
	}
	peer := w.Counts(6 * time.Minute)
	for i := range 300 {
		peer = append(peer, slo.Count{Key: slo.Key{Scope: slo.Drop, Name: fmt.Sprint(i)}})
	}
	if fleet, left := slo.Sum(peer); len(fleet) != 256 || left != 45 {
		t.Errorf("a peer's %d windows became %d and %d left out", len(peer), len(fleet), left)
	}
}

func TestSumAddsTheRoutersUp(t *testing.T) {
	a, b := slo.NewWindows(), slo.NewWindows()
	say(a, 0, offer, 12, 1, slo.Network)
	say(b, 0, offer, 10, 2, slo.Queue)
	say(b, 0, tokyo, 3, 0, 0)
	fleet, _ := slo.Sum(a.Counts(0), b.Counts(0))
	if len(fleet) != 2 || fleet[0].Sliding.Calls != 22 || fleet[0].Sliding.Late() != 3 || fleet[0].Sliding.Cause() != slo.Queue || len(fleet[0].Examples) != 3 {
		t.Errorf("got %+v", fleet)
	}
}

func TestLatencyIsNearTheTruth(t *testing.T) {
	w := slo.NewWindows()
	for i := 1; i <= 1000; i++ {
		w.Record(0, "", slo.Sample{Key: tokyo, Took: time.Duration(i) * time.Millisecond})
	}
	median, p99 := w.Latency(0, "tokyo")
	for q, got := range map[float64]time.Duration{0.5: median, 0.99: p99} {
		truth := time.Duration(1000*q) * time.Millisecond
		if got < truth || got > truth*12/10 {
			t.Errorf("quantile %v: got %v, the truth is %v", q, got, truth)
		}
	}
	if median, _ := w.Latency(2*time.Minute, "tokyo"); median != 0 {
		t.Errorf("two minutes later the median is still %v", median)
	}
}

// judged plays calls at steps of a second through one router and its judge.
type judged struct {
	w   *slo.Windows
	j   *slo.Judge
	now time.Duration
}

func newJudged() *judged { return &judged{w: slo.NewWindows(), j: slo.NewJudge(slo.Config{})} }

// second lets calls come, and judges.
func (p *judged) second(key slo.Key, calls, late int, cause slo.Cause) []slo.Slip {
	p.now += time.Second
	say(p.w, p.now, key, calls, late, cause)
	return p.j.Evaluate(p.now, time.Unix(0, 0).Add(p.now), p.w.Counts(p.now), []string{"r9"})
}

// words is what changed, for a transcript.
func words(slips []slo.Slip) string {
	var all []string
	for _, s := range slips {
		what := "changes"
		if s.Ended() {
			what = "ends"
		} else if s.Worst == s.After && s.Calls > 0 {
			what = "is at its worst"
		}
		all = append(all, fmt.Sprintf("%s %s %s %.0f%% (%s)", s.Rule, s.Key.Name, what, 100*s.Worst, s.Cause))
	}
	return strings.Join(all, ", ")
}

func TestSlipsInTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		key   slo.Key
		calls [][3]int // per second: calls, late, cause
		want  []string // per second; missing: nothing
	}{
		{"5 % late is no slip", tokyo, [][3]int{{20, 1}, {20, 1}, {20, 1}}, nil},
		{"fewer than 20 calls are no slip, all of them late", tokyo, [][3]int{{3, 3}, {4, 4}, {4, 4}, {4, 4}, {4, 4}}, nil},
		{"20 calls over the window are judged", tokyo, [][3]int{{10, 0}, {0, 0}, {9, 0}, {1, 1}, {0, 0}, {1, 1}},
			nil}, // 2 of 21 in six seconds: the first ten are gone
		{"a slip begins, grows, and ends a window after its last bad one", tokyo,
			[][3]int{{40, 0}, {40, 20, int(slo.Service)}, {10, 10, int(slo.Service)}, {90, 0}, {90, 0}, {90, 0}, {90, 0}, {90, 0}, {90, 0}, {90, 0}, {90, 0}, {90, 0}, {90, 0}},
			[]string{"", "sliding tokyo is at its worst 25% (service)", "sliding tokyo is at its worst 33% (service)", "", "", "", "", "", "", "", "sliding tokyo ends 33% (service)"}},
		{"a changed cause is news", tokyo,
			[][3]int{{20, 10, int(slo.Network)}, {21, 11, int(slo.Queue)}},
			[]string{"sliding tokyo is at its worst 50% (network)", "sliding tokyo is at its worst 51% (queue)"}},
		{"a drop of few calls is judged over its own window", drop,
			[][3]int{{3, 1}, {3, 1}, {0, 0}, {3, 1}, {0, 0}, {3, 1}, {0, 0}, {3, 1}, {3, 0}, {3, 0}},
			[]string{"", "", "", "", "", "", "", "", "", "drop d1 is at its worst 24% (network)"}},
		{"while a drop's sliding slip lasts, its whole window says nothing new", drop,
			[][3]int{{20, 20}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}},
			[]string{"sliding d1 is at its worst 100% (network)", "", "", "", "", "", "", "", "", "sliding d1 ends 100% (network), drop d1 is at its worst 100% (network)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newJudged()
			for i, c := range tt.calls {
				want := ""
				if i < len(tt.want) {
					want = tt.want[i]
				}
				if got := words(p.second(tt.key, c[0], c[1], slo.Cause(c[2]))); got != want {
					t.Errorf("second %d: got %q, want %q", i+1, got, want)
				}
			}
		})
	}
}

func TestASlipTellsBeforeDuringAndAfter(t *testing.T) {
	p := newJudged()
	for range 10 {
		p.second(tokyo, 100, 2, slo.Network)
	}
	began := p.second(tokyo, 100, 80, slo.Service)
	if len(began) != 1 || began[0].Before != 0.02 || began[0].Worst < 0.17 || len(began[0].Silent) != 1 || len(began[0].Examples) != 3 {
		t.Fatalf("got %+v", began)
	}
	var ended slo.Slip
	for range 12 {
		for _, s := range p.second(tokyo, 100, 0, 0) {
			ended = s
		}
	}
	if !ended.Ended() || ended.After != 0 || ended.Before != 0.02 || len(p.j.Active()) != 0 {
		t.Errorf("got %+v", ended)
	}
	if s := ended.Sentence(200 * time.Millisecond); !strings.HasPrefix(s, "region tokyo: ") || !strings.Contains(s, "within 5s") || !strings.Contains(s, "the region's work") {
		t.Errorf("got %q", s)
	}
}

// A bad 90 s never trips the hour's burn rule, however bad; a fifth of an hour does.
func TestBurnRates(t *testing.T) {
	minutes := func(n, late int) (burnt bool) {
		p := newJudged()
		for range 60 { // an hour's good past
			p.now += time.Minute
			say(p.w, p.now, offer, 100, 0, 0)
		}
		for range n {
			p.now += time.Minute
			say(p.w, p.now, offer, 100, late, slo.Service)
		}
		p.now += time.Minute
		for _, s := range p.j.Evaluate(p.now, time.Unix(0, 0).Add(p.now), p.w.Counts(p.now), nil) {
			burnt = burnt || s.Rule == slo.Burn
		}
		return burnt
	}
	for _, tt := range []struct {
		minutes, late int
		want          bool
	}{{1, 100, false}, {2, 100, false}, {12, 100, true}, {60, 5, false}, {60, 16, true}} {
		if got := minutes(tt.minutes, tt.late); got != tt.want {
			t.Errorf("%d minutes with %d %% late: burnt %v, want %v", tt.minutes, tt.late, got, tt.want)
		}
	}
}

func TestAFlowMayHaveAShareOfItsOwn(t *testing.T) {
	claim := slo.Key{Scope: slo.Flow, Name: "ClaimOffer"}
	namesake := slo.Key{Scope: slo.Drop, Name: offer.Name} // callers choose the drop's name
	w := slo.NewWindows()
	for _, key := range []slo.Key{offer, claim, tokyo, namesake} {
		say(w, time.Second, key, 100, 10, slo.Service)
	}
	j := slo.NewJudge(slo.Config{LateShares: map[string]float64{offer.Name: 0.2, claim.Name: 0.01}})
	var began []slo.Key
	for _, s := range j.Evaluate(2*time.Second, time.Now(), w.Counts(2*time.Second), nil) {
		if s.Rule == slo.Sliding {
			began = append(began, s.Key)
		}
	}
	if want := []slo.Key{claim, tokyo, namesake}; !slices.Equal(began, want) {
		t.Errorf("with 10 %% late, slips of %v began, want %v", began, want)
	}
}

func TestValidateReportsAllProblems(t *testing.T) {
	err := slo.Config{Objective: -1, Objectives: map[string]time.Duration{"x": 0}, LateShare: 1, LateShares: map[string]float64{"y": 0}, MonthShare: -1, MinCalls: -1}.Validate()
	for _, want := range []string{"Objective:", "Objectives[x]", "LateShare:", "LateShares[y]", "MonthShare", "MinCalls"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something about %s", err, want)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	w := slo.NewWindows()
	samples := []slo.Sample{{Key: offer, Took: 40 * time.Millisecond}, {Key: tokyo, Took: 38 * time.Millisecond}, {Key: drop, Took: 40 * time.Millisecond}}
	b.ReportAllocs()
	now := time.Duration(0)
	for b.Loop() {
		now += time.Millisecond
		w.Record(now, "id", samples...)
	}
}

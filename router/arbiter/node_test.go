package arbiter_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
)

// track drives one node along a timeline.
type track struct {
	*arbiter.Node
	now time.Duration
}

// met is a node on a 20 ms path that answered its first probe.
func met() *track {
	tr := &track{Node: arbiter.NewNode(false), now: time.Second}
	tr.probe()
	return tr
}

func (tr *track) row() *arbiter.Region {
	g := &arbiter.Region{Key: "near@1", Name: "near"}
	tr.Measure(tr.now, g)
	return g
}

func (tr *track) probe() {
	tr.Probed(tr.now, 22*ms, &arbiter.Load{Residence: 2 * ms, Service: 2 * ms, Parallelism: 4})
}

// calls ends so many calls with a verdict each, all of them sent a round trip ago.
func (tr *track) calls(verdicts ...arbiter.Verdict) {
	for _, v := range verdicts {
		tr.Send(tr.now-22*ms, true)
		tr.Done(tr.now, tr.now-22*ms, arbiter.Outcome{Verdict: v, Elapsed: 22 * ms})
	}
}

func times(n int, verdicts ...arbiter.Verdict) (all []arbiter.Verdict) {
	for range n {
		all = append(all, verdicts...)
	}
	return all
}

const (
	good    = arbiter.Good
	failed  = arbiter.Failed
	broken  = arbiter.Broken
	shed    = arbiter.Shed
	ignored = arbiter.Ignored
)

func TestWhatEndsANode(t *testing.T) {
	for _, tt := range []struct {
		rule                 string
		calls                []arbiter.Verdict
		unreachable, ejected bool
	}{
		{"two failures in a row are weather", times(2, failed), false, false},
		{"three failures in a row eject", times(3, failed), false, true},
		{"a good call in between starts again", times(2, failed, failed, good), false, false},
		{"three calls without an answer mean silence", times(3, broken), true, false},
		{"failing in both ways is failing", []arbiter.Verdict{broken, failed, broken}, false, true},
		{"more than half of 20 failing ejects, whatever the order", times(8, failed, good, failed), false, true},
		{"half of them does not", times(20, failed, good), false, false},
		{"fewer than 20 do not, unless in a row", times(6, failed, good, failed), false, false},
		{"shedding is not failing", times(10, shed), false, false},
		{"shedding more than half of 20 ejects", times(20, shed), false, true},
		{"shedding does not hide failures", []arbiter.Verdict{failed, shed, failed, shed, failed}, false, true},
		{"callers that went away prove nothing", times(30, ignored), false, false},
		{"calls that others answered prove nothing", times(30, arbiter.Outrun), false, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			tr := met()
			tr.now += time.Second
			tr.calls(tt.calls...)
			if g := tr.row(); g.Reachable == tt.unreachable || g.Ejected != tt.ejected {
				t.Errorf("got reachable %v, ejected %v; want %v, %v", g.Reachable, g.Ejected, !tt.unreachable, tt.ejected)
			}
		})
	}
}

// step is one moment of a timeline, so long after the last one.
type step struct {
	after time.Duration
	does  func(*track)
	want  string
}

// health is a row's state in words.
func health(g *arbiter.Region) string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{
		{!g.Reachable, "silent"}, {g.Ejected, "ejected"}, {g.Suspect, "suspect"}, {g.Held > 0.74, "at 25 %"},
		{g.Held > 0 && g.Held <= 0.74, "warming"},
	} {
		if w.is {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, " ")
}

func TestHealthTimelines(t *testing.T) {
	probe := (*track).probe
	nothing := func(*track) {}
	lost := func(tr *track) { tr.Lost() }
	does := func(v ...arbiter.Verdict) func(*track) { return func(tr *track) { tr.calls(v...) } }
	send := func(tr *track) { tr.Send(tr.now, true) }
	for _, tt := range []struct {
		rule  string
		cold  bool
		steps []step
	}{
		{"three lost probes are silence; a good one ends it at once and the ramp takes 2 s", false, []step{
			{time.Second, lost, ""}, {200 * ms, lost, ""}, {200 * ms, lost, "silent"}, {time.Minute, nothing, "silent"},
			{0, probe, "at 25 %"}, {time.Second, nothing, "warming"}, {time.Second, nothing, ""},
		}},
		{"what is there at the router's start does not ramp", false, []step{{0, nothing, ""}}},
		{"what is new does", true, []step{{0, nothing, "at 25 %"}, {2 * time.Second, nothing, ""}}},
		{"good probes do not end an ejection for failing calls", false, []step{
			{time.Second, does(times(3, failed)...), "ejected at 25 %"}, {400 * ms, probe, "ejected at 25 %"},
			{110 * ms, probe, "at 25 %"}, {time.Minute, probe, "at 25 %"},
		}},
		{"three live calls that go well do", false, []step{
			{time.Second, does(times(3, failed)...), "ejected at 25 %"}, {510 * ms, does(good, good), "at 25 %"},
			{100 * ms, does(good), "at 25 %"}, {time.Second, nothing, "warming"}, {time.Second, nothing, ""},
		}},
		{"trials that fail double the backoff", false, []step{
			{time.Second, does(times(3, failed)...), "ejected at 25 %"}, {510 * ms, does(times(3, failed)...), "ejected at 25 %"},
			{900 * ms, nothing, "ejected at 25 %"}, {110 * ms, does(times(3, failed)...), "ejected at 25 %"},
			{1900 * ms, nothing, "ejected at 25 %"}, {110 * ms, nothing, "at 25 %"},
		}},
		{"trials are judged by themselves", false, []step{
			{time.Second, does(append(times(12, good, failed), failed, failed)...), "ejected at 25 %"}, {510 * ms, does(failed), "at 25 %"},
		}},
		{"the backoff is forgotten after 8 s of good work", false, []step{
			{time.Second, does(times(3, failed)...), "ejected at 25 %"}, {510 * ms, does(times(3, failed)...), "ejected at 25 %"},
			{1010 * ms, does(times(3, good)...), "at 25 %"}, {2 * time.Second, nothing, ""}, {9 * time.Second, nothing, ""},
			{0, does(times(3, failed)...), "ejected at 25 %"}, {510 * ms, nothing, "at 25 %"},
		}},
		{"calls that break although the probes are good are failing ones", false, []step{
			{time.Second, does(times(3, broken)...), "silent"}, {100 * ms, probe, "at 25 %"},
			{100 * ms, does(times(3, broken)...), "ejected at 25 %"}, {100 * ms, probe, "ejected at 25 %"},
		}},
		{"an overdue answer makes suspect, a newer answer clears it", false, []step{
			{time.Second, send, ""}, {50 * ms, nothing, ""}, {10 * ms, nothing, "suspect"}, {time.Minute, nothing, "suspect"}, {0, probe, ""},
		}},
		{"an answer to an older call does not clear it", false, []step{
			{time.Second, send, ""}, {60 * ms, nothing, "suspect"},
			{0, func(tr *track) { tr.Done(tr.now, tr.now-60*ms, arbiter.Outcome{Verdict: ignored}) }, "suspect"},
			{0, func(tr *track) { tr.Probed(tr.now, 70*ms, nil) }, "suspect"},
			{0, func(tr *track) { tr.Probed(tr.now, 50*ms, nil) }, ""},
		}},
		{"what was sent before the newest answered call is not waited for", false, []step{
			{time.Second, send, ""}, {30 * ms, probe, ""}, {time.Second, nothing, ""},
		}},
		{"a call whose caller left is not waited for", false, []step{
			{time.Second, send, ""}, {30 * ms, func(tr *track) { tr.Done(tr.now, tr.now-30*ms, arbiter.Outcome{Verdict: ignored}) }, ""},
			{time.Second, nothing, ""},
		}},
		{"a call that was answered elsewhere is", false, []step{
			{time.Second, send, ""}, {30 * ms, func(tr *track) { tr.Done(tr.now, tr.now-30*ms, arbiter.Outcome{Verdict: arbiter.Outrun}) }, ""},
			{30 * ms, nothing, "suspect"},
		}},
		{"a stream is never overdue", false, []step{
			{time.Second, func(tr *track) { tr.Send(tr.now, false) }, ""}, {time.Minute, nothing, ""},
		}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			tr := &track{Node: arbiter.NewNode(tt.cold), now: time.Second}
			tr.probe()
			for i, s := range tt.steps {
				tr.now += s.after
				s.does(tr)
				if got := health(tr.row()); got != s.want {
					t.Fatalf("step %d: got %q, want %q", i+1, got, s.want)
				}
			}
		})
	}
}

func TestWhatBrokeBeforeASilenceIsForgotten(t *testing.T) {
	tr := met()
	tr.calls(times(3, broken)...)
	if g := tr.row(); g.Reachable || g.SuccessRate > 0.5 {
		t.Errorf("got %+v", g)
	}
	tr.probe()
	if g := tr.row(); !g.Reachable || g.SuccessRate != 1 {
		t.Errorf("got %+v", g)
	}
}

func TestTheQueueCountsWhatTheReportCannotKnow(t *testing.T) {
	tr := met()
	queue := func(want uint32) {
		t.Helper()
		if got := tr.row().InFlight; got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	tr.Send(tr.now, true)
	tr.now += 15 * ms
	tr.Send(tr.now, true)
	tr.Send(tr.now, false)
	queue(3)
	tr.now += 10 * ms // this report was made 10 ms ago: it saw the first call and not the others
	tr.Probed(tr.now, 22*ms, &arbiter.Load{Residence: 2 * ms, Service: 2 * ms, Parallelism: 4, InFlight: 7})
	queue(9)
	tr.Done(tr.now, tr.now-10*ms, arbiter.Outcome{Verdict: good})
	queue(8)
	tr.Done(tr.now, tr.now-25*ms, arbiter.Outcome{Verdict: good})
	queue(8)
}

func TestFailuresTakeAsLongAsTheyDid(t *testing.T) {
	tr := met()
	tr.Done(tr.now, tr.now, arbiter.Outcome{Verdict: failed, Elapsed: 80 * ms})
	if f := tr.row().FailureTime; f != 80*ms {
		t.Errorf("got %v", f)
	}
}

func TestNonsenseReportsAreClamped(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		load  arbiter.Load
		total time.Duration
		want  arbiter.Load
	}{
		{"what makes sense stays", arbiter.Load{3 * ms, 2 * ms, 4, 8, 100}, 20 * ms, arbiter.Load{3 * ms, 2 * ms, 4, 8, 100}},
		{"nobody is inside for longer than the call took", arbiter.Load{Residence: time.Hour}, 20 * ms, arbiter.Load{Residence: 20 * ms}},
		{"time does not run backwards", arbiter.Load{Residence: -1, Service: math.MinInt64}, 20 * ms, arbiter.Load{}},
		{"a service time of a day", arbiter.Load{Service: 24 * time.Hour}, 0, arbiter.Load{Service: time.Minute}},
		{"more calls than there are people", arbiter.Load{InFlight: math.MaxUint32, Parallelism: math.MaxUint32}, 0,
			arbiter.Load{InFlight: 1_000_000, Parallelism: 100_000}},
		{"arrivals that are no number", arbiter.Load{Arrivals: math.NaN()}, 0, arbiter.Load{}},
		{"infinitely many arrivals", arbiter.Load{Arrivals: math.Inf(1)}, 0, arbiter.Load{Arrivals: 10_000_000}},
		{"negative arrivals", arbiter.Load{Arrivals: -5}, 0, arbiter.Load{}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got, sane := tt.load.Sane(tt.total)
			if got != tt.want || sane != (tt.load == tt.want) {
				t.Errorf("got %+v and %v, want %+v", got, sane, tt.want)
			}
		})
	}
}

func TestMemoryServesUntilTheFirstAnswer(t *testing.T) {
	tr := &track{Node: arbiter.NewNode(false)}
	tr.Remember(0, 80*ms, 3*ms)
	if g := tr.row(); !g.Saved || g.Reachable || g.Network != 80*ms || g.Service != 3*ms {
		t.Errorf("got %+v", g)
	}
	tr.now = time.Second
	tr.probe()
	if g := tr.row(); g.Saved || !g.Reachable || g.Network != 20*ms || g.Service != 2*ms {
		t.Errorf("got %+v", g)
	}
	tr.Remember(tr.now, time.Hour, 0)
	if g := tr.row(); g.Saved || g.Network != 20*ms {
		t.Errorf("memory beat a measurement: %+v", g)
	}
}

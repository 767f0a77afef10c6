package arbiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/router/arbiter"
)

func TestHearsay(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		do    func(*track)
		want  time.Duration // network
		saved bool
	}{
		{"it is better than nothing", func(tr *track) { tr.Hear(0, 80*ms, 3*ms) }, 80 * ms, true},
		{"the shortest way counts, in any order", func(tr *track) {
			tr.Hear(0, 80*ms, 3*ms)
			tr.Hear(0, 50*ms, 3*ms)
			tr.Hear(0, 70*ms, 3*ms)
		}, 50 * ms, true},
		{"what was remembered is better", func(tr *track) {
			tr.Remember(0, 80*ms, 3*ms)
			tr.Hear(0, 50*ms, 3*ms)
		}, 80 * ms, true},
		{"a probe's word is better", func(tr *track) {
			tr.probe()
			tr.Hear(tr.now, 5*ms, 3*ms)
		}, 20 * ms, false},
		{"the first probe counts alone", func(tr *track) {
			tr.Hear(0, 5*ms, 3*ms)
			tr.probe()
		}, 20 * ms, false},
		{"a call's word is as good", func(tr *track) {
			tr.Hear(0, 5*ms, 3*ms)
			tr.Send(tr.now-32*ms, true)
			tr.Done(tr.now, tr.now-32*ms, arbiter.Outcome{Elapsed: 32 * ms, Timed: true, Load: &arbiter.Load{Residence: 2 * ms}})
		}, 30 * ms, false},
		{"no way takes no time", func(tr *track) { tr.Hear(0, 0, 3*ms) }, 0, false},
		{"none takes less", func(tr *track) { tr.Hear(0, -ms, 3*ms) }, 0, false},
		{"none is longer than around the earth", func(tr *track) { tr.Hear(0, 1001*ms, 3*ms) }, 0, false},
		{"no work takes an hour", func(tr *track) { tr.Hear(0, 80*ms, time.Hour) }, 0, false},
		{"or less than nothing", func(tr *track) { tr.Hear(0, 80*ms, -ms) }, 0, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			tr := &track{Node: arbiter.NewNode(false), now: time.Second}
			tt.do(tr)
			if g := tr.row(); g.Network != tt.want || g.Saved != tt.saved {
				t.Errorf("got %v (saved: %v), want %v (%v)", g.Network, g.Saved, tt.want, tt.saved)
			}
			if n, _ := tr.NetworkTime(); tt.saved && n != 0 {
				t.Errorf("a probe would be cut short by %v that nobody here measured", n)
			}
		})
	}
}

func TestHearsayMakesNobodySuspect(t *testing.T) {
	tr := &track{Node: arbiter.NewNode(false)}
	tr.Hear(0, ms, ms)
	tr.Send(0, true)
	for tr.now = 0; tr.now <= 400*ms; tr.now += 10 * ms {
		if tr.row().Suspect {
			t.Fatalf("suspect after %v, although nobody here knows how far it is", tr.now)
		}
	}
}

// Whatever others say and when, a node's health is what its own calls and probes make of it.
func TestHearsayNeverTouchesHealth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deaf, hears := arbiter.NewNode(false), arbiter.NewNode(false)
		now := time.Second
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(1, 300).Draw(t, "ms")) * ms
			hears.Hear(now, time.Duration(rapid.Int64().Draw(t, "network")), time.Duration(rapid.Int64().Draw(t, "service")))
			step := rapid.IntRange(0, 5).Draw(t, "event")
			for _, n := range []*arbiter.Node{deaf, hears} {
				switch step {
				case 0:
					n.Lost()
				case 1:
					n.Probed(now, 22*ms, &arbiter.Load{Residence: 2 * ms, Service: 2 * ms, Parallelism: 4})
				default:
					n.Send(now, false)
					n.Done(now, now, arbiter.Outcome{Verdict: []arbiter.Verdict{good, failed, broken, shed}[step-2], Elapsed: 22 * ms})
				}
			}
			var a, b arbiter.Region
			deaf.Measure(now, &a)
			hears.Measure(now, &b)
			if a.Reachable != b.Reachable || a.Ejected != b.Ejected || a.Held != b.Held || a.SuccessRate != b.SuccessRate {
				t.Fatalf("alone: %+v\nwith hearsay: %+v", a, b)
			}
			if b.Reachable && b.Saved && !a.Saved && a.Network > 0 {
				t.Fatalf("hearsay stands in for a measurement: %+v", b)
			}
		}
	})
}

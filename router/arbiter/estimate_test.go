package arbiter_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
)

// sample is one step of a timeline: so many samples of a length, one every second.
type sample struct {
	times  int
	length time.Duration
	probe  bool
}

func TestNetworkTimeline(t *testing.T) {
	for _, tt := range []struct {
		rule        string
		steps       []sample
		least, most time.Duration
	}{
		{"the first sample is the value", []sample{{1, 40 * ms, true}}, 40 * ms, 40 * ms},
		{"one stall does not move it", []sample{{30, 40 * ms, true}, {1, 2 * time.Second, true}}, 40 * ms, 42 * ms},
		{"two stalls do not either", []sample{{30, 40 * ms, true}, {2, 2 * time.Second, true}}, 40 * ms, 43 * ms},
		{"a path that became longer shows within three samples", []sample{{30, 40 * ms, true}, {3, 160 * ms, true}}, 140 * ms, 161 * ms},
		{"and shorter again when it is", []sample{{30, 40 * ms, true}, {3, 160 * ms, true}, {4, 40 * ms, true}}, 40 * ms, 60 * ms},
		{"slow growth is followed", []sample{{30, 40 * ms, true}, {30, 50 * ms, true}}, 47 * ms, 51 * ms},
		{"residences that are too long cannot pull it below the probes", []sample{{30, 40 * ms, true}, {500, 0, false}}, 40 * ms, 40 * ms},
		{"a probe can", []sample{{30, 40 * ms, true}, {60, 20 * ms, true}}, 20 * ms, 22 * ms},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var n arbiter.Network
			now := time.Duration(0)
			for _, s := range tt.steps {
				for range s.times {
					now += time.Second
					n.Observe(now, s.length, s.probe)
				}
			}
			if v := n.Value(); v < tt.least || v > tt.most {
				t.Errorf("got %v, want %v to %v", v, tt.least, tt.most)
			}
		})
	}
}

func TestNetworkDoesNotDecayWhileIdle(t *testing.T) {
	var n arbiter.Network
	n.Observe(0, 100*ms, true)
	n.Observe(time.Second, 100*ms, true)
	before := n.Value()
	// An hour later one short sample: it counts as what it is, but nothing came of the idling itself.
	if n.Value() != before || before != 100*ms {
		t.Errorf("got %v, want %v", n.Value(), before)
	}
	n.Observe(time.Hour, 90*ms, true)
	if v := n.Value(); v < 90*ms {
		t.Errorf("got %v, below every sample", v)
	}
}

func TestNetworkFloorForgetsAfterTenMinutes(t *testing.T) {
	var n arbiter.Network
	n.Observe(0, 20*ms, true)
	for i := range 1200 {
		n.Observe(time.Duration(i+1)*time.Second, 80*ms, true)
	}
	for i := range 100 {
		n.Observe(20*time.Minute+time.Duration(i)*time.Second, 0, false)
	}
	if v := n.Value(); v != 80*ms {
		t.Errorf("got %v, want the 80 ms floor of the last ten minutes", v)
	}
}

func TestServiceFollowsItsSamples(t *testing.T) {
	var s arbiter.Service
	for i := range 60 {
		s.Observe(time.Duration(i)*time.Second, 5*ms)
	}
	for i := range 60 {
		s.Observe(time.Duration(60+i)*time.Second, 50*ms)
	}
	if v := s.Value(); v < 48*ms || v > 50*ms {
		t.Errorf("got %v, want nearly 50ms", v)
	}
}

func TestWindowTimeline(t *testing.T) {
	w := arbiter.NewOutcomes()
	at := func(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
	rate := func(now, want float64) {
		t.Helper()
		if got := w.Rate(at(now)); got != want {
			t.Errorf("at %v s: got %v, want %v", now, got, want)
		}
	}
	rate(0, 1)
	w.Add(at(0.5), false)
	rate(0.5, 2.0/3)
	for range 17 {
		w.Add(at(5), true)
	}
	rate(5, 19.0/20)
	rate(9.9, 19.0/20)
	rate(10, 1) // the failure is out of the window
	rate(15, 1)
	w.Add(at(1000), false)
	rate(1000, 2.0/3) // old buckets are reused clean
}

package main

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
	"github.com/rimlight/rimlight/router/sim"
)

// testPlan is a part at the scale of the processes.
func testPlan(t *testing.T, scenario string, part int) *sim.Plan {
	t.Helper()
	s, err := newSuite(options{scenario: scenario, parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := sim.NewPlan(s.scenarios[0], part, s.options(), slower)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestTheScaleIsWhatTwoCoresCarry(t *testing.T) {
	plan := testPlan(t, "S5", 0)
	rate := 0.0
	for r, x := range plan.Rates {
		rate += x
		if plan.Origins[r] != plan.Regions[r] || plan.Slots[r] != 2 {
			t.Errorf("a router in %s beside %s with %d slots", plan.Origins[r], plan.Regions[r], plan.Slots[r])
		}
	}
	if len(plan.Origins) != 4 || rate < 197 || rate > 203 {
		t.Errorf("%d routers with %v calls/s", len(plan.Origins), rate)
	}
}

// A link's faults are waiting, in the direction and at the time of the plan, for the routers that are meant.
func TestLinksHoldWhatTheScenarioCuts(t *testing.T) {
	for _, tt := range []struct {
		rule     string
		scenario string
		part     int
		at       time.Duration
		way      direction
		luck     float64
		want     time.Duration
	}{
		{"before the fault nothing waits", "S6", 2, 1900 * time.Millisecond, fromRegion, 1, 0},
		{"a lost answer waits for the end of the cut", "S6", 2, 2500 * time.Millisecond, fromRegion, 1, 2 * time.Second},
		{"its request does not", "S6", 2, 2500 * time.Millisecond, toRegion, 1, 0},
		{"after the fault nothing waits", "S6", 2, 4500 * time.Millisecond, fromRegion, 1, 0},
		{"bad luck loses a message once", "S3", 2, 2500 * time.Millisecond, toRegion, 0.04, 200 * time.Millisecond},
		{"good luck does not", "S3", 2, 2500 * time.Millisecond, toRegion, 0.06, 0},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan := testPlan(t, tt.scenario, tt.part)
				now := &clock{}
				now.start(time.Now().Add(-tt.at))
				region := plan.Faults[0].Region
				l := &link{plan: plan, router: region, region: region, now: now}
				begin := time.Now()
				if err := l.hold(nil, tt.way, tt.luck); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(begin).Round(time.Millisecond); got < tt.want || got > tt.want+2*time.Millisecond {
					t.Errorf("held for %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestAClosedConnectionDoesNotWaitForACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := testPlan(t, "S6", 2)
		now := &clock{}
		now.start(time.Now().Add(-3 * time.Second))
		near, far := net.Pipe()
		c := &linked{Conn: near, link: &link{plan: plan, region: plan.Faults[0].Region, now: now}, closed: make(chan struct{})}
		read := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		if _, err := far.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it read, and holds
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-read; err == nil {
			t.Error("it was delivered through the cut")
		}
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A brownout makes every call slow; a gray failure a few, and the same ones whenever they are tried.
func TestWorkIsTheCallsOwnAndTheFaultsChangeIt(t *testing.T) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	at := func(part int, now time.Duration, region func(*sim.Plan) int) []time.Duration {
		plan := testPlan(t, "S3", part)
		c := &clock{}
		c.start(time.Now().Add(-now))
		w := newWork(plan, region(plan), c)
		var took []time.Duration
		for _, id := range ids {
			took = append(took, w.takes(id))
		}
		return took
	}
	faulty := func(p *sim.Plan) int { return p.Faults[0].Region }
	other := func(p *sim.Plan) int { return (p.Faults[0].Region + 1) % len(p.Regions) }
	normal := at(0, time.Second, faulty)
	var sum time.Duration
	for _, d := range normal {
		sum += d
	}
	if mean := sum / 1000; mean < 7*time.Millisecond || mean > 9*time.Millisecond {
		t.Errorf("a call's mean work is %v, want about 8 ms", mean)
	}
	slow, elsewhere, gray := at(0, 3*time.Second, faulty), at(0, 3*time.Second, other), at(1, 3*time.Second, faulty)
	grays := 0
	for i, d := range normal {
		if ratio := float64(slow[i]) / float64(d); ratio < 9.99 || ratio > 10.01 || elsewhere[i] != d {
			t.Fatalf("call %d takes %v, in the brownout %v, elsewhere %v", i, d, slow[i], elsewhere[i])
		}
		if gray[i] > d {
			grays++
		}
	}
	if grays < 30 || grays > 70 {
		t.Errorf("the gray failure met %d of 1,000 calls, want about 50", grays)
	}
}

func TestARivalHearsWhatTheDataPlaneDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := testPlan(t, "S5", 0)
		r, err := newRival(plan, "nearest", 0)
		if err != nil {
			t.Fatal(err)
		}
		s := &arbiter.Snapshot{}
		for i, name := range plan.Regions {
			s.Regions = append(s.Regions, &arbiter.Region{Key: name + "@x", Name: name, Reachable: true, Network: plan.RTT[0][i]})
		}
		q := arbiter.Request{Kind: arbiter.Offer, Budget: time.Second}
		first := r.Pick(s, q, 0)
		if first.Region.Name != plan.Origins[0] || first.Others != len(plan.Regions)-1 || 4*first.Expected != plan.Attempt {
			t.Errorf("got %+v, want the region where the router is", first)
		}
		if c := r.Pick(s, arbiter.Request{Hedging: first.Region.Name, Tried: []string{first.Region.Key}}, 0); c.Region != nil {
			t.Errorf("it hedged to %s", c.Region.Name)
		}
		// Five timeouts eject it for half a minute.
		for range 5 {
			r.Sent(first.Region.Key)
			time.Sleep(plan.Attempt)
			r.Done(first.Region.Key, measure.Outcome{Verdict: measure.Broken})
		}
		second := r.Pick(s, q, 0)
		if second.Region == first.Region {
			t.Fatal("it goes on where nothing answers")
		}
		time.Sleep(31 * time.Second)
		if again := r.Pick(s, q, 0); again.Region != first.Region {
			t.Errorf("it does not come back: got %s", again.Region.Name)
		}
		// A reset takes it out at once, until a connection succeeds.
		r.Sent(first.Region.Key)
		r.Done(first.Region.Key, measure.Outcome{Verdict: measure.Broken})
		if c := r.Pick(s, q, 0); c.Region != second.Region {
			t.Errorf("got %s after a reset", c.Region.Name)
		}
		r.Sent(second.Region.Key)
		r.Done(second.Region.Key, measure.Outcome{Verdict: measure.Good, Total: time.Millisecond, Load: &regionv1.LoadReport{Residence: durationpb.New(time.Millisecond)}})
	})
}

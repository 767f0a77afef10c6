package sim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router/sim"
)

func planned(t *testing.T, id string, part int) *sim.Plan {
	t.Helper()
	all, err := sim.Scenarios()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.ID == id {
			p, err := sim.NewPlan(s, part, sim.Options{Matrix: wan.Default()}, 2)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatalf("no scenario %s", id)
	return nil
}

func TestAPlanIsWhatTheSimulatorPlays(t *testing.T) {
	p := planned(t, "S6", 0) // "near routers cut off"
	total, rate := 0, 0.0
	for i, slots := range p.Slots {
		total += slots
		if p.Waiting[i] != 12*slots {
			t.Errorf("%s lets %d wait for %d slots", p.Regions[i], p.Waiting[i], slots)
		}
	}
	for _, r := range p.Rates {
		rate += r
	}
	if want := 0.4 * float64(total) / p.Work.Seconds(); rate < 0.999*want || rate > 1.001*want {
		t.Errorf("%v calls/s for a load of 40 %% of %d slots, want %v", rate, total, want)
	}
	f := p.Faults[0]
	if len(p.Faults) != 1 || f.Kind != "cut" || f.From != 4*time.Second || f.To != 9*time.Second {
		t.Fatalf("got %+v", p.Faults)
	}
	for r, cut := range f.Routers {
		near := 0
		for i := range p.Regions {
			if p.RTT[r][i] < p.RTT[r][near] {
				near = i
			}
		}
		if cut != (near == f.Region) {
			t.Errorf("the router in %s is nearest to %s, and cut from %s: %v", p.Origins[r], p.Regions[near], p.Regions[f.Region], cut)
		}
	}
}

func TestATallyIsSummedUpAsARun(t *testing.T) {
	p := planned(t, "S5", 0)
	tally := p.NewTally()
	tally.Call(time.Second, time.Hour, sim.Answered, 0) // before the figures begin
	for range 8 {
		tally.Call(3*time.Second, 50*time.Millisecond, sim.Answered, 0)
	}
	tally.Call(3*time.Second, 150*time.Millisecond, sim.Answered, 1)
	tally.Call(3*time.Second, time.Millisecond, sim.Broken, -1)
	tally.Spent(11, 5)
	row := sim.Summarise("S5", "x", [][]*sim.Tally{{tally}})
	if row.Over100 != 0.2 || row.Over200 != 0.1 || row.Errors != 0.1 || row.Mean != 155 || row.Probes != 0.5 || row.ExtraAttempts < 0.099 || row.ExtraAttempts > 0.101 {
		t.Errorf("got %+v", row)
	}
}

func TestASlowPlanHasAsMuchWorkInFewerCalls(t *testing.T) {
	p := planned(t, "S5", 0)
	if p.Work != 16*time.Millisecond {
		t.Errorf("calls take %v", p.Work)
	}
	for _, name := range []string{"rimlight", "bound"} {
		tally, err := p.Simulate(name, 1)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, r := range p.Rates {
			sum += r
		}
		if want := sum * 12; float64(tally.Calls()) < 0.95*want || float64(tally.Calls()) > 1.05*want {
			t.Errorf("%s: %d calls of about %v", name, tally.Calls(), want)
		}
	}
	if _, err := p.Simulate("nonsense", 1); err == nil {
		t.Error("nonsense was played")
	}
}

func TestRivalsThatNeedMoreThanAChoiceAreRefused(t *testing.T) {
	p := planned(t, "S5", 0)
	for _, name := range []string{"waterfall", "prequal", "nonsense"} {
		if _, err := p.Policy(name, 0, 1, func(int) bool { return true }); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	nearest, err := p.Policy("nearest", 0, 1, func(int) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	first := nearest.Pick(0, p.NewAsk(nil, time.Second))
	second := nearest.Pick(0, p.NewAsk([]int{first}, time.Second))
	for i, d := range p.RTT[0] {
		if d < p.RTT[0][first] || i != first && d < p.RTT[0][second] {
			t.Errorf("chose %s, then %s; %s is nearer", p.Regions[first], p.Regions[second], p.Regions[i])
		}
	}
}

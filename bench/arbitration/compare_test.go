package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/rimlight/rimlight/router/sim"
)

func TestCompareMindsOnlyWhatIsSure(t *testing.T) {
	row := func(policy string, share, noise float64) sim.Row {
		return sim.Row{Scenario: "S5", Policy: policy, Over200: share, Over200Low: share - noise, Over200High: share + noise}
	}
	for _, tt := range []struct {
		rule                string
		measured, simulated []sim.Row
		verdict             string
		disturbed           bool
	}{
		{"the same order agrees", []sim.Row{row("a", 0.01, 0.001), row("b", 0.05, 0.001)}, []sim.Row{row("a", 0, 0), row("b", 0.2, 0)}, agrees, false},
		{"another order does not", []sim.Row{row("a", 0.01, 0.001), row("b", 0.05, 0.001)}, []sim.Row{row("a", 0.2, 0), row("b", 0, 0)}, disagrees, false},
		{"unless the measured difference is noise", []sim.Row{row("a", 0.01, 0.03), row("b", 0.05, 0.03)}, []sim.Row{row("a", 0.2, 0), row("b", 0, 0)}, agrees, false},
		{"or the simulated one", []sim.Row{row("a", 0.01, 0.001), row("b", 0.05, 0.001)}, []sim.Row{row("a", 0.2, 0.1), row("b", 0.1, 0.1)}, agrees, false},
		{"a busy machine decides nothing", []sim.Row{row("a", 0.01, 0.001), row("b", 0.05, 0.001)}, []sim.Row{row("a", 0.2, 0), row("b", 0, 0)}, undecided, true},
		{"the bound is no rival", []sim.Row{row("a", 0.01, 0.001)}, []sim.Row{row("a", 0.2, 0), row(bound, 0, 0)}, agrees, false},
		{"another scenario's rows do not count", []sim.Row{row("a", 0.01, 0.001), row("b", 0.05, 0.001)},
			[]sim.Row{{Scenario: "S6", Policy: "a", Over200: 1, Over200Low: 1, Over200High: 1}, row("b", 0, 0)}, agrees, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			a := compare("S5", tt.measured, tt.simulated, tt.disturbed)
			if a.Verdict != tt.verdict || !strings.HasPrefix(a.Sentence, tt.verdict) {
				t.Errorf("got %+v", a)
			}
			if slices.Contains(a.Simulated, bound) {
				t.Errorf("the bound is ranked: %v", a.Simulated)
			}
		})
	}
}

func TestNoiseShrinksWithCallsAndNeverBelowTheMachines(t *testing.T) {
	plan := testPlan(t, "S5", 0)
	tally := func(calls int) [][]*sim.Tally {
		one := plan.NewTally()
		for range calls {
			one.Call(plan.End/2, 0, sim.Answered, 0)
		}
		return [][]*sim.Tally{{one}}
	}
	few, many := noise(0.1, tally(100)), noise(0.1, tally(10_000))
	if few <= many || many <= machine || noise(0, tally(1)) != machine || noise(0.1, tally(0)) != 1 {
		t.Errorf("got %v of a hundred calls and %v of ten thousand", few, many)
	}
}

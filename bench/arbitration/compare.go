package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/rimlight/rimlight/router/sim"
)

const (
	// clump is about how many bad calls come together: those under way when a region fails. So many count as one draw.
	clump = 8
	// sigmas of the difference that is called noise.
	sigmas = 3
	// machine is the share of calls that two shared cores make late now and then, whoever chooses.
	machine = 0.003
)

// The verdicts.
const (
	agrees    = "agrees"
	disagrees = "disagrees"
	undecided = "undecided" // the machine was too busy for latencies to mean anything
)

// agreement is whether both layers put the policies of a scenario in the same order.
type agreement struct {
	Scenario  string   `json:"scenario"`
	Verdict   string   `json:"verdict"`
	Measured  []string `json:"measured"`  // best first
	Simulated []string `json:"simulated"` // best first
	Sentence  string   `json:"sentence"`
}

// noise is how far a measured share may be off.
func noise(share float64, parts [][]*sim.Tally) float64 {
	calls := 0
	for _, seeds := range parts {
		for _, t := range seeds {
			calls += t.Calls()
		}
	}
	if calls == 0 {
		return 1
	}
	return machine + sigmas*math.Sqrt(clump*share*(1-share)/float64(calls))
}

// compare looks for pairs of policies of which the processes say that one is better and the simulator that the other is, both
// by more than noise. The rows' intervals are the noise. A disturbed run decides nothing.
func compare(scenario string, measured, simulated []sim.Row, disturbed bool) agreement {
	var against []string
	var twins []sim.Row
	for _, x := range measured {
		if twin, ok := find(simulated, x); ok {
			twins = append(twins, twin)
		}
	}
	a := agreement{Scenario: scenario, Verdict: agrees, Measured: ranking(measured), Simulated: ranking(twins)}
	for i, x := range measured {
		for _, y := range measured[i+1:] {
			sx, okX := find(simulated, x)
			sy, okY := find(simulated, y)
			if okX && okY && better(x, y)*better(sx, sy) < 0 {
				against = append(against, fmt.Sprintf("%s (%s measured, %s simulated) and %s (%s, %s)",
					x.Policy, percent(x.Over200), percent(sx.Over200), y.Policy, percent(y.Over200), percent(sy.Over200)))
			}
		}
	}
	orders := strings.Join(a.Measured, ", ") + " measured, " + strings.Join(a.Simulated, ", ") + " simulated, best first"
	switch {
	case disturbed:
		a.Verdict, a.Sentence = undecided, "undecided, since the machine was too busy: "+orders
	case len(against) > 0:
		a.Verdict, a.Sentence = disagrees, "disagrees on "+strings.Join(against, "; ")
	default:
		a.Sentence = "agrees: " + orders
	}
	return a
}

// better is 1 if x has surely fewer bad calls than y, -1 if surely more, 0 if nobody knows.
func better(x, y sim.Row) int {
	switch {
	case x.Over200High < y.Over200Low:
		return 1
	case y.Over200High < x.Over200Low:
		return -1
	default:
		return 0
	}
}

// ranking is the policies of one scenario, best first.
func ranking(rows []sim.Row) (names []string) {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b sim.Row) int { return cmp.Compare(a.Over200, b.Over200) })
	for _, r := range rows {
		names = append(names, r.Policy)
	}
	return names
}

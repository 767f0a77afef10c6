package sim

import (
	"strings"
	"testing"
)

func TestMarkdownShowsTheBestRivalAndTheWorstScenario(t *testing.T) {
	rows := []Row{
		{Scenario: "S1", Policy: "rimlight", Over200: 0.001, Mean: 30},
		{Scenario: "S1", Policy: "nearest", Over200: 0.01, Mean: 31},
		{Scenario: "S1", Policy: "round_robin", Over200: 0.5, Mean: 200},
		{Scenario: "S1", Policy: boundName, Mean: 29},
		{Scenario: "S1/a part", Policy: "rimlight", Over200: 0.9, Part: true},
		{Scenario: "S2-overload", Policy: "rimlight", Over200: 0.8, Overload: true},
	}
	var b strings.Builder
	if err := Markdown(&b, rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| S1 | 0.100 % (0.000 % to 0.000 %) | 1.000 % nearest | 0.000 % | 30.0, 31.0 nearest, 29.0 |",
		"| rimlight | S1 | 0.100 % |", "| round_robin | S1 | 50.000 % |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestIntervalsCoverTheSpreadOfTheSeeds(t *testing.T) {
	value, low, high := interval([]ratio{{1, 10}, {2, 10}, {3, 10}, {4, 10}})
	if value != 0.25 || low < 0.1 || low > 0.2 || high < 0.3 || high > 0.4 {
		t.Errorf("got %v within %v to %v", value, low, high)
	}
	if value, low, high = interval([]ratio{{1, 4}}); value != 0.25 || low != value || high != value {
		t.Errorf("one seed: got %v within %v to %v", value, low, high)
	}
}

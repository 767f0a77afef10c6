package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router/sim"
)

type simCmd struct {
	RTT      string  `name:"rtt" help:"Another matrix of round-trip times, in the form of the built-in one." placeholder:"FILE"`
	Seeds    int     `help:"How many times to play everything, each with other luck." default:"10"`
	Scenario string  `help:"One scenario, S1 to S10 or S2-overload, or a scenario file (.json)." placeholder:"ID"`
	Policy   string  `help:"One policy; the bound is played with it." placeholder:"NAME"`
	Parts    bool    `help:"A row per part of a scenario as well."`
	Capacity float64 `help:"Multiply every region's capacity, and the calls with it." default:"1"`
	Half     uint64  `help:"Keep a random half of the matrix's regions, drawn by this number." placeholder:"NUMBER"`
	Output   string  `short:"o" help:"table, json, or markdown: rimlight beside the best rival and the bound." enum:"table,json,markdown" default:"table"`
}

func (c *simCmd) Run(s *streams) error {
	suite, err := c.suite()
	if err != nil {
		return err
	}
	suite.Progress = func(done, all int) { s.live(fmt.Sprintf("%d of %d runs", done, all)) }
	defer s.live("")
	rows, err := suite.Run()
	if err != nil {
		return usageError{err.Error()}
	}
	switch c.Output {
	case "markdown":
		return sim.Markdown(s.out, rows)
	case "json":
		raw, err := json.Marshal(map[string][]sim.Row{"rows": rows})
		if err != nil {
			return fmt.Errorf("encoding the rows: %w", err)
		}
		return printRawJSON(s.out, raw)
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	row(w, "SCENARIO", "POLICY", "OVER_100MS", "OVER_200MS", "(95 %)", "ERRORS", "MEAN_MS", "P50", "P99", "P99.9", "RECOVERY_MS", "EXTRA", "REGRET_MS", "SWING")
	for _, r := range rows {
		row(w, r.Scenario, r.Policy, share(r.Over100), share(r.Over200), share(r.Over200Low)+"-"+share(r.Over200High), share(r.Errors),
			fmt.Sprintf("%.1f", r.Mean), fmt.Sprintf("%.0f", r.P50), fmt.Sprintf("%.0f", r.P99), fmt.Sprintf("%.0f", r.P999),
			fmt.Sprintf("%.0f", r.Recovery), share(r.ExtraAttempts), fmt.Sprintf("%.1f", r.Regret), share(r.Swing))
	}
	return w.Flush()
}

func share(x float64) string { return fmt.Sprintf("%.3f%%", 100*x) }

// suite reads the files that the flags name. Whatever is wrong with them is a mistake of the command line.
func (c *simCmd) suite() (*sim.Suite, error) {
	suite := &sim.Suite{Seeds: c.Seeds, Parts: c.Parts, Options: sim.Options{Matrix: wan.Default(), Capacity: c.Capacity, Half: c.Half}}
	if c.Seeds < 1 || c.Seeds > 1000 {
		return nil, usageError{fmt.Sprintf("--seeds %d is not within 1 to 1000", c.Seeds)}
	}
	if !(c.Capacity >= 0.1 && c.Capacity <= 100) {
		return nil, usageError{fmt.Sprintf("--capacity %v is not within 0.1 to 100", c.Capacity)}
	}
	if c.Policy != "" {
		suite.Policies = []string{c.Policy}
	}
	if c.RTT != "" {
		err := fromFile(c.RTT, func(f io.Reader) (err error) {
			suite.Options.Matrix, err = wan.Parse(f)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if strings.HasSuffix(c.Scenario, ".json") {
		err := fromFile(c.Scenario, func(f io.Reader) error {
			s, err := sim.ParseScenario(c.Scenario, f)
			suite.Scenarios = []*sim.Scenario{s}
			return err
		})
		return suite, err
	}
	all, err := sim.Scenarios()
	if err != nil {
		return nil, err
	}
	if suite.Scenarios, err = sim.Select(all, c.Scenario); err != nil {
		return nil, usageError{err.Error()}
	}
	return suite, nil
}

func fromFile(name string, read func(io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return usageError{err.Error()}
	}
	if err := errors.Join(read(f), f.Close()); err != nil {
		return usageError{fmt.Sprintf("%s: %v", name, err)}
	}
	return nil
}

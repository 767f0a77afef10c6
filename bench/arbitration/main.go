// Command arbitration plays scenarios of router/sim with real processes: routers with the production data plane before
// region nodes that decide and sign, over loopback connections with the delays of the RTT matrix. The router's own picker
// and three rivals of the simulator take turns in the same data plane; then the simulator plays the same at the same
// scale, and the two must agree who is better.
//
//	this process --calls, open loop--> routers (a process each) --delayed, cut, lossy links--> nodes (a process each)
//	     |  kills, stops and restarts nodes     policy: the picker, or a rival                   work, slow or gray
//	     +-- fulfillment, which every node joins; the drop that every call asks an offer of
//
//	go run ./bench/arbitration [-scenario S5] [-policy nearest] [-o json] [-smoke]
//
// Children are this program again, told by JSON over their standard input what to be; they end when it closes. The scale
// (four regions with a router and two slots each, load and times halved) is what two cores can carry. It exits with 1
// when a scenario's ranking disagrees with the simulator's by more than noise, and with 2 when the machine was too busy to
// tell: then even the generator could not start its calls on time.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/rimlight/rimlight/router/sim"
)

// options are the command line.
type options struct {
	scenario, policy, output string
	parallel                 int
	smoke                    bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		if err := runChild(bufio.NewReader(os.Stdin), os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "arbitration child:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.scenario, "scenario", "", "play only this `id`: "+strings.Join(scenarios, ", "))
	flag.StringVar(&o.policy, "policy", "", "play only this `name`, and compare nothing: "+strings.Join(policies, ", "))
	flag.StringVar(&o.output, "o", "", "table or json; default: table on a terminal, else json")
	flag.IntVar(&o.parallel, "parallel", 1, "how many `platforms` run at a time")
	flag.BoolVar(&o.smoke, "smoke", false, "one short part with two policies, to see that it works; compares nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "arbitration:", err)
		if errors.Is(err, errBusy) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// errBusy: what was measured is the machine.
var errBusy = errors.New("the machine was too busy to tell: run it again when it is quiet")

var errDisagrees = errors.New("the simulator and the processes do not agree")

// report is the JSON document: the rows of `rimlight sim -o json`, of both layers.
type report struct {
	Rows      []sim.Row   `json:"rows"`
	Simulated []sim.Row   `json:"simulated"`
	Agreement []agreement `json:"agreement"`
	Scale     string      `json:"scale"`
	// GeneratorLate is how much later than scheduled calls were started, 99th percentile over all runs, ms.
	GeneratorLate float64 `json:"generator_late_p99_ms"`
}

func run(ctx context.Context, o options, out io.Writer) error {
	if o.output == "" {
		o.output = "json"
		if info, err := os.Stdout.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			o.output = "table"
		}
	}
	if o.output != "table" && o.output != "json" || o.parallel < 1 {
		return fmt.Errorf("-o is table or json, not %q; -parallel is 1 or more, not %d", o.output, o.parallel)
	}
	s, err := newSuite(o)
	if err != nil {
		return err
	}
	s.progress = func(text string) { fmt.Fprintln(os.Stderr, text) }
	begin := time.Now()
	r, err := s.run(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%.0f s\n", time.Since(begin).Seconds())
	if o.output == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = r.table(out)
	}
	if err != nil {
		return err
	}
	verdicts := map[string]bool{}
	for _, a := range r.Agreement {
		verdicts[a.Verdict] = true
	}
	switch {
	case verdicts[disagrees]:
		return errDisagrees
	case verdicts[undecided]:
		return errBusy
	}
	return nil
}

// table prints the report for people.
func (r *report) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SCENARIO\tPOLICY\tOVER_200MS\tSIMULATED\tOVER_100MS\tERRORS\tMEAN_MS\tSIMULATED\tP50\tP99\tP99.9\tRECOVERY_MS\tEXTRA")
	for _, row := range r.Rows {
		s, known := find(r.Simulated, row)
		bad, mean := "-", "-"
		if known {
			bad, mean = percent(s.Over200), fmt.Sprintf("%.1f", s.Mean)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%s\t%.1f\t%.0f\t%.0f\t%.0f\t%s\n", row.Scenario, row.Policy, percent(row.Over200), bad,
			percent(row.Over100), percent(row.Errors), row.Mean, mean, row.P50, row.P99, row.P999, row.Recovery, percent(row.ExtraAttempts))
	}
	for _, a := range r.Agreement {
		fmt.Fprintf(w, "\n%s: %s\n", a.Scenario, a.Sentence)
	}
	fmt.Fprintf(w, "\n%s. Calls started late by the generator: p99 %.1f ms.\n", r.Scale, r.GeneratorLate)
	return w.Flush()
}

func percent(x float64) string { return fmt.Sprintf("%.2f %%", 100*x) }

func find(rows []sim.Row, like sim.Row) (sim.Row, bool) {
	for _, r := range rows {
		if r.Scenario == like.Scenario && r.Policy == like.Policy {
			return r, true
		}
	}
	return sim.Row{}, false
}

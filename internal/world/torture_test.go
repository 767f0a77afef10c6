package world_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rimlight/rimlight/internal/torture"
	"github.com/rimlight/rimlight/internal/world"
)

var workerFlag = flag.Bool("world.worker", false, "TestTortureWorker: play what comes as JSON lines on the standard input; tools/torture does it")

// TestTortureWorker plays the schedules that tools/torture orders, one after the other.
func TestTortureWorker(t *testing.T) {
	if !*workerFlag {
		t.Skip("a worker of make torture")
	}
	debug.SetGCPercent(1000) // a world is small and short: 250 MB are cheaper than collecting more often
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o torture.Order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			t.Fatal(err)
		}
		if err := out.Encode(playOrder(t, o)); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
}

func playOrder(t *testing.T, o torture.Order) torture.Verdict {
	cfg := world.Torture(o.Seed, o.Aim)
	v := torture.Verdict{Seed: o.Seed, Size: len(cfg.Schedule), Faults: map[string]int{}}
	if o.Transport != "" {
		cfg.OverGRPC = o.Transport == torture.OverGRPC
	}
	v.OverGRPC = cfg.OverGRPC
	if o.Keep != nil {
		cfg = cfg.Keep(*o.Keep)
	}
	var r *world.Report
	var err error
	synctest.Test(t, func(t *testing.T) { r, err = world.Run(t.Context(), cfg) })
	if err != nil {
		v.Broken, v.Detail = []string{"world"}, err.Error()
		return v
	}
	for _, d := range r.Drops {
		v.Accepts += d.Accepted
		v.Sold += d.Sold
		if d.SellsOut {
			v.Wanted += d.Units - d.Excused
			v.SoldOfWanted += d.Sold
		}
	}
	for what, n := range r.Faults {
		v.Faults[what] += n
	}
	v.Faults["message lost"], v.Faults["message doubled"] = r.Network.Lost, r.Network.Duplicated
	v.VirtualSeconds = r.Duration.Seconds()
	if v.Broken = r.Broken(); len(v.Broken) > 0 {
		var lines []string
		for _, x := range r.Violations {
			lines = append(lines, fmt.Sprintf("%s (%s): %s", x.Law, x.Rule, x.Detail))
		}
		v.Detail = strings.Join(lines[:min(len(lines), 8)], "\n")
	}
	if o.Tell {
		v.Story = r.String()
		for _, f := range cfg.Schedule {
			v.Schedule = append(v.Schedule, f.String())
		}
	}
	return v
}

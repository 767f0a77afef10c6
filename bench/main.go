// Command bench measures what Rimlight promises in figures and writes them as markdown tables.
//
//	go run ./bench [-only NAME] [-write]
//
//	figure      what                                                     beside
//	decision    CPU of one RequestOffer over the native listener         an echo of the same sizes, one signature
//	redeem      durable accepts per second, latency at a fixed rate      the bare journal
//	recovery    start of a node with a million sales in its journal      the same without its snapshots  (minutes: -cold)
//	settlement  purchases per second from receipt to order, each engine  bare inserts into the same engine
//	reports     report, list and audit of a million purchases, each engine  (minutes: -cold)
//	forwarding  CPU of one call through a router                         the same call direct
//	web         CPU of a router per call of gRPC-Web over TLS            a transparent proxy of grpc-go
//	telemetry   CPU of a router per call with metrics and traces         a router without
//	streams     memory of an idle viewer, time until all heard of a drop
//	payment     accepted to captured under a realistic mix of payments
//	idle        memory and CPU of `rimlight dev` without viewers
//	binary      size of the program
//	build       time of a build from nothing (minutes: -cold)
//
// Rivals take turns in one run, so that what disturbs the machine disturbs all of them; figures are medians over those
// rounds, and ratios are medians of each round's ratio. CPU is the processor time of the whole process, client included.
// At a fixed rate calls start on schedule whether or not earlier ones came back, and latency counts from the schedule.
// Every table says what it cannot show.
//
// It asserts nothing: a figure depends on the machine, so none of them may fail a build. Package benchmarks
// (go test -bench) measure single functions; here the real parts run together.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
)

// figure is one measurement with its table.
type figure struct {
	name    string // for -only, and of its place in the README
	title   string
	slow    bool // left out unless asked for
	measure func(context.Context, settings) (section, error)
}

var figures = []figure{
	{name: "decision", title: "Decision and token", measure: measureDecision},
	{name: "redeem", title: "Redeem", measure: measureRedeem},
	{name: "recovery", title: "Recovery", slow: true, measure: measureRecovery},
	{name: "settlement", title: "Settlement", measure: measureSettlement},
	{name: "reports", title: "A million purchases", slow: true, measure: measureReports},
	{name: "forwarding", title: "Forwarding", measure: measureForwarding},
	{name: "web", title: "gRPC-Web over TLS", measure: measureWeb},
	{name: "telemetry", title: "What telemetry costs a router", measure: measureTelemetry},
	{name: "streams", title: "Idle viewers", measure: measureStreams},
	{name: "payment", title: "Accepted to captured", measure: measurePayments},
	{name: "idle", title: "`rimlight dev`, idle", measure: measureIdle},
	{name: "binary", title: "Binary size", measure: measureBinary},
	{name: "build", title: "Cold build", slow: true, measure: measureBuild},
}

// children are what this program is, too, in a process of its own.
var children = map[string]func(args []string) error{proxyArg: runProxy, routerArg: runRouter}

// settings are what every figure is given.
type settings struct {
	dir   string // fresh, on the disk that journals are measured on
	smoke bool   // does it still work: the smallest sizes, figures without meaning
	log   io.Writer
}

// pick is a size: the real one, or the smoke test's.
func (s settings) pick(real, smoke int) int {
	if s.smoke {
		return smoke
	}
	return real
}

// options are the command line.
type options struct {
	only, dir, readme, cpuProfile string
	write, smoke, cold            bool
}

func main() {
	if len(os.Args) > 1 {
		if child, ok := children[os.Args[1]]; ok {
			if err := child(os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
				os.Exit(1)
			}
			return
		}
	}
	var o options
	flag.StringVar(&o.only, "only", "", "measure only this `figure`: "+strings.Join(names(), ", "))
	flag.BoolVar(&o.write, "write", false, "put the tables into the README")
	flag.BoolVar(&o.smoke, "smoke", false, "run everything at the smallest size, to see that it works")
	flag.BoolVar(&o.cold, "cold", false, "measure what takes minutes, too: the build from nothing, a million purchases or sales")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "a `directory` on the disk to measure")
	flag.StringVar(&o.readme, "readme", filepath.Join("bench", "README.md"), "the `file` that -write changes")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile to this `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func names() []string {
	all := make([]string, len(figures))
	for i, f := range figures {
		all[i] = f.name
	}
	return all
}

func run(ctx context.Context, o options) (err error) {
	if o.smoke && o.write {
		return errors.New("-smoke measures nothing that is worth writing: leave out -write")
	}
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	stopProfile, err := startProfile(o.cpuProfile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopProfile()) }()
	for _, f := range chosen {
		if err := o.measure(ctx, f); err != nil {
			return fmt.Errorf("measuring %s: %w", f.name, err)
		}
	}
	return nil
}

func choose(o options) ([]figure, error) {
	var chosen []figure
	for _, f := range figures {
		if f.name == o.only || o.only == "" && (!f.slow || o.cold) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("there is no figure %q; there are %s", o.only, strings.Join(names(), ", "))
	}
	return chosen, nil
}

// measure runs one figure in a directory of its own and prints its section.
func (o options) measure(ctx context.Context, f figure) (err error) {
	dir, err := os.MkdirTemp(o.dir, "rimlight-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	machine, err := describeMachine(dir)
	if err != nil {
		return err
	}
	s, err := f.measure(ctx, settings{dir: dir, smoke: o.smoke, log: os.Stderr})
	if err != nil {
		return err
	}
	if o.smoke {
		machine += " A SMOKE RUN: these figures mean nothing."
	}
	text := s.markdown(machine)
	fmt.Printf("## %s\n\n%s\n", f.title, text)
	if !o.write {
		return nil
	}
	return updateFile(o.readme, f.name, text)
}

func startProfile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

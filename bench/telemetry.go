package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// routerArg makes this program a router, with as much telemetry as it is told to have.
const routerArg = "telemetry-router"

// defaultRatio is the one of `rimlight router --trace-ratio`.
const defaultRatio = 0.01

// observed is how much telemetry a router has.
type observed struct {
	name, title string
	metrics     bool
	ratio       float64 // of traces; negative: none
}

var observations = []observed{
	{"nothing", "no telemetry", false, -1},
	{"metrics", "metrics", true, -1},
	{"both", fmt.Sprintf("metrics, and traces as by default: %.0f %%, and every slow or failed one", 100*defaultRatio), true, defaultRatio},
	{"all", "metrics, and every trace", true, 1},
}

// runRouter serves until SIGTERM. Its arguments are the name of an observation, the node's address, and the files of its
// certificate.
func runRouter(args []string) error {
	if len(args) != 4 {
		return errors.New("needs OBSERVATION ADDRESS CERTIFICATE KEY")
	}
	i := slices.IndexFunc(observations, func(o observed) bool { return o.name == args[0] })
	if i < 0 {
		return fmt.Errorf("there is no observation %q", args[0])
	}
	cert, err := tls.LoadX509KeyPair(args[2], args[3])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	common := process.Common{Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}
	if observations[i].metrics {
		common.Metrics = prometheus.NewRegistry()
	}
	if ratio := observations[i].ratio; ratio >= 0 {
		// As in production, without the network: a batch is dropped where it would be sent.
		common.Traces = telemetry.Config{Ratio: ratio, Sink: sdktrace.NewBatchSpanProcessor(tracetest.NewNoopExporter())}
	}
	router, err := process.StartRouter(ctx, process.Router{
		Common: common, Name: "bench", AdminListen: "127.0.0.1:0", Regions: map[string]string{"bench": args[1]},
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "the router%s%s\n", listens, router.Addr())
	return router.Run(ctx)
}

// measureTelemetry compares routers that differ in nothing but their telemetry. Each is a process of its own before one
// node, and only its time counts.
func measureTelemetry(ctx context.Context, s settings) (section, error) {
	self, err := os.Executable()
	if err != nil {
		return section{}, err
	}
	cert, err := certificate(s.dir)
	if err != nil {
		return section{}, err
	}
	var cpu [][]time.Duration
	err = inWorld(ctx, s.dir, func(w *world) error {
		drop, err := w.openDrop(ctx, s.pick(1000, 100))
		if err != nil {
			return err
		}
		var contenders []contender
		var next func(context.Context) error
		next = func(ctx context.Context) error {
			if len(contenders) == len(observations) {
				cpu, err = takeShortTurns(ctx, s.pick(250, len(observations)+1), s.pick(400, 50), contenders)
				return err
			}
			o := observations[len(contenders)]
			return s.besideListener(ctx, func(ctx context.Context, pid int, addr string) error {
				conn, err := w.dial(addr, rpc.DialConfig{Timeout: callTimeout, TLS: &tls.Config{InsecureSkipVerify: true}}) // made for this run
				if err != nil {
					return err
				}
				contenders = append(contenders, w.requests(o.name, drop, pid, conn))
				if err := waitGranted(ctx, contenders[len(contenders)-1]); err != nil {
					return err
				}
				return next(ctx)
			}, self, routerArg, o.name, w.addr, cert.cert, cert.key)
		}
		return next(ctx)
	})
	if err != nil {
		return section{}, err
	}
	return telemetrySection(cpu), nil
}

// takeShortTurns is compareCPU for differences of a few hundredths: turns of a tenth of a second, so that what disturbs the
// machine disturbs all, a different one first in every round, and processor time in nanoseconds.
func takeShortTurns(ctx context.Context, rounds, calls int, contenders []contender) ([][]time.Duration, error) {
	perCall := make([][]time.Duration, len(contenders))
	for round := range rounds {
		for turn := range contenders {
			i := (round + turn) % len(contenders)
			before, err := threadsTime(contenders[i].pid)
			if err != nil {
				return nil, err
			}
			if _, err := closedLoop(ctx, callers, calls, func(ctx context.Context, _ int) error { return contenders[i].call(ctx) }); err != nil {
				return nil, err
			}
			after, err := threadsTime(contenders[i].pid)
			if err != nil {
				return nil, err
			}
			if round >= len(contenders) { // all have been first
				perCall[i] = append(perCall[i], (after-before)/time.Duration(calls))
			}
		}
	}
	return perCall, nil
}

// threadsTime is the processor time of a process, of all its threads that are left: proc(5), schedstat, in nanoseconds.
func threadsTime(pid int) (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, errors.Join(errNoSchedstat, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that ended
		}
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", f, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

var errNoSchedstat = errors.New("the kernel does not tell the processor time of threads (schedstat)")

func telemetrySection(cpu [][]time.Duration) section {
	t := table{header: []string{"CPU of a router, per RequestOffer", "median µs", "lowest to highest round", "more than with none, median of each round's", "19 times out of 20 within"}}
	for i, o := range observations {
		from, to := around(ratios(cpu[i], cpu[0]))
		t.add(o.title, micros(median(cpu[i])), spread(cpu[i], micros), fmt.Sprintf("%.1f %%", 100*more(cpu[i], cpu[0])),
			fmt.Sprintf("%.1f to %.1f %%", 100*(from-1), 100*(to-1)))
	}
	return section{
		tables: []table{t},
		aim:    fmt.Sprintf("Aim: all telemetry of a router, as it is by default, under %.0f %% of its processor time: %s.", 100*telemetryShare, met(more(cpu[2], cpu[0]), telemetryShare)),
		cannot: fmt.Sprintf("what sending traces costs, which is a batch in five seconds, or what reading metrics costs, which is a page in fifteen. gRPC over TLS "+
			"from one connection with %d callers. SLO windows and kept decisions are the router's work, and in every row; no call was slow or failed. Only the routers' time "+
			"is counted, by the kernel.", callers),
	}
}

// more is how much more processor time one takes, round by round: what a call costs halves or doubles with what else the
// machine does, and stays so for longer than a round, so medians of all rounds differ by more than telemetry costs.
func more(with, without []time.Duration) float64 { return ratio(with, without) - 1 }

func met(share, aim float64) string {
	if share <= aim {
		return fmt.Sprintf("met, with %.1f points to spare", 100*(aim-share))
	}
	return fmt.Sprintf("missed by %.1f points", 100*(share-aim))
}

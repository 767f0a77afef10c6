// Command torture plays schedules of faults on the platform in virtual time: docs/testing.md.
//
//	go run ./tools/torture -schedules 2000 -seed 1     ends with one JSON line; exit 1 when a law was broken
//	go run ./tools/torture -replay -seed 17 -keep 3,5  tells one schedule's story, with some of its faults only
//	go run ./tools/torture -mutants                    leaves out one rule after the other; exit 1 when nobody notices
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/torture"
)

var (
	schedules = flag.Int("schedules", 2000, "how many schedules to play")
	seed      = flag.Uint64("seed", 1, "seed of the first; the others follow it; 0: one that nobody chose")
	last      = flag.Duration("for", 0, "play for about this long instead of a number of schedules")
	workers   = flag.Int("workers", runtime.NumCPU(), "processes")
	replay    = flag.Bool("replay", false, "play the one schedule of -seed and tell its story")
	keep      = flag.String("keep", "", "with -replay: places of the faults to keep, with commas; empty: all")
	aim       = flag.String("aim", "", "mix of faults: market, crashes, disks, copies, late, operators, room, payments, cards, money, parcels, restores, verifier-restores, late-answers, catalogue; empty: every kind")
	transport = flag.String("transport", "", "what carries the calls: in-process or grpc; empty: as each seed draws it, one in fifty over grpc")
	mutants   = flag.Bool("mutants", false, "leave out one rule after the other, and tell how soon a law breaks")
	rule      = flag.String("rule", "", "with -mutants or -replay: this mutation only")
	runs      = flag.Int("runs", 5, "with -mutants: runs for the median")
	most      = flag.Int("most", 200, "with -mutants: schedules of a run")
	times     = flag.Int("times", 5, "with -replay: how often at most, until a law breaks")
)

func main() {
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(rand.Uint32()) + 1
		fmt.Printf("seed %d\n", *seed)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	held, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
	}
	if err != nil || !held {
		os.Exit(1) //nolint:gocritic // the process ends anyway
	}
}

func run(ctx context.Context) (held bool, err error) {
	if !slices.Contains([]string{"", torture.InProcess, torture.OverGRPC}, *transport) {
		return false, fmt.Errorf("-transport %s: there are %s and %s", *transport, torture.InProcess, torture.OverGRPC)
	}
	dir, err := os.MkdirTemp("", "torture")
	if err != nil {
		return false, err
	}
	defer func() { err = firstError(err, os.RemoveAll(dir)) }()
	tags, args := "", []string{}
	if *mutants || *rule != "" {
		tags = "mutants"
	}
	binary, err := torture.Build(ctx, dir, tags)
	if err != nil {
		return false, err
	}
	if *mutants {
		return hunt(ctx, binary)
	}
	if *rule != "" {
		args = []string{"-mutant", *rule}
	}
	pool := torture.NewPool(ctx, binary, *workers, args...)
	defer func() { err = firstError(err, pool.Stop()) }()
	if *replay {
		return tell(ctx, pool)
	}
	var broken []torture.Verdict
	if *last > 0 {
		*schedules = math.MaxInt
	}
	summary, err := torture.Run(ctx, pool, *last, torture.Order{Seed: *seed, Aim: *aim, Transport: *transport}, *schedules, func(v torture.Verdict) {
		if len(v.Broken) > 0 {
			broken = append(broken, v)
			fmt.Printf("seed %d broke %s\n%s\n%s\n\n", v.Seed, strings.Join(v.Broken, ", "), indent(v.Detail), torture.Order{Seed: v.Seed, Aim: *aim, Transport: *transport}.Replay())
		}
	})
	if err != nil {
		return false, err
	}
	for _, v := range broken[:min(len(broken), mostShrunk)] {
		if err := shrink(ctx, pool, v); err != nil {
			return false, err
		}
	}
	line, err := json.Marshal(summary)
	if err != nil {
		return false, err
	}
	fmt.Println(string(line))
	return summary.Violations == 0, nil
}

// hunt leaves the rules out one after the other, as many at a time as there are workers.
func hunt(ctx context.Context, binary string) (allCaught bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(*workers)
	var mu sync.Mutex // guards allCaught and the output
	allCaught = true
	for _, r := range mutant.Rules() {
		if *rule != "" && *rule != string(r.Mutation) {
			continue
		}
		g.Go(func() error {
			c, err := torture.Hunt(ctx, torture.NewPool(ctx, binary, 1, "-mutant", string(r.Mutation)), r, torture.Order{Seed: *seed, Transport: *transport}, *runs, *most)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			allCaught = allCaught && !c.Survived()
			fmt.Println(c)
			return nil
		})
	}
	err = g.Wait()
	return allCaught, err
}

// mostShrunk bounds how many broken schedules are made small: the first ones tell most.
const mostShrunk = 3

// shrinkTries is how often a part of a schedule is played before it counts as harmless.
const shrinkTries = 5

func shrink(ctx context.Context, pool *torture.Pool, v torture.Verdict) error {
	var failure error
	small := torture.Shrink(v.Size, func(keep []int) bool {
		for range shrinkTries {
			again, err := pool.Play(ctx, torture.Order{Seed: v.Seed, Aim: *aim, Transport: *transport, Keep: &keep})
			if err != nil {
				failure = err
				return true // ends the search soon
			}
			if len(again.Broken) > 0 {
				return true
			}
		}
		return false
	})
	if failure != nil {
		return failure
	}
	o := torture.Order{Seed: v.Seed, Aim: *aim, Transport: *transport, Keep: &small, Tell: true}
	told, err := pool.Play(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("seed %d needs %d of its %d faults:\n%s\n%s\n\n", v.Seed, len(small), v.Size, indent(strings.Join(told.Schedule, "\n")), o.Replay())
	return nil
}

// tell plays one schedule until a law breaks.
func tell(ctx context.Context, pool *torture.Pool) (held bool, err error) {
	o := torture.Order{Seed: *seed, Aim: *aim, Transport: *transport, Tell: true}
	if *keep != "" {
		o.Keep = &[]int{}
		for word := range strings.SplitSeq(*keep, ",") {
			n, err := strconv.Atoi(word)
			if err != nil {
				return false, fmt.Errorf("-keep: %w", err)
			}
			*o.Keep = append(*o.Keep, n)
		}
	}
	for range *times {
		v, err := pool.Play(ctx, o)
		if err != nil {
			return false, err
		}
		if held = len(v.Broken) == 0; held {
			fmt.Println("held")
			continue
		}
		fmt.Printf("%s\n%s\n%s\n", strings.Join(v.Schedule, "\n"), v.Story, indent(v.Detail))
		return false, nil
	}
	return held, nil
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

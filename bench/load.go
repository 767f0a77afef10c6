package main

import (
	"context"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// contender is one of several things that are measured by turns.
type contender struct {
	name string
	call func(ctx context.Context) error
	pid  int // the process whose time counts; 0: this one
}

// callers is how many calls are under way at a time when CPU is measured: enough to share wake-ups as a busy server
// does, too few to build a queue.
const callers = 8

// closedLoop makes n calls from so many goroutines, each one after another, and tells how long all took. The first error
// ends it.
func closedLoop(ctx context.Context, goroutines, n int, call func(ctx context.Context, i int) error) (time.Duration, error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range goroutines {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := call(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return time.Since(begin), err
}

// costs are what calls took: on the clock, and of the processors.
type costs struct{ wall, cpu time.Duration }

// measured is a closedLoop with its costs, begun without the garbage of what went before.
func measured(ctx context.Context, goroutines, n int, call func(ctx context.Context, i int) error) (costs, error) {
	runtime.GC()
	before, err := cpuTime()
	if err != nil {
		return costs{}, err
	}
	wall, err := closedLoop(ctx, goroutines, n, call)
	if err != nil {
		return costs{}, err
	}
	after, err := cpuTime()
	return costs{wall: wall, cpu: after - before}, err
}

// compareCPU gives each contender's processor time per call in every round, [contender][round]. One more round goes
// before, to warm up, and is forgotten.
func compareCPU(ctx context.Context, rounds, calls int, contenders ...contender) ([][]time.Duration, error) {
	perCall := make([][]time.Duration, len(contenders))
	for round := range rounds + 1 {
		for i, c := range contenders {
			spent, err := c.spend(ctx, calls)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				perCall[i] = append(perCall[i], spent/time.Duration(calls))
			}
		}
	}
	return perCall, nil
}

// spend makes calls and tells the processor time that they took.
func (c contender) spend(ctx context.Context, calls int) (time.Duration, error) {
	call := func(ctx context.Context, _ int) error { return c.call(ctx) }
	if c.pid == 0 {
		spent, err := measured(ctx, callers, calls, call)
		return spent.cpu, err
	}
	before, err := processTime(c.pid)
	if err != nil {
		return 0, err
	}
	if _, err := closedLoop(ctx, callers, calls, call); err != nil {
		return 0, err
	}
	after, err := processTime(c.pid)
	return after - before, err
}

// cpuTime is the processor time, user and system, that this process has used.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// paced are the calls of an open loop: how long each took from its intended start, and how much later than intended it
// was started. The latter is the generator's own share.
type paced struct{ latency, late []time.Duration }

// openLoop starts n calls at a fixed rate per second, whether or not earlier ones came back: a slow server does not slow
// its viewers down.
func openLoop(ctx context.Context, rate, n int, call func(ctx context.Context, i int) error) (paced, error) {
	p := paced{latency: make([]time.Duration, n), late: make([]time.Duration, n)}
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for i := range n {
		intended := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if wait := time.Until(intended); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return paced{}, g.Wait()
			}
		}
		p.late[i] = time.Since(intended)
		g.Go(func() error {
			err := call(ctx, i)
			p.latency[i] = time.Since(intended)
			return err
		})
	}
	return p, g.Wait()
}

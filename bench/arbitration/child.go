package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router/sim"
)

// childArg makes this program a child.
const childArg = "child"

// job is what a child is told to be: one line of JSON.
type job struct {
	Role   string // "router" or "region"
	Index  int    // which of the plan's
	Policy string
	Dir    string

	Scenario *sim.Scenario
	Part     int
	CSV      string // the matrix

	Listen      string // region: where; empty: anywhere
	Fulfillment string
	Tokens      auth.Tokens
	Regions     map[string]string // router: name to address
}

// ready is a child's word that it listens.
type ready struct{ Addr string }

// begin starts the clock of the scenario: faults follow it. The second line that a child is told.
type begin struct{ At time.Time }

// spent is a router's last word.
type spent struct{ Attempts, Probes int }

// clock is the scenario's time; it stands at zero until begin.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) start(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// now is negative before the scenario.
func (c *clock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return -1
	}
	return time.Since(c.at)
}

// plan is what everybody plays.
func (j job) plan() (*sim.Plan, error) {
	m, err := wan.Parse(strings.NewReader(j.CSV))
	if err != nil {
		return nil, err
	}
	return sim.NewPlan(j.Scenario, j.Part, sim.Options{Matrix: m, Capacity: capacity}, slower)
}

// service is what a child runs.
type service struct {
	addr  string
	run   func(context.Context) error
	ready <-chan struct{}       // nil: at once
	last  func() (spent, error) // nil: nothing to tell at the end
}

// runChild is a child's life: told what to be, it serves until its standard input ends.
func runChild(in *bufio.Reader, out io.Writer) error {
	var j job
	if err := readLine(in, &j); err != nil {
		return err
	}
	plan, err := j.plan()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	now := &clock{}
	var s *service
	switch j.Role {
	case "region":
		s, err = startRegion(ctx, j, plan, now)
	case "router":
		s, err = startRouter(ctx, j, plan, now)
	default:
		err = fmt.Errorf("no role is called %q", j.Role)
	}
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- s.run(ctx) }()
	if s.ready != nil {
		<-s.ready // it takes 400 ms at most
	}
	if err := json.NewEncoder(out).Encode(ready{s.addr}); err != nil {
		return fmt.Errorf("telling the address: %w", err)
	}
	var b begin
	if err := readLine(in, &b); err == nil {
		now.start(b.At)
		_, err = in.ReadByte() // nothing more comes: the end of the input is the end of the run
		if !errors.Is(err, io.EOF) {
			return errors.Join(errors.New("the parent said more than it should"), err)
		}
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	if s.last != nil {
		last, err := s.last()
		if err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(last); err != nil {
			return fmt.Errorf("telling what was spent: %w", err)
		}
	}
	stop()
	return <-served
}

func readLine(in *bufio.Reader, into any) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

// child is a process of the platform, as its parent sees it.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startingTakes bounds how long a child may take until it listens: it takes a fraction of a second, on a busy machine more.
const startingTakes = 30 * time.Second

// spawn starts a child and waits until it listens. Not bound to a context: it ends when its input does.
func spawn(program string, j job) (*child, string, error) {
	c := &child{cmd: exec.Command(program, childArg)}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, "", fmt.Errorf("starting a child: %w", err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, "", fmt.Errorf("starting a child: %w", err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("starting a child: %w", err)
	}
	watchdog := time.AfterFunc(startingTakes, func() { _ = c.cmd.Process.Kill() }) // then reading its word fails
	defer watchdog.Stop()
	var r ready
	if err := errors.Join(c.tell(j), readLine(c.out, &r)); err != nil {
		return nil, "", errors.Join(fmt.Errorf("a %s did not start: %w", j.Role, err), c.kill())
	}
	return c, r.Addr, nil
}

func (c *child) tell(v any) error { return json.NewEncoder(c.in).Encode(v) }

// signal sends a signal; SIGSTOP and SIGCONT do not wait for anything.
func (c *child) signal(s syscall.Signal) error { return c.cmd.Process.Signal(s) }

// kill ends it at once. That it ended by a signal is no error.
func (c *child) kill() error {
	err := c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// end lets it stop in order and reads its last word into last, if that is not nil.
func (c *child) end(last any) error {
	watchdog := time.AfterFunc(startingTakes, func() { _ = c.cmd.Process.Kill() }) // then Wait tells
	defer watchdog.Stop()
	err := c.in.Close()
	if last != nil {
		err = errors.Join(err, readLine(c.out, last))
	}
	return errors.Join(err, c.cmd.Wait())
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

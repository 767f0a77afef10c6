package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// upWords are in the line that `rimlight dev` prints when it serves, upWithin is what it gives itself for that.
	upWords  = " is up after "
	upWithin = time.Minute
	// stopWithin is more than every stage of its shutdown may take.
	stopWithin = 30 * time.Second
	// clockTicks is what Linux counts a process's time in, per second, on every architecture that Go runs on.
	clockTicks = 100
)

// measureIdle starts the whole platform as a process of its own, without viewers, and looks at it from outside.
func measureIdle(ctx context.Context, s settings) (section, error) {
	program, err := s.build(ctx, "rimlight", nil)
	if err != nil {
		return section{}, err
	}
	t := table{header: []string{"`rimlight dev --viewers 0`", ""}}
	err = s.besideDev(ctx, program.path, func(ctx context.Context, pid int, up time.Duration) error {
		t.add("from its start until it serves, s", seconds(up))
		return s.watch(ctx, pid, &t)
	})
	return section{
		tables: []table{t},
		cannot: "an idle deployment: that has a process per service. This is one process with four nodes, three routers, the centre, their probes and " +
			"gossip, and a demo drop every minute that nobody wants. Memory grows with drops and purchases, which nodes keep.",
	}, err
}

// besideDev runs fn while `rimlight dev` is up, in a process of its own.
func (s settings) besideDev(ctx context.Context, program string, fn func(ctx context.Context, pid int, up time.Duration) error) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(running, program, "dev", "--viewers", "0", "--listen", "127.0.0.1:0", "--data", filepath.Join(s.dir, "dev"))
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config")) // where it leaves its role tokens
	words := &waitFor{words: []byte(upWords), seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = words, s.log
	return s.beside(ctx, stop, cmd, words, func(ctx context.Context, up time.Duration) error { return fn(ctx, cmd.Process.Pid, up) })
}

// beside runs fn while a program is up, which it is once it said the words; up is how long that took. stop ends the
// command's context.
func (s settings) beside(ctx context.Context, stop func(), cmd *exec.Cmd, words *waitFor, fn func(ctx context.Context, up time.Duration) error) error {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	patience := time.NewTimer(upWithin)
	defer patience.Stop()
	var err error
	select {
	case <-words.seen:
		err = fn(ctx, time.Since(begin))
	case err := <-ended:
		return fmt.Errorf("%s ended by itself: %w", cmd.Args[1], errors.Join(errNeverUp, err))
	case <-patience.C:
		err = errNeverUp
	case <-ctx.Done():
		err = ctx.Err()
	}
	stop()
	if waitErr := <-ended; !errors.Is(waitErr, context.Canceled) { // what Wait says when the process ended well, as it was asked to
		err = errors.Join(err, waitErr)
	}
	return err
}

var errNeverUp = errors.New("it never said that it was up")

// waitFor is a Writer that closes seen when the words have been written.
type waitFor struct {
	words  []byte
	seen   chan struct{}
	so     bytes.Buffer
	closed bool
}

// Write implements io.Writer.
func (w *waitFor) Write(p []byte) (int, error) {
	if w.closed {
		return len(p), nil
	}
	w.so.Write(p)
	if bytes.Contains(w.so.Bytes(), w.words) {
		w.closed = true
		close(w.seen)
	}
	return len(p), nil
}

// watch adds what a process uses over a while.
func (s settings) watch(ctx context.Context, pid int, t *table) error {
	settle, span := time.Duration(s.pick(5, 0))*time.Second, time.Duration(s.pick(20, 1))*time.Second
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := processTime(pid)
	if err != nil {
		return err
	}
	if err := pause(ctx, span); err != nil {
		return err
	}
	after, err := processTime(pid)
	if err != nil {
		return err
	}
	memory, err := processMemory(pid)
	if err != nil {
		return err
	}
	t.add(fmt.Sprintf("CPU over %v, %% of one core", span), fmt.Sprintf("%.1f", 100*(after-before).Seconds()/span.Seconds()))
	t.add("resident memory, MiB", mebibytes(memory.now))
	t.add("resident memory, peak since its start, MiB", mebibytes(memory.peak))
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// processTime is the processor time, user and system, of a process: proc(5), stat, fields 14 and 15.
func processTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from field 3 on; field 2 may hold spaces
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

type memory struct{ now, peak int64 } // bytes

func processMemory(pid int) (memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		var into *int64
		switch key {
		case "VmRSS":
			into = &m.now
		case "VmHWM":
			into = &m.peak
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("reading %s of /proc/%d/status: %w", key, pid, err)
		}
		*into = kib << 10
	}
	return m, nil
}

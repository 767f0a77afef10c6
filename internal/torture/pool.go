package torture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// worldPackage has the workers' test.
const worldPackage = "./internal/world"

// patience is how long a schedule may take on the real clock before its worker counts as hanging: a thousand times
// what one takes.
const patience = 2 * time.Minute

// Pool is some worker processes.
type Pool struct {
	ctx     context.Context // of the processes
	binary  string
	args    []string
	workers int
	cpu     atomic.Int64 // of workers that ended, in ns
	idle    chan *worker
}

// Build compiles the workers' binary into dir, with build tags if any.
func Build(ctx context.Context, dir, tags string) (binary string, err error) {
	binary = filepath.Join(dir, "world.test")
	c := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-tags", tags, "-o", binary, worldPackage)
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the workers: %w\n%s", err, out)
	}
	return binary, nil
}

// NewPool starts workers when they are needed, at most n at a time, each with further flags. They die with ctx.
func NewPool(ctx context.Context, binary string, n int, args ...string) *Pool {
	p := &Pool{ctx: ctx, binary: binary, workers: n, args: args, idle: make(chan *worker, n)}
	for range n {
		p.idle <- &worker{}
	}
	return p
}

// CPU is the processor time of the workers that have ended.
func (p *Pool) CPU() time.Duration { return time.Duration(p.cpu.Load()) }

// Each plays orders until they end and hands every verdict on; told may be called from several goroutines. Afterwards
// the workers are stopped: a later call starts others.
func (p *Pool) Each(ctx context.Context, orders <-chan Order, told func(Verdict)) error {
	g, ctx := errgroup.WithContext(ctx)
	for range p.workers {
		g.Go(func() error {
			for o := range orders {
				v, err := p.Play(ctx, o)
				if err != nil {
					return err
				}
				told(v)
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), p.Stop())
}

// Play plays one order. The error is a worker that could not be started; one that died is the verdict's violation.
func (p *Pool) Play(ctx context.Context, o Order) (Verdict, error) {
	w := <-p.idle
	defer func() { p.idle <- w }()
	if w.cmd == nil {
		if err := w.start(p.ctx, p.binary, p.args); err != nil {
			return Verdict{}, err
		}
	}
	v, err := w.play(o)
	if err != nil {
		end := w.stop(&p.cpu)
		if ctx.Err() != nil {
			return Verdict{}, ctx.Err()
		}
		return Verdict{Seed: o.Seed, Broken: []string{"process"}, Detail: fmt.Sprintf("the worker died: %v, %v\n%s", err, end, w.lastWords())}, nil
	}
	return v, nil
}

// Stop ends the idle workers.
func (p *Pool) Stop() error {
	var errs []error
	for range p.workers {
		w := <-p.idle
		if w.cmd != nil {
			errs = append(errs, w.stop(&p.cpu))
		}
		p.idle <- w
	}
	return errors.Join(errs...)
}

// worker is one process; the zero value is none yet.
type worker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	words  *bytes.Buffer // its standard error
	others []string      // lines of its output that are no verdicts
}

func (w *worker) start(ctx context.Context, binary string, args []string) error {
	c := exec.CommandContext(ctx, binary, append([]string{"-test.run", "^TestTortureWorker$", "-test.timeout", "0", "-world.worker"}, args...)...)
	// Processes use the cores; one core each replays better. Goroutines come and go by the thousand, and need deep stacks
	// for a moment: growing a small one each time took a tenth of all time.
	c.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=adaptivestackstart=1")
	var err error
	if w.in, err = c.StdinPipe(); err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	w.words, w.others = &bytes.Buffer{}, nil
	c.Stderr = w.words
	if err := c.Start(); err != nil {
		return fmt.Errorf("starting a worker: %w", err)
	}
	w.cmd, w.out = c, bufio.NewScanner(out)
	w.out.Buffer(nil, 16<<20)
	return nil
}

func (w *worker) play(o Order) (Verdict, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return Verdict{}, err
	}
	hang := time.AfterFunc(patience, func() { _ = w.cmd.Process.Kill() }) // its end is noticed below
	defer hang.Stop()
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return Verdict{}, err
	}
	for w.out.Scan() {
		var v Verdict
		if line := w.out.Bytes(); len(line) == 0 || line[0] != '{' {
			w.others = append(w.others, w.out.Text())
			continue
		} else if err := json.Unmarshal(line, &v); err != nil {
			return Verdict{}, err
		}
		return v, nil
	}
	return Verdict{}, errors.Join(w.out.Err(), io.ErrUnexpectedEOF)
}

func (w *worker) stop(cpu *atomic.Int64) error {
	err := w.in.Close()
	for w.out.Scan() { // so that it can write its last
		w.others = append(w.others, w.out.Text())
	}
	err = errors.Join(err, w.cmd.Wait())
	if s := w.cmd.ProcessState; s != nil {
		cpu.Add(int64(s.UserTime() + s.SystemTime()))
	}
	w.cmd = nil
	return err
}

// lastWords are the beginning of what it said besides verdicts: of a panic that tells most.
func (w *worker) lastWords() string {
	var b bytes.Buffer
	for _, line := range w.others {
		fmt.Fprintln(&b, line)
	}
	b.Write(w.words.Bytes())
	const most = 4000
	return string(b.Bytes()[:min(b.Len(), most)])
}

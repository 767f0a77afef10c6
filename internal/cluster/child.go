package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// restartDelay is how long a killed node stays away: long enough to see what the platform does without it.
const restartDelay = 5 * time.Second

// orderlyDelay is how long one stays away that was asked to stop, as in a rolling restart: no reason to be without it.
const orderlyDelay = time.Second

// patience is how long a child may drain before it is killed.
const patience = 20 * time.Second

// child keeps a node running as a process of its own and starts it again when it dies.
type child struct {
	region string
	args   []string
	log    *slog.Logger
	// started hears every pid.
	started func(region string, pid int)

	mu   sync.Mutex
	pid  int       // 0: not running
	away time.Time // until then it is not started again
}

// kill ends the process at once and keeps it away for a while.
func (c *child) kill(during time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = time.Now().Add(during)
	if c.pid != 0 {
		_ = syscall.Kill(c.pid, syscall.SIGKILL) // it may just have died by itself
	}
}

// absence is how long it stays away, after it ended like this.
func (c *child) absence(ended error) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	delay := restartDelay
	if ended == nil {
		delay = orderlyDelay
	}
	return max(delay, time.Until(c.away))
}

// runs notes the pid of the process; 0 once it has ended.
func (c *child) runs(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
}

func (c *child) run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	for {
		err := c.once(ctx, self)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was asked to stop, however it took that
		}
		delay := c.absence(err)
		c.log.Warn("a node's process ended, starting it again", "region", c.region, "error", err, "delay_s", delay.Seconds())
		if !wait(ctx, delay) {
			return nil
		}
	}
}

func (c *child) once(ctx context.Context, self string) error {
	runtime.LockOSThread() // Pdeathsig is sent when the *thread* that started the child ends
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, c.args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // results go to stdout, and a node has none
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // Ctrl-C is for the parent, which stops its children in order
		Pdeathsig: syscall.SIGTERM, // and if the parent is killed, nobody is left behind
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the node of %s: %w", c.region, err)
	}
	c.runs(cmd.Process.Pid)
	defer c.runs(0)
	c.started(c.region, cmd.Process.Pid)
	return cmd.Wait()
}

// levelOf is the level of a log as the --log-level of a child.
func levelOf(log *slog.Logger) string {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(context.Background(), level) {
			return strings.ToLower(level.String())
		}
	}
	return "error"
}

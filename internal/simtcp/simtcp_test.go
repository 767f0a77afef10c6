package simtcp_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/internal/simtcp"
)

const delay = 50 * time.Millisecond

// bubble plays f with a network in virtual time, on links of 50 ms.
func bubble(t *testing.T, cfg simtcp.Config, f func(t *testing.T, n *simtcp.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if cfg.Link == nil {
			cfg.Link = func(string, string) simtcp.Link { return simtcp.Link{Delay: delay} }
		}
		n := simtcp.New(cfg)
		defer n.Close()
		f(t, n)
	})
}

// connect makes a connection from a to b.
func connect(t *testing.T, n *simtcp.Network) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := n.Listen("b")
	if err != nil {
		t.Fatal(err)
	}
	dialled, err = n.Dial(t.Context(), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// read takes as many bytes as the text has, and the time until they were all there.
func read(t *testing.T, c net.Conn, want string) time.Duration {
	t.Helper()
	begin := time.Now()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
	return time.Since(begin)
}

// fails reads until the end, which must be this.
func fails(t *testing.T, c net.Conn, want error) time.Duration {
	t.Helper()
	begin := time.Now()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, want) {
		t.Fatalf("read ended in %v, want %v", err, want)
	}
	return time.Since(begin)
}

func within(t *testing.T, got, from, to time.Duration) {
	t.Helper()
	if got < from || got > to {
		t.Errorf("took %v, want %v to %v", got, from, to)
	}
}

func TestBytesArriveInOrderAfterTheDelay(t *testing.T) {
	bubble(t, simtcp.Config{}, func(t *testing.T, n *simtcp.Network) {
		begin := time.Now()
		a, b := connect(t, n)
		within(t, time.Since(begin), 3*delay, 3*delay) // the third is the accepting end's
		write(t, a, "one ")
		write(t, a, "two")
		within(t, read(t, b, "one two"), delay, delay)
		write(t, b, "three")
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		within(t, read(t, a, "three"), delay, delay)
		fails(t, a, io.EOF)
	})
}

// Whatever is lost, on links whose jitter would reorder everything: each end reads what the other wrote.
func TestLossAndJitterOnlyTakeTime(t *testing.T) {
	links := func(string, string) simtcp.Link {
		return simtcp.Link{Delay: delay, Jitter: 4 * delay, Loss: 0.3}
	}
	for seed := range uint64(20) {
		bubble(t, simtcp.Config{Seed: seed, Link: links}, func(t *testing.T, n *simtcp.Network) {
			a, b := connect(t, n)
			sizes := rand.New(rand.NewPCG(seed, 0))
			text := strings.Repeat("0123456789abcdef", 2000)
			go func() {
				for rest := text; len(rest) > 0; {
					k := min(len(rest), 1+sizes.IntN(700))
					if _, err := a.Write([]byte(rest[:k])); err != nil {
						t.Errorf("seed %d: %v", seed, err)
						return
					}
					rest = rest[k:]
				}
			}()
			read(t, b, text)
			if n.Stats().Lost == 0 {
				t.Error("nothing was lost")
			}
		})
	}
}

func TestACutStallsAConnectionUntilItHeals(t *testing.T) {
	for name, cut := range map[string][2]string{"bytes": {"a", "b"}, "acknowledgements": {"b", "a"}} {
		bubble(t, simtcp.Config{DialledTimeout: 30 * time.Second}, func(t *testing.T, n *simtcp.Network) {
			a, b := connect(t, n)
			n.Cut(cut[0], cut[1])
			write(t, a, "late")
			go func() {
				time.Sleep(4 * time.Second) //rimlight:bubble the cut's length, in virtual time
				n.Heal(cut[0], cut[1])
			}()
			took := read(t, b, "late")
			if name == "bytes" {
				within(t, took, 4*time.Second, 9*time.Second) // what came too late for one try waits for the next
			} else {
				within(t, took, delay, delay)
			}
			write(t, b, "yes")
			read(t, a, "yes")
		})
	}
}

func TestWhoeverIsNotAcknowledgedGivesUpAndTellsNobody(t *testing.T) {
	for name, cut := range map[string][2]string{"bytes": {"a", "b"}, "acknowledgements": {"b", "a"}} {
		bubble(t, simtcp.Config{DialledTimeout: 5 * time.Second}, func(t *testing.T, n *simtcp.Network) {
			a, b := connect(t, n)
			n.Cut(cut[0], cut[1])
			write(t, a, "lost")
			within(t, fails(t, a, syscall.ETIMEDOUT), 5*time.Second, 5*time.Second)
			n.Heal(cut[0], cut[1])
			if name == "acknowledgements" {
				read(t, b, "lost")
			}
			// The other end knows nothing until it sends something itself.
			if err := b.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			fails(t, b, os.ErrDeadlineExceeded)
			if err := b.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			write(t, b, "hello?")
			within(t, fails(t, b, syscall.ECONNRESET), 2*delay, 2*delay)
		})
	}
}

func TestDials(t *testing.T) {
	for name, tc := range map[string]struct {
		before   func(n *simtcp.Network)
		after    func(n *simtcp.Network) // 3.5 s later
		want     error
		from, to time.Duration
	}{
		"nobody listens":      {nil, nil, syscall.ECONNREFUSED, 2 * delay, 2 * delay},
		"no power":            {func(n *simtcp.Network) { n.PowerOff("b") }, nil, context.DeadlineExceeded, 5 * time.Second, 5 * time.Second},
		"a cut":               {func(n *simtcp.Network) { n.Cut("a", "b") }, nil, context.DeadlineExceeded, 5 * time.Second, 5 * time.Second},
		"a cut way back":      {func(n *simtcp.Network) { n.Cut("b", "a") }, nil, context.DeadlineExceeded, 5 * time.Second, 5 * time.Second},
		"own power gone":      {func(n *simtcp.Network) { n.PowerOff("a") }, nil, context.DeadlineExceeded, 5 * time.Second, 5 * time.Second},
		"power comes back":    {func(n *simtcp.Network) { n.PowerOff("b") }, func(n *simtcp.Network) { n.PowerOn("b") }, syscall.ECONNREFUSED, 7 * time.Second, 7*time.Second + 2*delay},
		"the network is gone": {func(n *simtcp.Network) { n.Cut("a", "b") }, func(n *simtcp.Network) { n.Close() }, syscall.ENETDOWN, 3500 * time.Millisecond, 3500 * time.Millisecond},
		"the process is dead": {func(n *simtcp.Network) { listen(t, n); n.Kill("b") }, nil, syscall.ECONNREFUSED, 2 * delay, 2 * delay},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, simtcp.Config{}, func(t *testing.T, n *simtcp.Network) {
				if tc.before != nil {
					tc.before(n)
				}
				patience := 5 * time.Second
				if tc.after != nil {
					patience = time.Minute
					time.AfterFunc(3500*time.Millisecond, func() { tc.after(n) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				begin := time.Now()
				if _, err := n.Dial(ctx, "a", "b"); !errors.Is(err, tc.want) {
					t.Errorf("got %v, want %v", err, tc.want)
				}
				within(t, time.Since(begin), tc.from, tc.to)
			})
		})
	}
}

func listen(t *testing.T, n *simtcp.Network) {
	t.Helper()
	if _, err := n.Listen("b"); err != nil {
		t.Fatal(err)
	}
}

func TestAKilledProcessIsResetAndASilentOneIsNot(t *testing.T) {
	bubble(t, simtcp.Config{DialledTimeout: time.Minute}, func(t *testing.T, n *simtcp.Network) {
		a, b := connect(t, n)
		n.Kill("b")
		fails(t, b, syscall.ECONNABORTED)
		within(t, fails(t, a, syscall.ECONNRESET), delay, delay)

		a, b = connect(t, n)
		n.PowerOff("b")
		fails(t, b, syscall.ECONNABORTED)
		write(t, a, "hello?")
		time.AfterFunc(10*time.Second, func() { n.PowerOn("b") })
		within(t, fails(t, a, syscall.ECONNRESET), 10*time.Second, 20*time.Second)
	})
}

func TestAWriterWaitsForItsReader(t *testing.T) {
	bubble(t, simtcp.Config{}, func(t *testing.T, n *simtcp.Network) {
		a, b := connect(t, n)
		chunk := strings.Repeat("x", 64<<10)
		if err := a.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		wrote := 0
		for {
			k, err := a.Write([]byte(chunk))
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				break
			}
			wrote += k
		}
		if wrote > 2<<20 {
			t.Errorf("%d bytes were taken that nobody read", wrote)
		}
		if err := a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() {
			if _, err := io.ReadFull(b, make([]byte, len(chunk))); err != nil {
				t.Error(err)
			}
		})
		begin := time.Now()
		write(t, a, chunk)
		within(t, time.Since(begin), time.Minute, time.Minute)
	})
}

func TestAClosedListenerResetsWhoItNeverTook(t *testing.T) {
	bubble(t, simtcp.Config{}, func(t *testing.T, n *simtcp.Network) {
		l, err := n.Listen("b")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("b"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second listener: %v", err)
		}
		a, err := n.Dial(t.Context(), "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) //rimlight:bubble the connection arrives, in virtual time
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepting from a closed listener: %v", err)
		}
		fails(t, a, syscall.ECONNRESET)
	})
}

package wan_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/rimlight/rimlight/internal/wan"
)

func fixed(rtt time.Duration) func() time.Duration { return func() time.Duration { return rtt } }

// pipe is a connection over a path and its far end.
func pipe(path wan.Path) (net.Conn, net.Conn) {
	near, far := net.Pipe()
	return wan.NewConn(near, path), far
}

func TestConformance(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = pipe(wan.Path{})
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}

func echo(far net.Conn) {
	_, _ = io.Copy(far, far)
	_ = far.Close()
}

func TestEchoTakesTheMatrixRoundTripExactly(t *testing.T) {
	m := wan.Default()
	for _, from := range m.Names() {
		synctest.Test(t, func(t *testing.T) {
			for _, to := range m.Names() {
				want, _ := m.RTT(from, to)
				near, far := pipe(wan.Path{RTT: fixed(want)})
				go echo(far)
				for range 3 {
					start := time.Now()
					if _, err := near.Write([]byte("tap")); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(near, make([]byte, 3)); err != nil {
						t.Fatal(err)
					}
					if got := time.Since(start).Truncate(time.Microsecond); got != want.Truncate(time.Microsecond) {
						t.Errorf("%s to %s: got %v, want %v", from, to, got, want)
					}
				}
				if err := near.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestDialTakesOneRoundTrip(t *testing.T) {
	refused := errors.New("refused")
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			name string
			err  error
		}{{"accepted", nil}, {"refused", refused}} {
			far := make(chan net.Conn, 1)
			dial := wan.Dialer(func(context.Context, string) (net.Conn, error) {
				if tc.err != nil {
					return nil, tc.err
				}
				near, other := net.Pipe()
				far <- other
				return near, nil
			}, wan.Path{RTT: fixed(70 * time.Millisecond)})
			start := time.Now()
			conn, err := dial(t.Context(), "there")
			if !errors.Is(err, tc.err) || time.Since(start) != 70*time.Millisecond {
				t.Errorf("%s: got %v after %v, want 70 ms", tc.name, err, time.Since(start))
			}
			if conn != nil {
				_ = conn.Close()
				_ = (<-far).Close()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			start = time.Now()
			if _, err := dial(ctx, "there"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Millisecond {
				t.Errorf("%s, impatient: got %v after %v", tc.name, err, time.Since(start))
			}
			cancel()
			if tc.err == nil {
				_ = (<-far).Close()
			}
		}
	})
}

func TestManyBytesAreUnderWayAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(wan.Path{RTT: fixed(200 * time.Millisecond)})
		start := time.Now()
		want := bytes.Repeat([]byte("0123456789"), 100_000)
		go func() {
			for piece := want; len(piece) > 0; piece = piece[1000:] {
				if _, err := near.Write(piece[:1000]); err != nil {
					t.Error(err)
				}
			}
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got other bytes, %v", err)
		}
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("1,000 writes took %v, want one way of 100 ms: stop-and-wait would be 100 s", took)
		}
		_ = near.Close()
	})
}

func TestOrderSurvivesAChangingRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		near, far := pipe(wan.Path{RTT: func() time.Duration { return time.Duration(r.IntN(100)) * time.Millisecond }})
		go func() {
			for i := range 200 {
				if _, err := near.Write([]byte{byte(i)}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond)
			}
		}()
		got := make([]byte, 200)
		if _, err := io.ReadFull(far, got); err != nil {
			t.Fatal(err)
		}
		for i, b := range got {
			if b != byte(i) {
				t.Fatalf("seed %d: byte %d is %d", seed, i, b)
			}
		}
		_ = near.Close()
	})
}

func TestAWriterTooFarAheadWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(wan.Path{RTT: fixed(100 * time.Millisecond)})
		_ = near.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := near.Write(make([]byte, 64<<20)) // nobody reads
		if !errors.Is(err, os.ErrDeadlineExceeded) || n > 8<<20 {
			t.Errorf("got %d bytes under way, %v", n, err)
		}
		_ = far.Close()
		_ = near.Close()
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(wan.Path{RTT: fixed(100 * time.Millisecond)})
		if _, err := near.Write([]byte("goodbye")); err != nil {
			t.Fatal(err)
		}
		go func() { _ = near.Close() }()
		got, err := io.ReadAll(far)
		if string(got) != "goodbye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(wan.Path{RTT: fixed(100 * time.Millisecond)})
		_, _ = near.Write([]byte("nobody reads"))
		start := time.Now()
		_ = near.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("closing on a peer that does not read took %v", took)
		}
		_ = far.Close()
	})
}

func TestTheFarEndsBytesArriveBeforeItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(wan.Path{RTT: fixed(100 * time.Millisecond)})
		start := time.Now()
		go func() {
			_, _ = far.Write([]byte("last words"))
			_ = far.Close()
		}()
		got, err := io.ReadAll(near)
		if string(got) != "last words" || err != nil || time.Since(start) != 50*time.Millisecond {
			t.Errorf("got %q, %v after %v", got, err, time.Since(start))
		}
		_ = near.Close()

		near, far = pipe(wan.Path{RTT: fixed(100 * time.Millisecond)})
		start = time.Now()
		_ = far.Close()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(start) != 50*time.Millisecond {
			t.Errorf("an end without words: got %v after %v, want it one way later", err, time.Since(start))
		}
		_ = near.Close()
	})
}

func TestSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sw wan.Switch
		near, far := pipe(wan.Path{RTT: fixed(20 * time.Millisecond), Switch: &sw})
		go echo(far)
		sw.Cut()
		sw.Cut()
		if _, err := near.Write([]byte("a")); err != nil {
			t.Fatal("a cut path takes bytes: ", err)
		}
		_ = near.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading over a cut path: got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dial := wan.Dialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("dialled") }, wan.Path{Switch: &sw})
		if _, err := dial(ctx, "there"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialling over a cut path: got %v", err)
		}

		healed := time.Now()
		sw.Heal()
		_ = near.SetReadDeadline(time.Time{})
		if _, err := io.ReadFull(near, make([]byte, 1)); err != nil || time.Since(healed) != 10*time.Millisecond {
			t.Errorf("after healing: got %v after %v, want the way back of 10 ms", err, time.Since(healed))
		}

		go func() {
			time.Sleep(time.Second)
			sw.Reset()
		}()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, wan.ErrReset) {
			t.Errorf("reading while the path is reset: got %v", err)
		}
		if _, err := near.Write([]byte("b")); !errors.Is(err, wan.ErrReset) {
			t.Errorf("writing after a reset: got %v", err)
		}
		if err := near.Close(); err != nil {
			t.Errorf("closing after a reset: %v", err)
		}
	})
}

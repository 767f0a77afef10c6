package simnet_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/simnet"
)

// counting is a server that counts its unary calls and says when a stream's context ended.
func counting() (s *server, calls *int, streamEnded *time.Time) {
	calls, streamEnded = new(int), new(time.Time)
	return &server{
		unary: func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
			*calls++
			return &grpc_testing.SimpleResponse{}, nil
		},
		stream: func(both grpc_testing.TestService_FullDuplexCallServer) error {
			err := echo(both)
			<-both.Context().Done()
			*streamEnded = time.Now()
			return err
		},
	}, calls, streamEnded
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, c grpc_testing.TestServiceClient) grpc_testing.TestService_FullDuplexCallClient {
	t.Helper()
	both, err := c.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Send(say("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); err != nil {
		t.Fatal(err)
	}
	return both
}

func TestLoss(t *testing.T) {
	for name, c := range map[string]struct {
		lossy string // the end whose messages are lost
		torn  float64
		calls int // that the server handled
		code  codes.Code
		takes time.Duration
		stats simnet.Stats
	}{
		"a lost request is silence":         {"c", 0, 0, codes.DeadlineExceeded, time.Second, simnet.Stats{Lost: 1, Silent: 1}},
		"a lost answer is silence":          {"s", 0, 1, codes.DeadlineExceeded, time.Second, simnet.Stats{Lost: 1, Silent: 1}},
		"a torn request shows after a trip": {"c", 1, 0, codes.Unavailable, delay, simnet.Stats{Lost: 1, Torn: 1}},
		"a torn answer shows after two":     {"s", 1, 1, codes.Unavailable, 2 * delay, simnet.Stats{Lost: 1, Torn: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			s, calls, _ := counting()
			cfg := simnet.Config{Link: func(from, _ string) simnet.Link {
				l := simnet.Link{Delay: delay, Torn: c.torn}
				if from == c.lossy {
					l.Loss = 1
				}
				return l
			}}
			world(t, cfg, s, func(t *testing.T, n *simnet.Network, client grpc_testing.TestServiceClient) {
				begin := time.Now()
				_, err := client.UnaryCall(within(t, time.Second), ask(""))
				wantCode(t, "the call", err, c.code)
				took(t, "the call", begin, c.takes)
				time.Sleep(time.Second)
				if *calls != c.calls {
					t.Errorf("%d calls were handled, want %d", *calls, c.calls)
				}
				got := n.Stats()
				got.Calls, got.Messages = 0, 0
				if got != c.stats {
					t.Errorf("counted %+v, want %+v", got, c.stats)
				}
			})
		})
	}
}

func TestALostMessageTearsAStreamAtBothEnds(t *testing.T) {
	for _, lossy := range []string{"c", "s"} {
		t.Run(lossy, func(t *testing.T) {
			s, _, ended := counting()
			world(t, slow, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
				both := open(t, c)
				n.SetLink(lossy, map[string]string{"c": "s", "s": "c"}[lossy], simnet.Link{Delay: delay, Loss: 1})
				if err := both.Send(say("lost")); err != nil {
					t.Fatal(err)
				}
				_, err := both.Recv()
				wantCode(t, "the stream", err, codes.Unavailable)
				synctest.Wait()
				if ended.IsZero() {
					t.Error("the handler does not know")
				}
				if got := n.Stats(); got.Lost != 1 || got.Torn != 1 {
					t.Errorf("counted %+v", got)
				}
				if err := both.Send(say("more")); err == nil {
					t.Error("a torn stream takes messages")
				}
			})
		})
	}
}

func TestSharesOfLossAndDuplicationAreAsConfigured(t *testing.T) {
	const calls = 4000
	s, handled, _ := counting()
	cfg := links(simnet.Link{Delay: delay, Jitter: delay, Loss: 0.1, Torn: 0.5, Duplicate: 0.2})
	world(t, cfg, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		var all sync.WaitGroup
		for range calls {
			all.Go(func() {
				_, err := c.UnaryCall(within(t, time.Second), ask(""))
				if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded && code != codes.Unavailable {
					t.Error(err)
				}
			})
		}
		all.Wait()
		time.Sleep(time.Second)
		got := n.Stats()
		arrived := calls * 0.9
		for what, c := range map[string]struct{ got, want float64 }{
			"lost":       {float64(got.Lost), calls*0.1 + arrived*0.1},
			"torn":       {float64(got.Torn), (calls*0.1 + arrived*0.1) / 2},
			"duplicated": {float64(got.Duplicated), arrived * 0.2},
			"handled":    {float64(*handled), arrived * 1.2},
		} {
			if math.Abs(c.got-c.want) > 5*math.Sqrt(c.want) {
				t.Errorf("%s: %v, want about %v", what, c.got, c.want)
			}
		}
	})
}

func TestADuplicatedRequestIsHandledTwiceAndAnsweredOnce(t *testing.T) {
	s, calls, _ := counting()
	world(t, links(simnet.Link{Delay: delay, Duplicate: 1}), s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		begin := time.Now()
		if _, err := c.UnaryCall(within(t, time.Second), ask("")); err != nil {
			t.Fatal(err)
		}
		took(t, "the call", begin, 2*delay)
		time.Sleep(time.Second)
		if got := n.Stats(); *calls != 2 || got.Duplicated != 1 || got.Messages != 2 {
			t.Errorf("%d calls handled, counted %+v", *calls, got)
		}
	})
}

func TestACutLink(t *testing.T) {
	for name, cut := range map[string]struct {
		cut     func(*simnet.Network)
		handled int
	}{
		"there":     {func(n *simnet.Network) { n.Cut("c", "s") }, 0},
		"back":      {func(n *simnet.Network) { n.Cut("s", "c") }, 1},
		"both ways": {func(n *simnet.Network) { n.CutBoth("s", "c") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, calls, ended := counting()
			world(t, slow, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
				old := open(t, c)
				cut.cut(n)
				begin := time.Now()
				_, err := c.UnaryCall(within(t, time.Second), ask(""))
				wantCode(t, "a unary call", err, codes.DeadlineExceeded)
				took(t, "a unary call", begin, time.Second)
				if *calls != cut.handled {
					t.Errorf("%d calls were handled, want %d", *calls, cut.handled)
				}
				_, err = old.Recv()
				wantCode(t, "a stream from before", err, codes.Unavailable)
				took(t, "keepalive on a silent stream", begin, 5*time.Second)
				synctest.Wait()
				if ended.IsZero() {
					t.Error("the stream's handler does not know")
				}
				begin = time.Now()
				fresh, err := c.FullDuplexCall(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := fresh.Send(say("hello")); err != nil {
					t.Fatal(err)
				}
				_, err = fresh.Recv()
				wantCode(t, "a new stream", err, codes.Unavailable)
				if got := time.Since(begin); got > 6*time.Second {
					t.Errorf("a new stream took %s to fail", got)
				}

				n.HealAll()
				if _, err := c.UnaryCall(within(t, time.Second), ask("")); err != nil {
					t.Errorf("after healing: %v", err)
				}
				open(t, c)
			})
		})
	}
}

func TestAStreamSurvivesACutThatSwallowedNothing(t *testing.T) {
	s, _, _ := counting()
	world(t, slow, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		both := open(t, c)
		n.CutBoth("c", "s")
		time.Sleep(time.Second)
		n.HealBoth("c", "s")
		time.Sleep(time.Minute)
		if err := both.Send(say("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); err != nil {
			t.Error(err)
		}
	})
}

func TestAHostGoesDown(t *testing.T) {
	s, _, ended := counting()
	s.unary = func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		return &grpc_testing.SimpleResponse{}, ctx.Err()
	}
	world(t, slow, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		both := open(t, c)
		begin := time.Now()
		time.AfterFunc(200*time.Millisecond, n.Host("s").Down)
		_, err := c.UnaryCall(t.Context(), ask(""))
		wantCode(t, "a call under way", err, codes.Unavailable)
		took(t, "a call under way", begin, 200*time.Millisecond+delay)
		_, err = both.Recv()
		wantCode(t, "a stream", err, codes.Unavailable)
		synctest.Wait()
		if got := ended.Sub(begin); got != 200*time.Millisecond {
			t.Errorf("the handler's context ended after %s", got)
		}
		begin = time.Now()
		_, err = c.UnaryCall(t.Context(), ask(""))
		wantCode(t, "a call to a dead host", err, codes.Unavailable)
		took(t, "a call to a dead host", begin, 2*delay)

		n.Host("s").Up()
		if _, err := c.UnaryCall(t.Context(), ask("")); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		if got := n.Stats(); got.Broken != 2 || got.Refused != 1 {
			t.Errorf("counted %+v", got)
		}
	})
}

func TestACallersHostGoesDown(t *testing.T) {
	s, _, ended := counting()
	world(t, slow, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		both := open(t, c)
		begin := time.Now()
		n.Host("c").Down()
		_, err := both.Recv()
		wantCode(t, "its stream", err, codes.Unavailable)
		took(t, "its stream", begin, 0)
		_, err = c.UnaryCall(t.Context(), ask(""))
		wantCode(t, "its next call", err, codes.Unavailable)
		took(t, "its next call", begin, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		took(t, "the handler's end", begin.Add(time.Since(*ended)), delay)
	})
}

func TestAnUnknownHostRefuses(t *testing.T) {
	world(t, slow, &server{}, func(t *testing.T, n *simnet.Network, _ grpc_testing.TestServiceClient) {
		c := grpc_testing.NewTestServiceClient(n.Conn("c", "nobody"))
		_, err := c.UnaryCall(t.Context(), ask(""))
		wantCode(t, "the call", err, codes.Unavailable)
	})
}

func TestARestartedProcessRegistersAnew(t *testing.T) {
	old, oldCalls, _ := counting()
	fresh, freshCalls, _ := counting()
	world(t, slow, old, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		n.Host("s").Down()
		grpc_testing.RegisterTestServiceServer(n.Host("s"), fresh)
		n.Host("s").Up()
		if _, err := c.UnaryCall(t.Context(), ask("")); err != nil {
			t.Fatal(err)
		}
		if *oldCalls != 0 || *freshCalls != 1 {
			t.Errorf("old life: %d calls, new life: %d", *oldCalls, *freshCalls)
		}
	})
}

// The arrival times and fates of a mixed load, as text.
func history(t *testing.T, seed uint64) (text string) {
	t.Helper()
	start := time.Time{}
	var mu sync.Mutex
	instants := map[time.Duration]int{}
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		at := time.Since(start)
		instants[at]++
		text += fmt.Sprintf("%d "+format+"\n", append([]any{at}, args...)...)
	}
	s := &server{unary: func(_ context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		note("handled %s", r.GetPayload().GetBody())
		return &grpc_testing.SimpleResponse{}, nil
	}}
	cfg := links(simnet.Link{Delay: delay, Jitter: delay, Loss: 0.1, Torn: 1, Duplicate: 0.1})
	cfg.Seed = seed
	world(t, cfg, s, func(t *testing.T, n *simnet.Network, _ grpc_testing.TestServiceClient) {
		start = time.Now()
		var clients sync.WaitGroup
		for i := range 8 {
			clients.Go(func() {
				c := grpc_testing.NewTestServiceClient(n.Conn(fmt.Sprint("c", i), "s"))
				for j := range 20 {
					_, err := c.UnaryCall(t.Context(), ask(fmt.Sprint(i, ".", j)))
					note("%d.%d ended in %s", i, j, status.Code(err))
				}
			})
		}
		clients.Wait()
		for at, n := range instants {
			if n > 1 {
				t.Errorf("%d events at %s", n, at)
			}
		}
	})
	return text
}

func TestARunReplaysFromItsSeed(t *testing.T) {
	first := history(t, 1)
	for range 5 {
		if again := history(t, 1); again != first {
			t.Fatalf("seed 1 gave\n%s\nand then\n%s", first, again)
		}
	}
	if history(t, 2) == first {
		t.Error("another seed gives the same run")
	}
}

func TestNoTwoMessagesArriveInTheSameInstant(t *testing.T) {
	const calls = 500 // half as many as there are nanoseconds in the drawn grain
	var mu sync.Mutex
	instants := map[time.Time]bool{}
	s := &server{unary: func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		instants[time.Now()] = true
		return &grpc_testing.SimpleResponse{}, nil
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		var all sync.WaitGroup
		for range calls {
			all.Go(func() {
				if _, err := c.UnaryCall(t.Context(), ask("")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(instants) != calls {
			t.Errorf("%d calls arrived at %d instants", calls, len(instants))
		}
	})
}

func TestAFailedSendSaysEOFAndTheStatusComesFromRecv(t *testing.T) {
	s := &server{stream: func(grpc_testing.TestService_FullDuplexCallServer) error {
		return status.Error(codes.Aborted, "at once")
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		both, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := both.Send(say("late")); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("sending after the end: %v", err)
		}
		_, err = both.Recv()
		wantCode(t, "the stream", err, codes.Aborted)
	})
}

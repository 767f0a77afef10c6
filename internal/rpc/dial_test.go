package rpc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/wan"
)

func TestATokenStaysOnThisMachineInPlaintext(t *testing.T) {
	for _, tc := range []struct {
		target string
		trust  bool
		ok     bool
	}{
		{"127.0.0.1:1", false, true},
		{"[::1]:1", false, true},
		{"localhost:1", false, true},
		{"dns:///localhost:1", false, true},
		{"unix:/tmp/x", false, true},
		{"10.0.0.1:1", false, false},
		{"verifier.example:1", false, false},
		{"dns:///127.0.0.1.example:1", false, false},
		{"10.0.0.1:1", true, true},
		{"127.0.0.1:1,127.0.0.1:2", false, true},
		{"127.0.0.1:1, 10.0.0.1:1", false, false},
	} {
		conn, err := rpc.Dial(tc.target, rpc.DialConfig{Token: "secret-canary", TrustNetwork: tc.trust})
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, rpc.ErrPlaintextToken) {
			t.Errorf("%s, trusted %v: got %v", tc.target, tc.trust, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the token got into the error", tc.target)
		}
		if conn != nil {
			_ = conn.Close()
		}
	}
}

func TestDialShowsTheTokenAndSetsADeadline(t *testing.T) {
	w := start(t, nil, nil)
	for _, target := range []string{w.native, w.edge} {
		var remaining time.Duration
		look := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			if d, ok := ctx.Deadline(); ok {
				remaining = time.Until(d)
			}
			return invoke(ctx, method, req, reply, cc, options...)
		}
		client := offerv1.NewOfferServiceClient(dial(t, target, rpc.DialConfig{Token: w.tokens["producer"], Unary: []grpc.UnaryClientInterceptor{look}}))
		// A producer may; the fake just does not implement it.
		if _, err := client.RedeemOffer(t.Context(), redeemRequest()); rpcerr.Reason(err) != errorsv1.Reason_REASON_UNKNOWN_METHOD {
			t.Errorf("got %v", err)
		}
		if remaining <= 0 || remaining > 2*time.Second {
			t.Errorf("a call without a deadline got %v, want 2 s", remaining)
		}
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	_, err := rpc.NewServer(rpc.ServerConfig{MaxRecvBytes: -1, Grace: -1})
	for _, want := range []string{"Name", "MaxRecvBytes", "Grace"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
}

func TestServersShareARegistryAndKnowOnlyTheirOwnMethods(t *testing.T) {
	registry := prometheus.NewRegistry()
	share := func(c *rpc.ServerConfig) { c.Metrics, c.Unknown = registry, forward }
	a, b := start(t, share, nil), start(t, share, nil)
	for _, w := range []*world{a, b} {
		callWeb(t, w, request{method: listKeys})
		callWeb(t, w, request{method: "/acme.Shop/Buy"})
		callWeb(t, w, request{method: "/acme.Shop/canary"})
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		text.WriteString(f.String())
	}
	if got := text.String(); !strings.Contains(got, `value:"ListKeys"`) || strings.Contains(got, "canary") || strings.Contains(got, "acme") {
		t.Errorf("labels that callers choose got in: %s", got)
	}
}

// memory is a listener whose connections are pipes.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemory() *memory { return &memory{conns: make(chan net.Conn), done: make(chan struct{})} }

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.once.Do(func() { close(m.done) }); return nil }
func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

func (m *memory) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case m.conns <- far:
		return near, nil
	case <-m.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestInVirtualTime: the whole stack over a slow path costs exactly its round trips, survives a cut and shuts down, in a
// bubble.
func TestInVirtualTime(t *testing.T) {
	for _, public := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, err := rpc.NewServer(rpc.ServerConfig{Name: "test"})
			if err != nil {
				t.Fatal(err)
			}
			offerv1.RegisterOfferServiceServer(s, offers{})
			lis := newMemory()
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				if public {
					done <- s.ServePublic(ctx, lis)
				} else {
					done <- s.ServeInternal(ctx, lis)
				}
			}()
			var sw wan.Switch
			rtt := 160 * time.Millisecond
			conn, err := rpc.Dial("there", rpc.DialConfig{Dialer: wan.Dialer(lis.dial, wan.Path{RTT: func() time.Duration { return rtt }, Switch: &sw})})
			if err != nil {
				t.Fatal(err)
			}
			client := offerv1.NewOfferServiceClient(conn)
			call := func() (time.Duration, error) {
				begin := time.Now()
				_, err := client.RequestOffer(t.Context(), offerRequest(""))
				return time.Since(begin), err
			}
			if took, err := call(); err != nil || took < 2*rtt {
				t.Errorf("the first call: %v, %v, want the handshake too", took, err)
			}
			for range 3 {
				if took, err := call(); err != nil || took != rtt {
					t.Errorf("a call took %v, %v, want %v", took, err, rtt)
				}
			}
			sw.Cut()
			if took, err := call(); status.Code(err) != codes.DeadlineExceeded || took != 2*time.Second {
				t.Errorf("over a cut path: %v, %v", took, err)
			}
			sw.Heal()
			if _, err := call(); err != nil {
				t.Errorf("after healing: %v", err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestShutdownWaitsForUnaryCallsOnly: a call of 3 s is answered within the grace of 5 s, and a stream whose handler waits
// for its client does not make a shutdown take all of it.
func TestShutdownWaitsForUnaryCallsOnly(t *testing.T) {
	for _, public := range []bool{false, true} {
		for _, work := range []time.Duration{0, 3 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				slow := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
					time.Sleep(work)
					return handler(ctx, req)
				}
				s, err := rpc.NewServer(rpc.ServerConfig{Name: "test", Reflection: true, Unary: []grpc.UnaryServerInterceptor{slow}})
				if err != nil {
					t.Fatal(err)
				}
				offerv1.RegisterOfferServiceServer(s, offers{})
				lis := newMemory()
				ctx, stop := context.WithCancel(t.Context())
				serve := s.ServeInternal
				if public {
					serve = s.ServePublic
				}
				done := make(chan error, 1)
				go func() { done <- serve(ctx, lis) }()
				conn, err := rpc.Dial("there", rpc.DialConfig{Dialer: lis.dial, Timeout: 10 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				waiting, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := waiting.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
					t.Fatal(err)
				}
				if _, err := waiting.Recv(); err != nil {
					t.Fatal(err)
				}
				answered := make(chan error, 1)
				go func() {
					_, err := offerv1.NewOfferServiceClient(conn).RequestOffer(t.Context(), offerRequest(""))
					answered <- err
				}()
				synctest.Wait()
				begin := time.Now()
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took < work || took > work+2*time.Second {
					t.Errorf("public %v: shutting down with a call of %v took %v", public, work, took)
				}
				if err := <-answered; err != nil {
					t.Errorf("public %v: the call of %v was lost: %v", public, work, err)
				}
			})
		}
	}
}

// TestPingsDoNotEndAConnection: at grpc-go's default a server says too_many_pings after the third one.
func TestPingsDoNotEndAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := rpc.NewServer(rpc.ServerConfig{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		offerv1.RegisterOfferServiceServer(s, offers{})
		lis := newMemory()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.ServeInternal(ctx, lis) }()
		conn, err := rpc.Dial("there", rpc.DialConfig{Dialer: lis.dial})
		if err != nil {
			t.Fatal(err)
		}
		const long = 4 * time.Minute
		began := time.Now()
		quiet, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		stream, err := offerv1.NewOfferServiceClient(conn).WatchDrops(quiet, &offerv1.WatchDropsRequest{ChannelId: "wait"})
		for err == nil {
			_, err = stream.Recv()
		}
		if after := time.Since(began); after < long { // the server's clock may strike first, in the same instant
			t.Errorf("a quiet stream ended after %v: %v", after, err)
		}
		_ = conn.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkUnaryEcho compares the two listeners; the edge is what browsers cost, the native one what the platform does.
func BenchmarkUnaryEcho(b *testing.B) {
	w := start(b, nil, nil)
	for _, l := range []struct{ name, target string }{{"native", w.native}, {"edge", w.edge}} {
		b.Run(l.name, func(b *testing.B) {
			client := offerv1.NewOfferServiceClient(dial(b, l.target, rpc.DialConfig{}))
			req := offerRequest("")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.RequestOffer(context.Background(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Calls take turns over replicas, and go on with those that are left when one dies.
func TestReplicasTakeTurns(t *testing.T) {
	var addrs []string
	var servers []*grpc.Server
	calls := make([]atomic.Int64, 2)
	for i := range calls {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			calls[i].Add(1)
			return handle(ctx, req)
		}))
		healthpb.RegisterHealthServer(server, health.NewServer())
		done := make(chan error, 1)
		go func() { done <- server.Serve(lis) }()
		t.Cleanup(func() {
			server.Stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		addrs, servers = append(addrs, lis.Addr().String()), append(servers, server)
	}
	client := healthpb.NewHealthClient(dial(t, strings.Join(addrs, ","), rpc.DialConfig{}))
	call := func() error {
		_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); calls[0].Load() == 0 || calls[1].Load() == 0; { // the second connects a little later
		if err := call(); err != nil || time.Now().After(deadline) {
			t.Fatalf("one of two replicas got no call: %v", err)
		}
	}
	servers[0].Stop()
	lost := 0
	for inRow := 0; inRow < 10; inRow++ {
		if err := call(); err != nil {
			inRow = 0
			if lost++; lost > 3 { // what was on its way; the connection's end is news that travels
				t.Fatalf("with one replica left: %v", err)
			}
		}
	}
}

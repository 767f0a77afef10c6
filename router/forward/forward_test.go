package forward_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ms = time.Millisecond

	aDrop = "01890a5d-ac96-774b-bcce-b302099a8057"

	requestOffer = "/rimlight.offer.v1.OfferService/RequestOffer"
	redeemOffer  = "/rimlight.offer.v1.OfferService/RedeemOffer"
	watchDrops   = "/rimlight.offer.v1.OfferService/WatchDrops"
	getPurchase  = "/rimlight.offer.v1.OfferService/GetPurchase"
	foreign      = "/echo.v1.EchoService/Talk"
	central      = "/central.v1.CentralService/Get"
)

// server is a grpc server over an in-memory link, with a client to it.
type server struct {
	grpc     *grpc.Server
	listener *bufconn.Listener
	conn     *grpc.ClientConn
}

// serve starts one whose unknown methods end in handle.
func serve(t testing.TB, handle grpc.StreamHandler) *server {
	t.Helper()
	s := &server{listener: bufconn.Listen(1 << 20), grpc: grpc.NewServer(
		grpc.ForceServerCodecV2(frame.Codec{}), grpc.UnknownServiceHandler(handle), grpc.MaxRecvMsgSize(64<<20), grpc.WaitForHandlers(true))}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.grpc.Serve(s.listener) }) // ends with Stop
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		s.grpc.Stop()
		serving.Wait()
	})
	return s
}

// world is a forwarder before some region nodes, nearest first, and a client of it.
type world struct {
	*forward.Forwarder
	regions  *fakeRegions
	nodes    map[string]*server
	viewer   *grpc.ClientConn // the public port's
	operator *grpc.ClientConn // the operator port's
	metrics  *prometheus.Registry
	mu       sync.Mutex
	recorded []*forward.Decision
}

// fakeRegions implements forward.Measurements.
type fakeRegions struct {
	mu       sync.Mutex
	snapshot *arbiter.Snapshot
	outcomes map[string][]measure.Outcome
	begun    map[string]int
}

func (f *fakeRegions) Snapshot() *arbiter.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot
}

func (f *fakeRegions) Begin(key string, _ bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun[key]++
	return 0
}

func (f *fakeRegions) Observe(key string, o measure.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outcomes[key] = append(f.outcomes[key], o)
}

func (f *fakeRegions) of(key string) []measure.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]measure.Outcome(nil), f.outcomes[key]...)
}

// change replaces a region's row.
func (f *fakeRegions) change(key string, c func(*arbiter.Region)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := &arbiter.Snapshot{Version: f.snapshot.Version + 1, Time: time.Now()}
	for _, r := range f.snapshot.Regions {
		row := *r
		if row.Key == key {
			c(&row)
		}
		next.Regions = append(next.Regions, &row)
	}
	f.snapshot = next
}

// node is a region's handler.
type node struct {
	name   string
	handle grpc.StreamHandler
}

func newWorld(t testing.TB, config forward.Config, nodes ...node) *world {
	t.Helper()
	return newWorldWith(t, config, nil, nodes...)
}

// newWorldWith has a policy of its own.
func newWorldWith(t testing.TB, config forward.Config, policy forward.Policy, nodes ...node) *world {
	t.Helper()
	w := &world{metrics: prometheus.NewRegistry(), nodes: map[string]*server{}, regions: &fakeRegions{
		outcomes: map[string][]measure.Outcome{}, begun: map[string]int{}, snapshot: &arbiter.Snapshot{Version: 1, Time: time.Now()},
	}}
	for i, n := range nodes {
		w.nodes[n.name] = serve(t, n.handle)
		w.regions.snapshot.Regions = append(w.regions.snapshot.Regions, &arbiter.Region{
			Key: n.name, Name: n.name, Reachable: true, Network: time.Duration(1+100*i) * ms, Parallelism: 8, SuccessRate: 1,
		})
	}
	// A busy machine may take its time over what is not about time.
	config.AttemptFloor = cmp.Or(config.AttemptFloor, time.Minute)
	config.HedgeShare = cmp.Or(config.HedgeShare, -1)
	config.Router = "r1"
	config.Services = []string{"echo.v1.EchoService"}
	centre := serve(t, talk)
	f, err := forward.New(config, forward.Deps{
		Measured: w.regions, Policy: policy, Metrics: w.metrics,
		Conn: func(key string) grpc.ClientConnInterface {
			if s := w.nodes[key]; s != nil {
				return s.conn
			}
			return nil
		},
		Central: map[string]grpc.ClientConnInterface{"central.v1.CentralService": centre.conn},
		Record: func(d *forward.Decision) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.recorded = append(w.recorded, d)
		},
		Now: time.Now, Random: rand.Reader, Draw: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Forwarder = f
	w.viewer = serve(t, f.Handle).conn
	w.operator = serve(t, f.HandleOperator).conn
	return w
}

// last is the newest recorded decision.
func (w *world) last(t *testing.T) *forward.Decision {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.recorded) == 0 {
		t.Fatal("no decision was recorded")
	}
	return w.recorded[len(w.recorded)-1]
}

// call makes a unary call.
func (w *world) call(ctx context.Context, method string, payload []byte, options ...grpc.CallOption) ([]byte, error) {
	answer := new(frame.Frame)
	err := w.operator.Invoke(ctx, method, &frame.Frame{Payload: payload}, answer, options...)
	return answer.Payload, err
}

// talk is a handler of any kind of streaming: it sends every message back, then what metadata it got, and ends with
// whatever status the metadata key "end" asks for.
func talk(_ any, stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	header := metadata.Pairs("h-text", "v1", "h-text", "v2", "h-data-bin", "\x00\xff")
	header["seen"] = md["k"]
	header["seen-authorization"] = md["authorization"]
	header["seen-te"] = md["proxy-connection"]
	if err := stream.SetHeader(header); err != nil {
		return err
	}
	stream.SetTrailer(metadata.Pairs("t-text", "end", "t-data-bin", "\x01\xfe"))
	for {
		f := new(frame.Frame)
		if err := stream.RecvMsg(f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(f); err != nil {
			return err
		}
		if len(md["one"]) > 0 { // a unary method
			break
		}
	}
	return nil
}

func answers(payload string) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(new(frame.Frame)); err != nil {
			return err
		}
		return stream.SendMsg(&frame.Frame{Payload: []byte(payload)})
	}
}

func fails(err error) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(new(frame.Frame)); err != nil {
			return err
		}
		return err
	}
}

// oddMessages are bytes that a decoder and encoder would change.
var oddMessages = map[string][]byte{
	"empty":                   {},
	"unknown field":           {0xf8, 0x07, 0x01},
	"non-canonical varint":    {0x10, 0x80, 0x80, 0x00},
	"repeated singular field": {0x0a, 0x02, 0x0a, 0x00, 0x0a, 0x02, 0x0a, 0x00},
	"no proto at all":         {0xff, 0xff, 0xff, 0xff},
	"large":                   bytes.Repeat([]byte("x"), 3<<20),
}

func TestBytesPassUntouched(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", talk})
	for _, method := range []string{requestOffer, foreign, central} {
		for name, message := range oddMessages {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "one", "1")
			got, err := w.call(ctx, method, message)
			if err != nil || !bytes.Equal(got, message) {
				t.Errorf("%s, %s: got %d bytes and %v, want the same %d", method, name, len(got), err, len(message))
			}
		}
	}
}

func TestAllKindsOfStreaming(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		switch method {
		case "/echo.v1.EchoService/Collect": // client streaming
			var all []byte
			for {
				f := new(frame.Frame)
				if err := stream.RecvMsg(f); errors.Is(err, io.EOF) {
					return stream.SendMsg(&frame.Frame{Payload: all})
				} else if err != nil {
					return err
				}
				all = append(all, f.Payload...)
			}
		case "/echo.v1.EchoService/Expand", watchDrops: // server streaming
			f := new(frame.Frame)
			if err := stream.RecvMsg(f); err != nil {
				return err
			}
			for i := range f.Payload {
				if err := stream.SendMsg(&frame.Frame{Payload: f.Payload[i : i+1]}); err != nil {
					return err
				}
			}
			return nil
		case "/echo.v1.EchoService/Nothing":
			return nil
		}
		return talk(nil, stream)
	}})
	for _, tt := range []struct {
		kind, method string
		send         []string
		want         []string
	}{
		{"unary", "/echo.v1.EchoService/Unary", []string{"a"}, []string{"a"}},
		{"client streaming", "/echo.v1.EchoService/Collect", []string{"a", "b", "c"}, []string{"abc"}},
		{"server streaming", "/echo.v1.EchoService/Expand", []string{"abc"}, []string{"a", "b", "c"}},
		{"bidi", foreign, []string{"a", "b", "c"}, []string{"a", "b", "c"}},
		{"empty stream", "/echo.v1.EchoService/Nothing", nil, nil},
		{"OfferService server streaming", watchDrops, []string{"xyz"}, []string{"x", "y", "z"}},
		{"OfferService server streaming, empty", watchDrops, []string{""}, nil},
		{"central bidi", central, []string{"a", "b"}, []string{"a", "b"}},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			stream, err := w.operator.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, tt.method)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range tt.send {
				if err := stream.SendMsg(&frame.Frame{Payload: []byte(m)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				got := new(frame.Frame)
				if err := stream.RecvMsg(got); err != nil || string(got.Payload) != want {
					t.Fatalf("got %q and %v, want %q", got.Payload, err, want)
				}
			}
			if err := stream.RecvMsg(new(frame.Frame)); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want the end", err)
			}
		})
	}
}

func TestBidiIsNotBuffered(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", talk})
	stream, err := w.viewer.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, foreign)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"ping", "pong"} { // each answer comes before the next message is sent
		if err := stream.SendMsg(&frame.Frame{Payload: []byte(m)}); err != nil {
			t.Fatal(err)
		}
		got := new(frame.Frame)
		if err := stream.RecvMsg(got); err != nil || string(got.Payload) != m {
			t.Fatalf("got %q and %v, want %q", got.Payload, err, m)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(frame.Frame)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
}

func TestMetadataPassesBothWays(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", talk})
	for _, method := range []string{requestOffer, foreign, watchDrops, central} {
		t.Run(method, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "one", "1", "k", "v1", "k", "v2", "authorization", "Bearer x",
				"proxy-connection", "keep-alive", forward.TrailerLoad, "forged")
			stream, err := w.operator.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.SendMsg(&frame.Frame{Payload: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				err = stream.RecvMsg(new(frame.Frame))
			}
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			header, err := stream.Header()
			if err != nil {
				t.Fatal(err)
			}
			equal := func(what string, got []string, want ...string) {
				t.Helper()
				if len(got) != len(want) {
					t.Errorf("%s: got %q, want %q", what, got, want)
					return
				}
				for i := range got {
					if got[i] != want[i] {
						t.Errorf("%s: got %q, want %q", what, got, want)
					}
				}
			}
			equal("request", header["seen"], "v1", "v2")
			equal("authorization", header["seen-authorization"], "Bearer x")
			equal("hop by hop", header["seen-te"])
			equal("header", header["h-text"], "v1", "v2")
			equal("binary header", header["h-data-bin"], "\x00\xff")
			equal("trailer", stream.Trailer()["t-text"], "end")
			equal("binary trailer", stream.Trailer()["t-data-bin"], "\x01\xfe")
			equal("load report", stream.Trailer()[forward.TrailerLoad])
			if method[:9] != "/central." {
				equal("region", header[forward.HeaderRegion], "near")
				equal("decision", header[forward.HeaderDecision], w.last(t).ID)
			}
		})
	}
}

func TestUnknownMethodsAreRefused(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", answers("x")})
	for _, method := range []string{"/nobody.v1.NoService/Get", "/rimlight.offer.v1.OfferService/Nothing", "/rimlight.region.v1.RegionService/SetMode"} {
		_, err := w.call(t.Context(), method, nil)
		wantStatus(t, err, codes.Unimplemented, "UNKNOWN_METHOD")
	}
}

func TestCentralServicesAreTheOperatorsOnly(t *testing.T) {
	w := newWorld(t, forward.Config{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "one", "1")
	if _, err := w.call(ctx, central, nil); err != nil {
		t.Errorf("on the operator port: %v", err)
	}
	err := w.viewer.Invoke(ctx, central, &frame.Frame{}, new(frame.Frame))
	wantStatus(t, err, codes.Unimplemented, "UNKNOWN_METHOD")
}

func TestForeignStatusIsTransparent(t *testing.T) {
	want := status.New(codes.FailedPrecondition, "their own affair")
	w := newWorld(t, forward.Config{}, node{"near", fails(want.Err())}, node{"far", answers("x")})
	_, err := w.call(t.Context(), foreign, nil)
	if got := status.Convert(err); got.Code() != want.Code() || got.Message() != want.Message() || len(got.Details()) != 0 {
		t.Errorf("got %v, want %v", got, want)
	}
}

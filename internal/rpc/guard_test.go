package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// port is a public port in memory, for a bubble.
type port struct {
	t       *testing.T
	lis     *memory
	metrics *prometheus.Registry
}

// inMemory serves a public port in a bubble while fn runs.
func inMemory(t *testing.T, change func(*rpc.ServerConfig), fn func(*testing.T, *port)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &port{t: t, lis: newMemory(), metrics: prometheus.NewRegistry()}
		cfg := rpc.ServerConfig{Name: "test", Public: true, Metrics: p.metrics}
		if change != nil {
			change(&cfg)
		}
		s, err := rpc.NewServer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		offerv1.RegisterOfferServiceServer(s, offers{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.ServePublic(ctx, p.lis) }()
		fn(t, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (p *port) connect() net.Conn {
	p.t.Helper()
	c, err := p.lis.dial(p.t.Context(), "there")
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// grpc is a client of its own connection.
func (p *port) grpc() offerv1.OfferServiceClient {
	return offerv1.NewOfferServiceClient(dial(p.t, "there", rpc.DialConfig{Dialer: p.lis.dial}))
}

// counted is a metric's value with this label, or of a gauge without any.
func (p *port) counted(name, label string) float64 {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (p *port) wantCounted(name, label string, want float64) {
	p.t.Helper()
	if got := p.counted(name, label); got != want {
		p.t.Errorf("%s %s: got %v, want %v", name, label, got, want)
	}
}

const gaveUp, refused = "rimlight_edge_gave_up_total", "rimlight_edge_refused_total"

// ends tells how long the other end keeps a connection on which nothing more is sent.
func ends(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	_ = conn.SetReadDeadline(begin.Add(time.Hour))
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("was not ended: %v", err)
	}
	return time.Since(begin)
}

func TestConnectionsAboveTheLimitAreToldOrClosed(t *testing.T) {
	inMemory(t, func(c *rpc.ServerConfig) { c.MaxConnections = 20 }, func(t *testing.T, p *port) {
		var kept []net.Conn
		for range 20 {
			kept = append(kept, p.connect())
		}
		ask := func() (*http.Response, error) {
			conn := p.connect()
			defer conn.Close()
			go func() {
				_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", listKeys)
			}()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return nil, err
			}
			body, err := io.ReadAll(res.Body)
			res.Body = io.NopCloser(bytes.NewReader(body))
			return res, err
		}
		res, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		if wait, again := rpcerr.Retry(connectStatus(t, body)); res.StatusCode != http.StatusTooManyRequests || !again || wait == 0 || !res.Close ||
			rpcerr.Reason(connectStatus(t, body)) != errorsv1.Reason_REASON_OVERLOADED {
			t.Errorf("the first above the limit: got %d, close %v, %s", res.StatusCode, res.Close, body)
		}
		_, err = p.grpc().ListKeys(t.Context(), &offerv1.ListKeysRequest{})
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_OVERLOADED {
			t.Errorf("the same over gRPC: got %v", err)
		}
		synctest.Wait()
		p.wantCounted(refused, "connections", 2)

		kept = append(kept, p.connect(), p.connect()) // the tenth above
		if _, err := ask(); err == nil {
			t.Error("far above the limit somebody was heard")
		}
		p.wantCounted(refused, "connections", 3)
		for _, c := range kept {
			_ = c.Close()
		}
		synctest.Wait()
		if res, err := ask(); err != nil || res.StatusCode != http.StatusNotImplemented { // by the handler
			t.Errorf("after the others left: got %v, %v", res, err)
		}
		synctest.Wait()
		p.wantCounted("rimlight_edge_connections", "", 0)
	})
}

func TestStreamsAboveTheLimitAreRefusedAndPurchasesAreNot(t *testing.T) {
	inMemory(t, func(c *rpc.ServerConfig) { c.MaxStreams = 3 }, func(t *testing.T, p *port) {
		client := p.grpc()
		watch := func() (grpc.ServerStreamingClient[offerv1.WatchDropsResponse], context.CancelFunc, error) {
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := client.WatchDrops(ctx, &offerv1.WatchDropsRequest{ChannelId: "wait"})
			if err == nil {
				_, err = stream.Recv()
			}
			return stream, cancel, err
		}
		var leave []context.CancelFunc
		for range 3 {
			_, cancel, err := watch()
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, cancel)
		}
		_, cancel, err := watch()
		cancel()
		if wait, again := rpcerr.Retry(err); status.Code(err) != codes.ResourceExhausted || rpcerr.Reason(err) != errorsv1.Reason_REASON_OVERLOADED || !again || wait == 0 {
			t.Errorf("the fourth: got %v", err)
		}
		p.wantCounted(refused, "streams", 1)
		p.wantCounted("rimlight_edge_streams", "", 3)
		if _, err := client.RequestOffer(t.Context(), offerRequest("")); err != nil {
			t.Errorf("a unary call beside them: %v", err)
		}
		leave[0]()
		synctest.Wait()
		_, cancel, err = watch()
		if err != nil {
			t.Errorf("once one left: %v", err)
		}
		for _, leave := range append(leave, cancel) {
			leave()
		}
	})
}

// A stream on which nothing moves ends after five minutes with what its client needs to go on.
func TestIdleStreamsEnd(t *testing.T) {
	foreign := func(_ any, ss grpc.ServerStream) error { <-ss.Context().Done(); return ss.Context().Err() }
	inMemory(t, func(c *rpc.ServerConfig) { c.Unknown = foreign }, func(t *testing.T, p *port) {
		conn := dial(t, "there", rpc.DialConfig{Dialer: p.lis.dial})
		begin := time.Now()
		stream, err := offerv1.NewOfferServiceClient(conn).WatchDrops(t.Context(), &offerv1.WatchDropsRequest{ChannelId: "wait"})
		for err == nil {
			_, err = stream.Recv()
		}
		if _, again := rpcerr.Retry(err); rpcerr.Reason(err) != errorsv1.Reason_REASON_STREAM_IDLE || status.Code(err) != codes.Unavailable || !again {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != 5*time.Minute {
			t.Errorf("ended after %v", took)
		}
		p.wantCounted(gaveUp, "idle", 1)

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		theirs, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/acme.Shop/Chat", grpc.ForceCodecV2(frame.Codec{}))
		if err == nil {
			err = theirs.RecvMsg(&frame.Frame{})
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("somebody else's stream has no deadline of ours: got %v", err)
		}
	})
}

// The guard of the above: whatever is said, and be it one word in four minutes, keeps a stream.
func TestAStreamThatSpeaksIsNotIdle(t *testing.T) {
	slowly := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		for range 5 {
			if err := ss.SendMsg(&offerv1.WatchDropsResponse{}); err != nil {
				return err
			}
			select {
			case <-time.After(4 * time.Minute):
			case <-ss.Context().Done():
				return ss.Context().Err()
			}
		}
		return nil
	}
	inMemory(t, func(c *rpc.ServerConfig) {
		c.Unknown = func(srv any, ss grpc.ServerStream) error { return slowly(srv, ss, nil, nil) }
	}, func(t *testing.T, p *port) {
		const forwarded = "/rimlight.verifier.v1.SupportService/WatchEvents"
		stream, err := dial(t, "there", rpc.DialConfig{Dialer: p.lis.dial}).
			NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, forwarded, grpc.ForceCodecV2(frame.Codec{}))
		if err == nil {
			err = errors.Join(stream.SendMsg(&frame.Frame{}), stream.CloseSend())
		}
		for err == nil {
			err = stream.RecvMsg(&frame.Frame{})
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
}

// Who asks and does not read holds a call for half a minute.
//
//rimlight:bubble it plays in those of inMemory
func TestAnswersThatNobodyTakesAreGivenUp(t *testing.T) {
	request := func(method, contentType string, body []byte) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", method, contentType, len(body), body)
	}
	for _, tc := range []struct{ rule, sent string }{
		{"a unary answer", request(listKeys, "application/json", []byte("{}"))},
		{"a page", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"a stream", request(watchDrops, "application/grpc-web+proto", envelope(0, nil))},
		{"a stream in text mode", request(watchDrops, "application/grpc-web-text", []byte("AAAAAAA="))},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			inMemory(t, nil, func(t *testing.T, p *port) {
				conn := p.connect()
				defer conn.Close()
				if _, err := io.WriteString(conn, tc.sent); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) // in a bubble: the port has all the time
				p.wantCounted("rimlight_edge_connections", "", 0)
			})
		})
	}
}

// The same over HTTP/2, whose flow control stops an answer while the connection is well.
func TestAWindowThatStaysShutIsGivenUp(t *testing.T) {
	watch, err := proto.Marshal(&offerv1.WatchDropsRequest{ChannelId: "wait"})
	if err != nil {
		t.Fatal(err)
	}
	ask, err := proto.Marshal(offerRequest(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		rule, method, contentType string
		body                      []byte
		counted                   float64
	}{
		{"a stream", watchDrops, "application/grpc-web+proto", envelope(0, watch), 1},
		{"a unary answer", requestOffer, "application/grpc-web+proto", envelope(0, ask), 1},
		{"one that net/http writes when the handler is done", requestOffer, "application/proto", ask, 0},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			inMemory(t, nil, func(t *testing.T, p *port) {
				c := newRawHTTP2(t, p.connect(), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				defer c.conn.Close()
				begin := time.Now()
				c.headers(1, true, tc.method, tc.contentType)
				c.data(1, true, tc.body)
				if got := c.until(t, http2.FrameRSTStream); got == nil {
					t.Fatal("the stream was not reset")
				}
				if took := time.Since(begin); took > 31*time.Second {
					t.Errorf("was given up after %v", took)
				}
				p.wantCounted(gaveUp, "answer", tc.counted)
			})
		})
	}
}

// rawHTTP2 speaks frames, as no library would.
type rawHTTP2 struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
}

func newRawHTTP2(t *testing.T, conn net.Conn, settings ...http2.Setting) *rawHTTP2 {
	c := &rawHTTP2{t, conn, http2.NewFramer(conn, bufio.NewReader(conn))}
	greeting := &bytes.Buffer{} // a pipe has no buffer, and the port greets before it reads all of this
	_, _ = greeting.WriteString(http2.ClientPreface)
	if err := http2.NewFramer(greeting, nil).WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = conn.Write(greeting.Bytes()) }()
	if c.until(t, http2.FrameSettings) == nil {
		t.Fatal("no settings")
	}
	return c
}

// until reads to a frame of this type; nil: the connection ended before.
func (c *rawHTTP2) until(t *testing.T, kind http2.FrameType) http2.Frame {
	t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Hour))
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return nil
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			c.write(func(out *http2.Framer) error { return out.WriteSettingsAck() })
		}
		if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() {
			c.write(func(out *http2.Framer) error { return out.WritePing(true, ping.Data) })
		}
		if f.Header().Type == kind {
			return f
		}
	}
}

// write does not wait for the port: both ends may be about to write.
func (c *rawHTTP2) write(fn func(*http2.Framer) error) {
	var b bytes.Buffer
	if err := fn(http2.NewFramer(&b, nil)); err != nil {
		c.t.Fatal(err)
	}
	go func() { _, _ = c.conn.Write(b.Bytes()) }()
	synctest.Wait()
}

func (c *rawHTTP2) headers(stream uint32, whole bool, method, contentType string) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", method}, {"content-type", contentType},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // into memory
	}
	c.write(func(out *http2.Framer) error {
		return out.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: whole})
	})
}

func (c *rawHTTP2) data(stream uint32, last bool, payload []byte) {
	c.write(func(out *http2.Framer) error { return out.WriteData(stream, last, payload) })
}

// Who connects and takes its time is counted when it is closed.
//
//rimlight:bubble it plays in those of inMemory
func TestTricklesAreCounted(t *testing.T) {
	trickle := func(conn net.Conn, first string) {
		_, err := io.WriteString(conn, first)
		for ; err == nil; _, err = io.WriteString(conn, "x") {
			time.Sleep(time.Second)
		}
	}
	donor := httptest.NewTLSServer(nil) // only for its certificate
	cert := donor.TLS.Certificates
	donor.Close()
	post := "POST " + listKeys + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
	for _, tc := range []struct {
		rule, sent, why string
		tls             bool
		within          time.Duration
	}{
		{"nothing at all", "", "no_request", false, 6 * time.Second},
		{"headers", "POST /x HTTP/1.1\r\nHost: x\r\nX-Trickle: ", "no_request", false, 6 * time.Second},
		{"the headers of a second request", "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX-Trickle: ", "no_request", false, 6 * time.Second},
		{"a handshake", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no_request", true, 6 * time.Second},
		{"a body", post, "body", false, 11 * time.Second},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			inMemory(t, func(c *rpc.ServerConfig) {
				if tc.tls {
					c.TLS = &tls.Config{Certificates: cert}
				}
			}, func(t *testing.T, p *port) {
				conn := p.connect()
				var sending sync.WaitGroup
				defer sending.Wait()
				if tc.sent != "" {
					sending.Go(func() { trickle(conn, tc.sent) })
				}
				if took := ends(t, conn); took > tc.within {
					t.Errorf("was held for %v", took)
				}
				_ = conn.Close()
				synctest.Wait()
				p.wantCounted(gaveUp, tc.why, 1)
				p.wantCounted("rimlight_edge_connections", "", 0)
			})
		})
	}
	t.Run("headers of HTTP/2 in pieces", func(t *testing.T) {
		inMemory(t, nil, func(t *testing.T, p *port) {
			c := newRawHTTP2(t, p.connect())
			c.headers(1, false, watchDrops, "application/grpc-web+proto")
			var sending sync.WaitGroup
			defer sending.Wait()
			sending.Go(func() {
				for http2.NewFramer(c.conn, nil).WriteContinuation(1, false, []byte{0}) == nil {
					time.Sleep(time.Second)
				}
			})
			if took := ends(t, c.conn); took > time.Minute {
				t.Errorf("was held for %v", took)
			}
			_ = c.conn.Close()
			synctest.Wait()
			p.wantCounted(gaveUp, "no_request", 1)
		})
	})
	t.Run("a body over HTTP/2 is answered", func(t *testing.T) {
		inMemory(t, nil, func(t *testing.T, p *port) {
			conn := dial(t, "there", rpc.DialConfig{Dialer: p.lis.dial})
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x", "y")
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, watchDrops, grpc.ForceCodecV2(frame.Codec{}))
			if err == nil {
				err = stream.RecvMsg(&frame.Frame{})
			}
			if rpcerr.Reason(err) != errorsv1.Reason_REASON_DEADLINE_EXCEEDED {
				t.Errorf("got %v", err)
			}
			p.wantCounted(gaveUp, "body", 1)
		})
	})
}

// Who came, asked and left was not slow.
func TestCallersWhoLeaveAreNotCounted(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, p *port) {
		if _, err := p.grpc().RequestOffer(t.Context(), offerRequest("")); err != nil {
			t.Error(err)
		}
		silent := p.connect()
		_ = silent.Close()
		conn := p.connect()
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if err == nil {
			_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		}
		if err != nil {
			t.Error(err)
		}
		if took := ends(t, conn); took < time.Minute {
			t.Errorf("a connection was kept for another request for %v only", took)
		}
		_ = conn.Close()
		synctest.Wait()
		for _, why := range []string{"no_request", "body", "answer", "idle"} {
			p.wantCounted(gaveUp, why, 0)
		}
	})
}

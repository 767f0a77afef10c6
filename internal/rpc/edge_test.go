package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func do(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func httpRequest(t *testing.T, method, url, body string, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func TestCORS(t *testing.T) {
	const origin = "https://creator.example"
	for _, tc := range []struct {
		name   string
		public bool
		want   string
	}{
		{"every page may call the public port", true, "*"},
		{"no other page may call an operator's port", false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := start(t, func(c *rpc.ServerConfig) { c.Public = tc.public }, nil)
			res, _ := do(t, httpRequest(t, http.MethodOptions, "http://"+w.edge+requestOffer, "", "Origin", origin,
				"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type,grpc-timeout,traceparent,x-grpc-web"))
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != tc.want {
				t.Errorf("preflight: got origin %q, want %q", got, tc.want)
			}
			if tc.public && !strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "traceparent,x-grpc-web") {
				t.Errorf("preflight: got %v", res.Header)
			}
			res, _ = do(t, httpRequest(t, http.MethodPost, "http://"+w.edge+listKeys, "{}", "Origin", origin, "Content-Type", "application/json"))
			exposed := res.Header.Get("Access-Control-Expose-Headers")
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != tc.want {
				t.Errorf("call: got origin %q, want %q", got, tc.want)
			}
			for _, name := range []string{"Rimlight-Decision", "Rimlight-Region", "Trailer-Rimlight-Decision", "Grpc-Status-Details-Bin"} {
				if strings.Contains(exposed, name) != tc.public {
					t.Errorf("call: %s exposed: %q", name, exposed)
				}
			}
		})
	}
}

func TestConnectGet(t *testing.T) {
	w := start(t, nil, nil)
	query := url.Values{"encoding": {"json"}, "message": {`{"pageSize":3}`}}
	if res, body := do(t, httpRequest(t, http.MethodGet, "http://"+w.edge+watchDrops+"?"+query.Encode(), "")); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a stream by GET: got %d %s", res.StatusCode, body)
	}
	res, body := do(t, httpRequest(t, http.MethodGet, "http://"+w.edge+listKeys+"?"+query.Encode(), ""))
	if res.StatusCode != http.StatusNotImplemented || rpcerr.Reason(connectStatus(t, []byte(body))) != errorsv1.Reason_REASON_UNKNOWN_METHOD {
		t.Errorf("a read by GET must reach its handler: got %d %s", res.StatusCode, body)
	}
	if res, body := do(t, httpRequest(t, http.MethodGet, "http://"+w.edge+redeemOffer+"?"+query.Encode(), "")); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a change by GET: got %d %s", res.StatusCode, body)
	}
}

func TestBadHeadersAreMalformed(t *testing.T) {
	w := start(t, nil, nil)
	for _, tc := range []struct {
		name, contentType, header, value string
		code                             codes.Code
	}{
		{"an unknown compression in Connect", "application/json", "Content-Encoding", "br", codes.Unimplemented},
		{"an unknown compression in gRPC-Web", "application/grpc-web+proto", "Grpc-Encoding", "snappy", codes.Unimplemented},
		{"a timeout that is none in Connect", "application/json", "Connect-Timeout-Ms", "soon", codes.InvalidArgument},
		{"a timeout that is none in gRPC-Web", "application/grpc-web+proto", "Grpc-Timeout", "5x", codes.InvalidArgument},
		{"a timeout beyond the protocol's digits", "application/grpc-web+proto", "Grpc-Timeout", "123456789m", codes.InvalidArgument},
		{"another Connect", "application/json", "Connect-Protocol-Version", "9", codes.InvalidArgument},
	} {
		res, body := do(t, httpRequest(t, http.MethodPost, "http://"+w.edge+requestOffer, "{}", "Content-Type", tc.contentType, tc.header, tc.value))
		var err error
		if strings.Contains(tc.contentType, "grpc") {
			err = trailerStatus(t, res.Header)
		} else {
			err = connectStatus(t, []byte(body))
		}
		if status.Code(err) != tc.code || rpcerr.Reason(err) != errorsv1.Reason_REASON_MALFORMED {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
	res, body := do(t, httpRequest(t, http.MethodGet, "http://"+w.edge+listKeys, ""))
	if rpcerr.Reason(connectStatus(t, []byte(body))) != errorsv1.Reason_REASON_MALFORMED {
		t.Errorf("a GET without a message: %d %s", res.StatusCode, body)
	}
}

// TestBrokenEnvelopes sends what no client library would.
func TestBrokenEnvelopes(t *testing.T) {
	w := start(t, nil, nil)
	for _, tc := range []struct {
		name string
		body []byte
	}{
		{"nothing", nil},
		{"half a prefix", []byte{0, 0}},
		{"less than promised", []byte{0, 0, 0, 0, 9, 1}},
		{"two messages in a unary call", append(envelope(0, nil), envelope(0, nil)...)},
		{"compressed, but with nothing", envelope(1, []byte("not gzip"))},
		{"a trailer instead of a message", envelope(0x80, []byte("grpc-status: 0"))},
		{"unknown flags", envelope(0x7e, nil)},
		{"a promise of 4 GiB", []byte{0, 0xff, 0xff, 0xff, 0xff}},
	} {
		for _, contentType := range []string{"application/grpc-web+proto", "application/grpc+proto"} {
			res, _ := post(t, w, request{method: listKeys}, contentType, tc.body)
			trailer := res.Trailer
			if res.Header.Get("Grpc-Status") != "" {
				trailer = res.Header
			} else if contentType == "application/grpc-web+proto" {
				t.Fatalf("%s: no status in %v", tc.name, res.Header)
			}
			err := trailerStatus(t, trailer)
			reason := rpcerr.Reason(err)
			if reason != errorsv1.Reason_REASON_MALFORMED && reason != errorsv1.Reason_REASON_MESSAGE_TOO_LARGE {
				t.Errorf("%s as %s: got %v", tc.name, contentType, err)
			}
		}
	}
}

func TestPages(t *testing.T) {
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "page "+r.Method+" "+r.URL.Path)
	})
	w := start(t, func(c *rpc.ServerConfig) { c.HTTP, c.Unknown = pages, forward }, nil)
	for _, tc := range []struct {
		name, method, path, contentType string
		page                            bool
	}{
		{"the root", http.MethodGet, "/", "", true},
		{"a deep path", http.MethodGet, "/console/app.js", "", true},
		{"a form", http.MethodPost, "/console/login", "application/x-www-form-urlencoded", true},
		{"JSON to a path without a package", http.MethodPost, "/api/v1", "application/json", true},
		{"JSON to a deep path", http.MethodPost, "/a.b/c/d", "application/json", true},
		{"JSON to a method", http.MethodPost, "/acme.Shop/Buy", "application/json", false},
		{"gRPC-Web to a service without a package", http.MethodPost, "/Shop/Buy", "application/grpc-web+proto", false},
	} {
		_, body := do(t, httpRequest(t, tc.method, "http://"+w.edge+tc.path, "", "Content-Type", tc.contentType))
		if got := body == "page "+tc.method+" "+tc.path; got != tc.page {
			t.Errorf("%s: got %q", tc.name, body)
		}
	}
	bare := start(t, nil, nil)
	if res, _ := do(t, httpRequest(t, http.MethodGet, "http://"+bare.edge+"/", "")); res.StatusCode != http.StatusNotFound {
		t.Errorf("without pages: got %d, want 404", res.StatusCode)
	}
}

func TestLimits(t *testing.T) {
	w := start(t, nil, nil)
	long := strings.Repeat("x", 32<<10)
	res, _ := do(t, httpRequest(t, http.MethodPost, "http://"+w.edge+listKeys, "{}", "Content-Type", "application/json", "X-Long", long))
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("32 KiB of headers at the edge: got %d, want 431", res.StatusCode)
	}
	for _, target := range []string{w.native, w.edge} {
		a := callGRPC(t, target, request{method: requestOffer, msg: offerRequest(""), header: map[string]string{"x-long": long}, timeout: 5 * time.Second})
		if a.err == nil || status.Code(a.err) == codes.DeadlineExceeded {
			t.Errorf("32 KiB of headers: got %v", a.err)
		}
		conn := dial(t, target, rpc.DialConfig{})
		client := offerv1.NewOfferServiceClient(conn)
		ctx, cancel := context.WithCancel(t.Context())
		for range 64 {
			stream, err := client.WatchDrops(ctx, &offerv1.WatchDropsRequest{ChannelId: "wait"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		short, done := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := client.RequestOffer(short, offerRequest("")); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the 65th call of a connection: got %v, want it to wait", err)
		}
		done()
		cancel()
	}
	big := start(t, func(c *rpc.ServerConfig) { c.MaxRecvBytes, c.Unknown = 64<<10, forward }, nil)
	for _, p := range protocols {
		req := &offerv1.WatchDropsRequest{Hints: &offerv1.RoutingHints{ResidencyZones: []string{strings.Repeat("x", 40<<10)}}}
		if a := p.call(t, big, request{method: watchDrops, msg: req, stream: true}); rpcerr.Reason(a.err) != errorsv1.Reason_REASON_MESSAGE_TOO_LARGE {
			t.Errorf("%s: 40 KiB for a viewer's stream, whatever others may send: got %v", p.name, a.err)
		}
	}
	body := envelope(0, bytes.Repeat([]byte("x"), 40<<10))
	if _, raw := post(t, big, request{method: "/acme.Shop/Chat"}, "application/grpc-web+proto", body); !bytes.Contains(raw, body) {
		t.Errorf("40 KiB for somebody else's service with a limit of 64 KiB: %d bytes came back", len(raw))
	}
}

func TestAZipBombIsTooLarge(t *testing.T) {
	w := start(t, nil, nil)
	bomb := gzipped(t, make([]byte, 10<<20))
	res, _ := post(t, w, request{method: listKeys, header: map[string]string{"grpc-encoding": "gzip"}}, "application/grpc-web+proto", envelope(1, bomb))
	if err := trailerStatus(t, res.Header); rpcerr.Reason(err) != errorsv1.Reason_REASON_MESSAGE_TOO_LARGE {
		t.Errorf("got %v", err)
	}
}

func TestInfrastructureServices(t *testing.T) {
	w := start(t, func(c *rpc.ServerConfig) { c.Reflection, c.Channelz = true, true }, nil)
	for _, target := range []string{w.native, w.edge} {
		conn := dial(t, target, rpc.DialConfig{})
		health := grpc_health_v1.NewHealthClient(conn)
		if res, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil || res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health: got %v, %v", res, err)
		}
		if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound || rpcerr.Info(err) != nil {
			t.Errorf("gRPC's own status must stay as it is: got %v", err)
		}
		stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ask := &grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}
		if err := stream.Send(ask); err != nil {
			t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil || !strings.Contains(res.String(), "rimlight.offer.v1.OfferService") {
			t.Errorf("reflection: got %v, %v", res, err)
		}
		_ = stream.CloseSend()
		if _, err := grpc_channelz_v1.NewChannelzClient(conn).GetServers(t.Context(), &grpc_channelz_v1.GetServersRequest{}); err != nil {
			t.Errorf("channelz: %v", err)
		}
	}
}

func TestShutdown(t *testing.T) {
	entered, release := make(chan struct{}, 2), make(chan struct{})
	slow := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		entered <- struct{}{}
		<-release
		return handler(ctx, req)
	}
	w := start(t, func(c *rpc.ServerConfig) { c.Unary = []grpc.UnaryServerInterceptor{slow} }, nil)
	results := make(chan error, 4)
	for _, target := range []string{w.native, w.edge} {
		client := offerv1.NewOfferServiceClient(dial(t, target, rpc.DialConfig{}))
		stream, err := client.WatchDrops(t.Context(), &offerv1.WatchDropsRequest{ChannelId: "wait"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if _, err := stream.Recv(); err != nil {
					results <- err
					return
				}
			}
		}()
		go func() {
			_, err := client.RequestOffer(t.Context(), offerRequest(""))
			if err != nil {
				err = errors.Join(errors.New("a unary call under way was lost"), err)
			}
			results <- err
		}()
	}
	<-entered
	<-entered
	go w.stop()
	for range 2 { // the streams end first, as the unary calls still wait
		if err := <-results; rpcerr.Reason(err) != errorsv1.Reason_REASON_DRAINING || status.Code(err) != codes.Unavailable {
			t.Errorf("a stream at shutdown: got %v, want UNAVAILABLE DRAINING", err)
		}
	}
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// Browsers on HTTP/1.1 can call methods that the router does not know.
func TestForwardingOverHTTP1(t *testing.T) {
	w := start(t, func(c *rpc.ServerConfig) { c.Unknown = forward }, nil)
	body := append(envelope(0, []byte("a")), envelope(0, []byte("b"))...)
	_, raw := post(t, w, request{method: "/acme.Shop/Chat"}, "application/grpc-web+proto", body)
	pieces := envelopes(t, raw)
	if len(pieces) != 3 || !bytes.Equal(pieces[1].payload, []byte("b")) {
		t.Errorf("got %q", pieces)
	}
}

func TestTLS(t *testing.T) {
	donor := httptest.NewTLSServer(nil) // only for its certificate
	cert := donor.TLS.Certificates
	donor.Close()
	s, err := rpc.NewServer(rpc.ServerConfig{Name: "test", Public: true, TLS: &tls.Config{Certificates: cert}})
	if err != nil {
		t.Fatal(err)
	}
	offerv1.RegisterOfferServiceServer(s, offers{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServePublic(ctx, lis) }()
	conn := dial(t, lis.Addr().String(), rpc.DialConfig{Token: "x", TLS: &tls.Config{InsecureSkipVerify: true}})
	if _, err := offerv1.NewOfferServiceClient(conn).RequestOffer(t.Context(), offerRequest("")); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNativeBackstop shows the one limit of the package's promise: what exceeds grpc-go's own limit has the code, but no
// reason.
func TestNativeBackstop(t *testing.T) {
	w := start(t, nil, nil)
	a := callGRPC(t, w.native, request{method: listKeys, body: make([]byte, 5<<20), timeout: 10 * time.Second})
	if status.Code(a.err) != codes.ResourceExhausted {
		t.Errorf("got %v", a.err)
	}
}

func FuzzEdgeBody(f *testing.F) {
	w := start(f, func(c *rpc.ServerConfig) { c.Rules = nil }, nil)
	good, err := proto.Marshal(redeemRequest())
	if err != nil {
		f.Fatal(err)
	}
	contentTypes := []string{"application/grpc-web+proto", "application/grpc-web+json", "application/grpc+proto", "application/proto", "application/json",
		"application/connect+proto", "application/connect+json", "application/grpc-web-text"}
	methods := []string{requestOffer, redeemOffer, watchDrops, service + "GetPurchase", "/acme.Shop/Buy"}
	for i := range contentTypes {
		f.Add(uint8(i), uint8(1), good)
		f.Add(uint8(i), uint8(1), envelope(0, good))
		f.Add(uint8(i), uint8(4), slices.Concat(envelope(0, good), envelope(0x80, nil), envelope(0, good)))
		f.Add(uint8(i), uint8(1), base64.StdEncoding.AppendEncode(nil, envelope(0, good)))
		f.Add(uint8(i), uint8(2), []byte("\x00\x00\x00\x00\x02{}"))
		f.Add(uint8(i), uint8(0), []byte(`{"hints":{"dropId":"`+drop+`"},"viewerSessionId":"`+base64.StdEncoding.EncodeToString([]byte(session))+`"}`))
	}
	f.Fuzz(func(t *testing.T, kind, which uint8, body []byte) {
		contentType := contentTypes[int(kind)%len(contentTypes)]
		method := methods[int(which)%len(methods)]
		res, raw := post(t, w, request{method: method}, contentType, body)
		var err error
		switch {
		case strings.HasPrefix(contentType, "application/grpc-web"):
			h := res.Header
			if h.Get("Grpc-Status") == "" {
				return // messages were sent: a success or the stream's own end
			}
			err = trailerStatus(t, h)
		case strings.HasPrefix(contentType, "application/grpc"):
			h := res.Trailer
			if h.Get("Grpc-Status") == "" {
				h = res.Header
			}
			if h.Get("Grpc-Status") == "" {
				return // full duplex over HTTP/1.1
			}
			err = trailerStatus(t, h)
		case strings.HasPrefix(contentType, "application/connect"):
			for _, p := range envelopes(t, raw) {
				if _, e, ok := bytes.Cut(p.payload, []byte(`"error":`)); p.flags&2 != 0 && ok {
					err = connectStatus(t, bytes.TrimSuffix(e, []byte("}")))
				}
			}
		case res.StatusCode != http.StatusOK:
			if len(raw) == 0 {
				return // refused by HTTP alone, e.g. 415 for an unary type on a stream
			}
			err = connectStatus(t, raw)
		}
		if err == nil {
			return
		}
		if c := status.Code(err); c == codes.Internal || c == codes.Unknown || rpcerr.Info(err) == nil {
			t.Errorf("%s as %s: got %v", method, contentType, err)
		}
	})
}

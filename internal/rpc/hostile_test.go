package rpc_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// Requests of gRPC-Web have no trailers: those belong to answers. One envelope of them is no more than the end of the body;
// whatever a page puts after them, or instead of a message, is refused and counted, and is never read as a message.
func TestTrailersInARequest(t *testing.T) {
	metrics := prometheus.NewRegistry()
	w := start(t, func(c *rpc.ServerConfig) { c.Metrics, c.Unknown, c.Forwarded = metrics, forward, []string{"acme.Shop"} }, nil)
	message, err := proto.Marshal(offerRequest(""))
	if err != nil {
		t.Fatal(err)
	}
	m, trailers := envelope(0, message), envelope(0x80, []byte("grpc-status: 0\r\n"))
	refusals := 0
	for _, tc := range []struct {
		rule   string
		body   []byte
		reason errorsv1.Reason
	}{
		{"at the end", slices.Concat(m, trailers), 0},
		{"in the middle", slices.Concat(m, trailers, m), errorsv1.Reason_REASON_MALFORMED},
		{"before the message", slices.Concat(trailers, m), errorsv1.Reason_REASON_MALFORMED},
		{"twice", slices.Concat(m, trailers, trailers), errorsv1.Reason_REASON_MALFORMED},
		{"with bytes after them", slices.Concat(m, trailers, []byte("x")), errorsv1.Reason_REASON_MALFORMED},
		{"that are no headers", slices.Concat(m, envelope(0x80, []byte("no header"))), errorsv1.Reason_REASON_MALFORMED},
		{"cut short", slices.Concat(m, trailers[:len(trailers)-1]), errorsv1.Reason_REASON_MALFORMED},
	} {
		for _, method := range []string{requestOffer, watchDrops, "/acme.Shop/Chat"} {
			for _, contentType := range []string{"application/grpc-web+proto", "application/grpc-web-text"} {
				a := postWeb(t, w, method, contentType, tc.body)
				if got := rpcerr.Reason(a.err); got != tc.reason || tc.reason != 0 && status.Code(a.err) != codes.InvalidArgument {
					t.Errorf("trailers %s: %s as %s: got %v, want %v", tc.rule, method, contentType, a.err, tc.reason)
				}
				if method == "/acme.Shop/Chat" && len(a.messages) > 1 { // it echoes every message
					t.Errorf("trailers %s: %s as %s: %d messages were read", tc.rule, method, contentType, len(a.messages))
				}
				if tc.reason != 0 {
					refusals++
				}
			}
		}
	}
	if got := counted(t, metrics, "grpc_server_handled_total", "grpc_code", codes.InvalidArgument.String()); got != refusals {
		t.Errorf("%d refusals were counted, want %d", got, refusals)
	}
	if got := counted(t, metrics, "rimlight_rpc_refusals_total", "reason", "MALFORMED"); got != refusals {
		t.Errorf("%d refusals were counted by their reasons, want %d", got, refusals)
	}
}

// postWeb sends a whole body of gRPC-Web, binary or text.
func postWeb(t *testing.T, w *world, method, contentType string, body []byte) answer {
	t.Helper()
	text := strings.HasPrefix(contentType, "application/grpc-web-text")
	if text {
		body = base64.StdEncoding.AppendEncode(nil, body)
	}
	res, raw := post(t, w, request{method: method}, contentType, body)
	if text {
		raw = unquantum(t, raw)
	}
	return webAnswer(t, res, raw)
}

// counted is what a counter says of a label's value.
func counted(t *testing.T, metrics prometheus.Gatherer, name, label, value string) (calls int) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					calls += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return calls
}

// A page of another origin may send some requests without asking first (Fetch: CORS-safelisted); none of them is a call
// that changes anything.
func TestNoCallWithoutAPreflight(t *testing.T) {
	var reached atomic.Bool
	w := start(t, func(c *rpc.ServerConfig) {
		c.Public, c.Rules = false, nil
		c.Unary = []grpc.UnaryServerInterceptor{func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			reached.Store(true)
			return handler(ctx, req)
		}}
	}, nil)
	body, err := protojson.Marshal(redeemRequest())
	if err != nil {
		t.Fatal(err)
	}
	for _, contentType := range []string{"", "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		res, answer := do(t, httpRequest(t, http.MethodPost, "http://"+w.edge+redeemOffer, string(body), "Origin", "https://hostile.example", "Content-Type", contentType))
		if res.StatusCode != http.StatusUnsupportedMediaType || reached.Load() {
			t.Errorf("as %q: got %d %s, reached %v", contentType, res.StatusCode, answer, reached.Load())
		}
	}
	do(t, httpRequest(t, http.MethodPost, "http://"+w.edge+redeemOffer, string(body), "Content-Type", "application/json"))
	if !reached.Load() {
		t.Error("the same body was no call in the type that needs a preflight either")
	}
}

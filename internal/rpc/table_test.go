package rpc_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func offerRequest(wish string) *offerv1.RequestOfferRequest {
	return &offerv1.RequestOfferRequest{
		Hints:           &offerv1.RoutingHints{DropId: drop, RequestId: requestID},
		ViewerSessionId: []byte(session), SessionCredential: wish,
	}
}

func redeemRequest() *offerv1.RedeemOfferRequest {
	return &offerv1.RedeemOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop}, OfferToken: "t", ViewerSessionId: []byte(session), PaymentReference: "tp_ok",
	}
}

// TestSameStatusEverywhere is the promise of one chain: whatever goes wrong ends the same on every way in.
func TestSameStatusEverywhere(t *testing.T) {
	w := start(t, nil, nil)
	tooLong := []byte("\x1a\x80\xa0\x06" + strings.Repeat("x", 102400))
	for _, tc := range []struct {
		name   string
		req    request
		code   codes.Code
		reason errorsv1.Reason
	}{
		{"a handler's own status passes", request{method: requestOffer, msg: offerRequest("typed")},
			codes.ResourceExhausted, errorsv1.Reason_REASON_NO_UNIT_HERE},
		{"a wrapped status loses its wrapping", request{method: requestOffer, msg: offerRequest("wrapped")},
			codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND},
		{"an untyped error is INTERNAL", request{method: requestOffer, msg: offerRequest("untyped")},
			codes.Internal, errorsv1.Reason_REASON_INTERNAL},
		{"a status without a reason is INTERNAL", request{method: requestOffer, msg: offerRequest("bare")},
			codes.Internal, errorsv1.Reason_REASON_INTERNAL},
		{"an unreachable service behind is UNAVAILABLE", request{method: requestOffer, msg: offerRequest("unreachable")},
			codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE},
		{"a panic is INTERNAL", request{method: requestOffer, msg: offerRequest("panic")},
			codes.Internal, errorsv1.Reason_REASON_INTERNAL},
		{"a context's error is a deadline", request{method: requestOffer, msg: offerRequest("context")},
			codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED},
		{"a method that is not implemented", request{method: service + "ClaimOffer", msg: &offerv1.ClaimOfferRequest{
			Hints:           &offerv1.RoutingHints{DropId: drop, RequestId: requestID},
			ViewerSessionId: []byte(session), PaymentReference: "p", MaxPrice: &offerv1.Money{CurrencyCode: "USD", MinorUnits: 1}}},
			codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD},
		{"a method that does not exist", request{method: service + "Nothing", body: []byte{}, json: "{}"},
			codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD},
		{"a service that does not exist", request{method: "/acme.Shop/Buy", body: []byte{}, json: "{}"},
			codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD},
		{"malformed bytes", request{method: requestOffer, body: []byte{0xff, 0xff}, json: `{"hints":7`},
			codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED},
		{"a string that is not UTF-8", request{method: listKeys, body: []byte("\x1a\x02\xff\xfe"), json: "{\"pageToken\":\"\xff\xfe\"}"},
			codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED},
		{"an oversized message", request{method: listKeys, body: tooLong, json: `{"pageToken":"` + strings.Repeat("x", 20000) + `"}`},
			codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE},
		{"a field that breaks its rule", request{method: listKeys, msg: &offerv1.ListKeysRequest{PageSize: -1}},
			codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
		{"a streaming method's field that breaks its rule", request{method: watchDrops, stream: true, msg: &offerv1.WatchDropsRequest{
			ChannelId: strings.Repeat("x", 64)}}, codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
		{"a streaming method's malformed bytes", request{method: watchDrops, stream: true, body: []byte{0xff}, json: "[]"},
			codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED},
		{"a streaming method's oversized message", request{method: watchDrops, stream: true, body: tooLong,
			json: `{"channelId":"` + strings.Repeat("x", 20000) + `"}`}, codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE},
		{"a stream that fails after messages", request{method: watchDrops, stream: true, msg: &offerv1.WatchDropsRequest{ChannelId: "fail"}},
			codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND},
		{"a stream that panics after messages", request{method: watchDrops, stream: true, msg: &offerv1.WatchDropsRequest{ChannelId: "panic"}},
			codes.Internal, errorsv1.Reason_REASON_INTERNAL},
		{"a ruled method without a token", request{method: redeemOffer, msg: redeemRequest()},
			codes.Unauthenticated, errorsv1.Reason_REASON_UNAUTHENTICATED},
		{"a ruled method with an unknown token", request{method: redeemOffer, msg: redeemRequest(),
			header: map[string]string{"authorization": "Bearer nobody"}}, codes.Unauthenticated, errorsv1.Reason_REASON_UNAUTHENTICATED},
		{"a ruled method with another role's token", request{method: redeemOffer, msg: redeemRequest(),
			header: map[string]string{"authorization": "Bearer " + w.tokens["sre"]}}, codes.PermissionDenied, errorsv1.Reason_REASON_ROLE_NOT_ALLOWED},
		{"who may not call learns nothing of its bytes", request{method: redeemOffer, body: []byte{0xff}, json: "["},
			codes.Unauthenticated, errorsv1.Reason_REASON_UNAUTHENTICATED},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var first string
			for _, p := range protocols {
				a := p.call(t, w, tc.req)
				if got := status.Code(a.err); got != tc.code || rpcerr.Reason(a.err) != tc.reason {
					t.Errorf("%s: got %v %v (%v), want %v %v", p.name, got, rpcerr.Reason(a.err), a.err, tc.code, tc.reason)
				}
				st := status.Convert(a.err)
				if first == "" {
					first = st.Message()
				}
				if st.Message() != first {
					t.Errorf("%s: got message %q, others say %q", p.name, st.Message(), first)
				}
				if strings.Contains(st.Message(), "canary") {
					t.Errorf("%s: an inner text got out: %q", p.name, st.Message())
				}
			}
		})
	}
}

func TestStatusDetailsSurviveEveryProtocol(t *testing.T) {
	w := start(t, nil, nil)
	for _, p := range protocols {
		st := status.Convert(p.call(t, w, request{method: requestOffer, msg: offerRequest("typed")}).err)
		var retry *errdetails.RetryInfo
		for _, d := range st.Details() {
			if r, ok := d.(*errdetails.RetryInfo); ok {
				retry = r
			}
		}
		if retry.GetRetryDelay().AsDuration() != time.Second || rpcerr.Info(st.Err()).GetMetadata()["drop_id"] != "typed" {
			t.Errorf("%s: got details %v", p.name, st.Details())
		}
		if st.Message() != "no unit: 50 % über" {
			t.Errorf("%s: got message %q", p.name, st.Message())
		}
		invalid := status.Convert(p.call(t, w, request{method: listKeys, msg: &offerv1.ListKeysRequest{PageSize: -1}}).err)
		var fields []string
		for _, d := range invalid.Details() {
			if b, ok := d.(*errdetails.BadRequest); ok {
				for _, v := range b.GetFieldViolations() {
					fields = append(fields, v.GetField())
				}
			}
		}
		if len(fields) != 1 || fields[0] != "page_size" {
			t.Errorf("%s: got violations of %q, want page_size", p.name, fields)
		}
	}
}

func TestGoodCalls(t *testing.T) {
	w := start(t, nil, nil)
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			a := p.call(t, w, request{method: requestOffer, msg: offerRequest("d"), header: map[string]string{
				"echo-bin": "\x00\x01,\xff", "authorization": "bearer " + w.tokens["producer"]}})
			if a.err != nil {
				t.Fatal(a.err)
			}
			if len(a.messages) != 1 || !bytes.Contains(a.messages[0], []byte(requestID)) {
				t.Errorf("got messages %q", a.messages)
			}
			for name, want := range map[string]string{
				"Rimlight-Region": "here", "Echo-Bin": "AAEs/w", "Deadline": "2s", "Role": "producer"} {
				if got := strings.TrimRight(a.header.Get(name), "="); got != want {
					t.Errorf("header %s: got %q, want %q", name, got, want)
				}
			}
			if got := a.trailer.Get("Rimlight-Decision"); got != "d1" {
				t.Errorf("trailer rimlight-decision: got %q, want d1", got)
			}
			if got := strings.TrimRight(a.trailer.Get("Load-Bin"), "="); got != "AP8" {
				t.Errorf("trailer load-bin: got %q, want AP8", got)
			}

			a = p.call(t, w, request{method: watchDrops, stream: true, msg: &offerv1.WatchDropsRequest{}})
			if a.err != nil || len(a.messages) != 3 || a.trailer.Get("Rimlight-Decision") != "d1" {
				t.Errorf("stream: got %d messages, %v, trailer %v", len(a.messages), a.err, a.trailer)
			}
			a = p.call(t, w, request{method: requestOffer, msg: offerRequest("big")})
			if a.err != nil || len(a.messages) != 1 || len(a.messages[0]) < 1000 && a.header.Get("Content-Encoding") == "" {
				t.Errorf("a long answer: %v", a.err)
			}
		})
	}
}

func TestDeadlineRules(t *testing.T) {
	w := start(t, nil, nil)
	for _, p := range protocols[2:] { // grpc-go's clients give up by themselves
		a := p.call(t, w, request{method: requestOffer, msg: offerRequest("d"), timeout: 4 * time.Millisecond})
		if rpcerr.Reason(a.err) != errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR || status.Code(a.err) != codes.DeadlineExceeded {
			t.Errorf("%s: 4 ms: got %v", p.name, a.err)
		}
		a = p.call(t, w, request{method: requestOffer, msg: offerRequest("d"), timeout: 30 * time.Second})
		if a.err != nil || a.header.Get("Deadline") != "30s" {
			t.Errorf("%s: a caller's own deadline: got %q, %v", p.name, a.header.Get("Deadline"), a.err)
		}
	}
}

func TestForwardedCallsKeepTheirDeadlineRules(t *testing.T) {
	w := start(t, func(c *rpc.ServerConfig) { c.Unknown = forward }, func(grpc.ServiceRegistrar) {})
	for _, p := range protocols[2:4] {
		if a := p.call(t, w, request{method: requestOffer, body: []byte{}, timeout: 4 * time.Millisecond}); rpcerr.Reason(a.err) != errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR {
			t.Errorf("%s: the platform's method with 4 ms left: got %v", p.name, a.err)
		}
		a := p.call(t, w, request{method: "/acme.Shop/Buy", body: []byte{}, timeout: 4 * time.Millisecond})
		if rpcerr.Reason(a.err) == errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR {
			t.Errorf("%s: another's method with 4 ms left must not be judged: got %v", p.name, a.err)
		}
	}
}

func TestRulesHoldForStreamsAndForwardedCalls(t *testing.T) {
	rules := func(c *rpc.ServerConfig) {
		c.Rules, c.Unknown = auth.Rules{watchDrops: {auth.SRE}, "/acme.Shop/Buy": {auth.SRE}}, forward
	}
	w := start(t, rules, nil)
	for _, p := range protocols[:4] { // JSON cannot say what acme means
		for _, r := range []request{
			{method: watchDrops, msg: &offerv1.WatchDropsRequest{}, stream: true},
			{method: "/acme.Shop/Buy", body: []byte{}, stream: true},
		} {
			if a := p.call(t, w, r); rpcerr.Reason(a.err) != errorsv1.Reason_REASON_UNAUTHENTICATED {
				t.Errorf("%s: %s without a token: got %v", p.name, r.method, a.err)
			}
			r.header = map[string]string{"authorization": "Bearer " + w.tokens[auth.SRE]}
			if a := p.call(t, w, r); a.err != nil {
				t.Errorf("%s: %s with the role's token: got %v", p.name, r.method, a.err)
			}
		}
	}
}

func TestForwardedServices(t *testing.T) {
	w := start(t, func(c *rpc.ServerConfig) { c.Unknown = forward }, func(grpc.ServiceRegistrar) {})
	echo, err := proto.Marshal(offerRequest("d"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			json := p.name == "Connect JSON"
			for _, stream := range []bool{false, true} {
				a := p.call(t, w, request{method: "/acme.Shop/Buy", body: []byte{0xff, 0x00, 0xfe}, json: "{}", stream: stream})
				if json {
					if rpcerr.Reason(a.err) != errorsv1.Reason_REASON_UNKNOWN_METHOD {
						t.Errorf("JSON for a method that nobody here knows: got %v", a.err)
					}
					continue
				}
				if a.err != nil || len(a.messages) != 1 || string(a.messages[0]) != "\xff\x00\xfe" {
					t.Errorf("streaming %v: bytes were touched: %x, %v", stream, a.messages, a.err)
				}
				if p.name != "native gRPC" && p.name != "gRPC at the edge" || stream {
					if got := a.trailer.Get("Rimlight-Decision"); got != "d2" {
						t.Errorf("streaming %v: trailer: got %q, want d2 in %v", stream, got, a.trailer)
					}
				}
				a = p.call(t, w, request{method: "/acme.Shop/Fail", stream: stream})
				if st := status.Convert(a.err); st.Code() != codes.DataLoss || st.Message() != "their own words" || len(st.Details()) != 0 {
					t.Errorf("streaming %v: another's status was touched: %v", stream, st)
				}
			}
			// A method that this binary knows, served elsewhere. The echo of a request is no response of the type, but its
			// first field is a message too, so JSON can show it.
			a := p.call(t, w, request{method: listKeys, body: []byte{}, json: "{}"})
			if a.err != nil || len(a.messages) != 1 {
				t.Errorf("a known method: %q, %v", a.messages, a.err)
			}
			if !json {
				if a := p.call(t, w, request{method: requestOffer, body: echo}); a.err != nil || !bytes.Equal(a.messages[0], echo) {
					t.Errorf("a known method's bytes were touched: %v", a.err)
				}
			}
			if a := p.call(t, w, request{method: listKeys, body: []byte{}, json: `{"x":`}); json &&
				rpcerr.Reason(a.err) != errorsv1.Reason_REASON_MALFORMED {
				t.Errorf("broken JSON: got %v", a.err)
			}
		})
	}
}

// A forwarded service is known by name; its methods are known to the log only, since their callers make them up.
func TestForwardedServicesHaveNames(t *testing.T) {
	metrics := prometheus.NewRegistry()
	w := start(t, func(c *rpc.ServerConfig) {
		c.Unknown, c.Forwarded, c.Metrics, c.Reflection = forward, []string{"acme.Shop"}, metrics, true
	}, func(grpc.ServiceRegistrar) {})
	native := protocols[0]
	for _, method := range []string{"/acme.Shop/Fail", "/acme.Bank/Fail"} {
		native.call(t, w, request{method: method, stream: true})
	}
	if text := w.log.String(); !strings.Contains(text, `"method":"/acme.Shop/Fail"`) || strings.Contains(text, "acme.Bank") {
		t.Errorf("the log says %s", text)
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(families)
	if !strings.Contains(text, "acme.Shop") || strings.Contains(text, "acme.Bank") || strings.Contains(text, `"Fail"`) {
		t.Errorf("the metrics say %s", text)
	}
	if !slices.Contains(listed(t, w.native), "acme.Shop") {
		t.Error("reflection does not list the service")
	}
}

// listed are the services that reflection tells of.
func listed(t *testing.T, target string) (names []string) {
	t.Helper()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(dial(t, target, rpc.DialConfig{})).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

func TestLogAndMetrics(t *testing.T) {
	w := start(t, nil, nil)
	for _, p := range protocols {
		p.call(t, w, request{method: requestOffer, msg: offerRequest("panic"), header: map[string]string{"authorization": "Bearer " + w.tokens["sre"]}})
	}
	text := w.log.String()
	for _, want := range []string{`"reason":"INTERNAL"`, `"code":"Internal"`, `"method":"` + requestOffer, `"duration_ms":`, "handler panicked", "fixture_test.go"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	for _, secret := range []string{w.tokens["sre"], session} {
		if strings.Contains(text, secret) {
			t.Errorf("the log contains %s", secret)
		}
	}
}

// A connection that ended, by its age for one, is nobody's fault: the log's errors are for people who are woken.
func TestACallerThatIsGoneIsNoError(t *testing.T) {
	w := start(t, nil, nil)
	for _, target := range []string{w.native, w.edge} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := offerv1.NewOfferServiceClient(dial(t, target, rpc.DialConfig{})).WatchDrops(ctx, &offerv1.WatchDropsRequest{ChannelId: "gone"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if native, edge := w.stop(); native != nil || edge != nil { // waits for the handlers
		t.Fatal(native, edge)
	}
	if text := w.log.String(); strings.Contains(text, "without a reason") {
		t.Errorf("the log says %s", text)
	}
}

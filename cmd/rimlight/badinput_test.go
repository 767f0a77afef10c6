package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sealed"
)

// Whatever a client sends through a router ends in a typed refusal: a code, one reason, a sentence, and the fields.
func TestBadInputIsTyped(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a platform for some seconds; run without -short")
	}
	p := startPlatform(t, t.TempDir(), []string{"europe-west3"}, []string{"europe-west1"}, false)
	open := p.createDrop(t, 5, 30*time.Minute).GetDropId()
	later := p.plan(t, "later", 5, time.Hour).GetDropId()
	scarce := p.plan(t, "scarce", 1, time.Second).GetDropId()
	conn, err := rpc.Dial(p.Routers[0], rpc.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	offers := offerv1.NewOfferServiceClient(conn)
	session := buyer.NewSession()
	hints := func(drop string) *offerv1.RoutingHints {
		return &offerv1.RoutingHints{DropId: drop, RequestId: t.Name()}
	}
	var granted *offerv1.OfferGranted
	request := func(drop string, session []byte) (*offerv1.RequestOfferResponse, error) {
		return offers.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{Hints: hints(drop), ViewerSessionId: session})
	}
	p.until(t, "the drop is open here", func() bool {
		resp, err := request(open, session)
		granted = resp.GetGranted()
		return err == nil && granted != nil
	})
	var receipt string // of the good redemption
	redeem := func(change func(*offerv1.RedeemOfferRequest)) error {
		req := &offerv1.RedeemOfferRequest{
			Hints: hints(open), OfferToken: granted.GetOfferToken(), ViewerSessionId: session, PaymentReference: "tp_ok",
		}
		change(req)
		resp, err := offers.RedeemOffer(t.Context(), req)
		receipt = cmp.Or(resp.GetReceipt(), receipt)
		return err
	}
	raw := func(method string, payload []byte) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return conn.Invoke(ctx, method, &frame.Frame{Payload: payload}, &frame.Frame{}, grpc.ForceCodecV2(frame.Codec{}))
	}
	second := func(_ any, err error) error { return err }
	get := func(receipt, token string) error {
		r := &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: token}}
		if receipt != "" {
			r.Credential = &offerv1.GetPurchaseRequest_Receipt{Receipt: receipt}
		}
		return second(offers.GetPurchase(t.Context(), r))
	}
	watch := func(receipt string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream, err := offers.WatchPurchase(ctx, &offerv1.WatchPurchaseRequest{Credential: &offerv1.WatchPurchaseRequest_Receipt{Receipt: receipt}})
		if err != nil {
			return err
		}
		return second(stream.Recv())
	}
	choose := func(receipt string) error {
		return second(offers.ChooseMakeGood(t.Context(), &offerv1.ChooseMakeGoodRequest{
			Choice: offerv1.MakeGood_MAKE_GOOD_MONEY, Credential: &offerv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt},
		}))
	}

	if err := redeem(func(*offerv1.RedeemOfferRequest) {}); err != nil {
		t.Fatalf("the good redemption: %v", err)
	}
	p.buy(t, exitDone, "--drop", scarce)
	p.until(t, "the scarce drop is sold out on fulfillment's word", func() bool {
		return rpcerr.Reason(second(request(scarce, buyer.NewSession()))) == errorsv1.Reason_REASON_SOLD_OUT
	})
	long, err := proto.Marshal(&offerv1.RedeemOfferRequest{DeliveryDetails: make([]byte, 64<<10)})
	if err != nil {
		t.Fatal(err)
	}

	refusals := []struct {
		rule   string
		err    error
		code   codes.Code
		reason errorsv1.Reason
		field  string
	}{
		{"bytes that are no message", raw(offerv1.OfferService_RequestOffer_FullMethodName, []byte{0xff, 0xff}), codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED, ""},
		{"a message over the limit", raw(offerv1.OfferService_RedeemOffer_FullMethodName, long), codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE, ""},
		{"a method that is not there", raw("/rimlight.offer.v1.OfferService/Steal", nil), codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD, ""},
		{"a service that is not there", raw("/x.Y/Z", nil), codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD, ""},
		{"an empty request", raw(offerv1.OfferService_RequestOffer_FullMethodName, nil), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "hints"},
		{"a session of the wrong length", second(request(open, []byte("short"))), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "viewer_session_id"},
		{"a drop id that is none", second(request("x", session)), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "hints.drop_id"},
		{"a drop that nobody planned", second(request("01900000-0000-7000-8000-000000000000", session)), codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND, ""},
		{"a drop that is not open yet", second(request(later, session)), codes.FailedPrecondition, errorsv1.Reason_REASON_DROP_NOT_OPEN, ""},
		{"a drop that is sold out", second(request(scarce, session)), codes.FailedPrecondition, errorsv1.Reason_REASON_SOLD_OUT, ""},
		{"a forged token", redeem(func(r *offerv1.RedeemOfferRequest) { r.OfferToken = forge(r.GetOfferToken()) }), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"a text that is no token", redeem(func(r *offerv1.RedeemOfferRequest) { r.OfferToken = "hello" }), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"somebody else's token", redeem(func(r *offerv1.RedeemOfferRequest) { r.ViewerSessionId = buyer.NewSession() }), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_MISMATCH, ""},
		{"another drop's token", redeem(func(r *offerv1.RedeemOfferRequest) { r.Hints = hints(scarce) }), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_MISMATCH, ""},
		{"the token again with another body", redeem(func(r *offerv1.RedeemOfferRequest) { r.PaymentReference = "tp_decline" }), codes.AlreadyExists, errorsv1.Reason_REASON_REQUEST_REPLAYED, ""},
		{"a forged receipt", get(forge(receipt), ""), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"a receipt cut short", get(receipt[:len(receipt)-8], ""), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"a receipt as an offer token", get("", receipt), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"an offer token as a receipt", get(granted.GetOfferToken(), ""), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"a forged receipt to watch", watch(forge(receipt)), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"a forged receipt to choose", choose(forge(receipt)), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, ""},
		{"no credential", second(offers.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{})), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, ""},
		{"details over 3 KiB", redeem(func(r *offerv1.RedeemOfferRequest) { r.DeliveryDetails = make([]byte, sealed.MaxEnvelope+1) }), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "delivery_details"},
		{"details that are not sealed", redeem(func(r *offerv1.RedeemOfferRequest) {
			r.DeliveryDetails = []byte("Main Street 1")
			r.Consent = &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}}
		}), codes.InvalidArgument, errorsv1.Reason_REASON_DETAILS_NOT_SEALED, ""},
		{"details without consent", redeem(func(r *offerv1.RedeemOfferRequest) { r.DeliveryDetails = []byte("sealed") }), codes.FailedPrecondition, errorsv1.Reason_REASON_CONSENT_REQUIRED, ""},
		{"a card number", redeem(func(r *offerv1.RedeemOfferRequest) { r.PaymentReference = "4111111111111111" }), codes.InvalidArgument, errorsv1.Reason_REASON_CARD_NUMBER_REFUSED, ""},
		{"a zone without a region", second(offers.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{
			Hints: &offerv1.RoutingHints{DropId: open, RequestId: "r", ResidencyZones: []string{"mars"}}, ViewerSessionId: session,
		})), codes.Unavailable, errorsv1.Reason_REASON_NO_REGION, ""},
		{"a purchase that nobody made", second(offers.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{
			Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: p.unusedToken(t, offers, open)},
		})), codes.NotFound, errorsv1.Reason_REASON_PURCHASE_NOT_FOUND, ""},
	}
	counted := p.metrics(t)
	for _, c := range refusals {
		if !strings.Contains(counted, `reason="`+reasonName(c.reason)+`"`) {
			t.Errorf("%s: nothing is counted as %v", c.rule, c.reason)
		}
		st := status.Convert(c.err)
		if st.Code() != c.code || rpcerr.Reason(c.err) != c.reason || st.Message() == "" {
			t.Errorf("%s: got %v %v %q, want %v %v", c.rule, st.Code(), rpcerr.Reason(c.err), st.Message(), c.code, c.reason)
		}
		if c.field != "" && !names(st, c.field) {
			t.Errorf("%s: the violations do not name %s: %v", c.rule, c.field, st.Details())
		}
	}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitUnreachable, "no drop of channel", []string{"--channel", "nobody", "--wait", "200ms"}},
		{exitUnreachable, "did not open within", []string{"--drop", "01900000-0000-7000-8000-000000000000", "--wait", "200ms"}},
	} {
		if code, _, stderr := p.verb(t, append([]string{"buy"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("buy %v: exit %d, %q", c.args, code, stderr)
		}
	}
	if code, _, stderr := p.verb(t, "drops", "close", later); code != exitDone {
		t.Fatalf("closing a drop: exit %d, %s", code, stderr)
	}
	p.until(t, "buy says that the drop is over", func() bool {
		code, _, stderr := p.verb(t, "buy", "--drop", later, "--wait", "5s")
		return code == exitRefused && strings.Contains(stderr, "DROP_NOT_OPEN")
	})
	// The first redemption stands, the same body gets the same answer.
	if err := redeem(func(*offerv1.RedeemOfferRequest) {}); err != nil {
		t.Errorf("the good redemption again: %v", err)
	}
}

// metrics are what the first router tells Prometheus of refused calls.
func (p *platform) metrics(t *testing.T) (refusals string) {
	t.Helper()
	res, err := http.Get("http://" + p.Routers[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "rimlight_rpc_refusals_total{") {
			refusals += line
		}
	}
	return refusals
}

func names(st *status.Status, field string) bool {
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				if v.GetField() == field && v.GetDescription() != "" {
					return true
				}
			}
		}
	}
	return false
}

// forge changes one character of the signature.
func forge(token string) string {
	b := bytes.Clone([]byte(token))
	if b[40]++; b[40] > 'Z' || b[40] < 'B' {
		b[40] = 'A'
	}
	return string(b)
}

func (p *platform) plan(t *testing.T, id string, units uint32, in time.Duration) *offerv1.Drop {
	t.Helper()
	resp, err := p.dial(t, p.Routers[0], auth.Producer).catalog.CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{
		RequestId: id, ChannelId: "test", Title: id, Units: units, Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 100},
		OpenTime: timestamppb.New(time.Now().Add(in)), Duration: durationpb.New(30 * time.Minute),
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetDrop().GetDrop()
}

func (p *platform) unusedToken(t *testing.T, offers offerv1.OfferServiceClient, drop string) string {
	t.Helper()
	resp, err := offers.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop, RequestId: "unused"}, ViewerSessionId: buyer.NewSession(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetGranted().GetOfferToken()
}

// Package buyer is a viewer's side of a purchase: wait for a drop, ask for the offer, redeem it, follow it to its final
// outcome, and verify every signature on the way.
//
// `rimlight buy`, the synthetic viewers and the benchmarks share it, so that what is measured is what clients do.
// Unary calls are repeated only as the server asks (RetryInfo) or when nothing answered, always with the same request id
// or token; streams are resumed. It needs nothing but generated clients.
package buyer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/token"
)

// Metadata keys with which a router says how it routed a call.
const (
	DecisionHeader = "rimlight-decision"
	RegionHeader   = "rimlight-region"
)

// DefaultTries bounds how often one unary call is made. With the server's RetryInfo of 300 ms that is about two seconds,
// longer than fulfillment needs to move a unit between regions.
const DefaultTries = 8

// quietRetry is the mean wait before a repeat when nobody said how long: a few round trips around the world.
const quietRetry = 200 * time.Millisecond

// keysAgain is the mean wait before keys are asked for again: half of a node's time between heartbeats.
const keysAgain = 500 * time.Millisecond

// tryTime bounds one try of a unary call: longer than any answer that is still of use to a viewer, and than the router takes
// to ask another region. Without it the deadline of a whole visit would travel with each call.
const tryTime = 2 * time.Second

var errStreamEnded = errors.New("the stream ended before the purchase was final")

// StepVerify names the step in which the receipt was verified: with the call before it, that is what a viewer waits for
// after the tap.
const StepVerify = "verify receipt"

// Step is one thing that happened on the way, with the time that the viewer waited for it.
type Step struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"-"`
	Millis   float64       `json:"ms"`
	Decision string        `json:"decision,omitempty"`
	Region   string        `json:"region,omitempty"`
	Tries    int           `json:"tries,omitempty"`
}

// Request is what the viewer wants.
type Request struct {
	Drop             *offerv1.Drop
	PaymentReference string
	// Voucher is the text of a voucher to pay with; empty: none.
	Voucher string
	// ViewerSessionID, 16 bytes; nil: a fresh one.
	ViewerSessionID []byte
	// DeliveryDetails say where a physical good goes, up to sealed.MaxDetails bytes. They are sealed to the offer's keys before
	// they leave; Consent must grant delivery then.
	DeliveryDetails []byte
	// Consent may be nil: no to everything.
	Consent *offerv1.Consent
	// Claim asks and redeems in one round trip.
	Claim bool
	// Think is how long the viewer looks at the offer before the tap.
	Think time.Duration
	// Abandon walks away from the offer: Buy ends with ErrAbandoned. It has no meaning for a claim.
	Abandon bool
	// OnReceipt, if set, hears of the receipt as soon as it is there, before anything else is done with it: whoever keeps it
	// then has it whatever happens to this process. Result has it, the purchase and the region.
	OnReceipt func(*Result)
	// OnState, if set, hears every state of the purchase.
	OnState func(*offerv1.Purchase)
}

// Result is what came of it. Fields are set as far as it got.
type Result struct {
	Offer      *offerv1.Offer
	OfferToken string
	Receipt    string
	PurchaseID string
	Region     string
	Purchase   *offerv1.Purchase
	Outcome    *offerv1.Outcome
	Refusal    *offerv1.OfferRefused
	Steps      []Step
}

// ErrRefused means that the platform decided against this viewer; Result.Refusal says why.
var ErrRefused = errors.New("buyer: the offer was refused")

// ErrAbandoned means that the viewer walked away from the offer, as Request.Abandon asked.
var ErrAbandoned = errors.New("buyer: the offer was abandoned")

// ErrUnverified means that a signature or a signed text does not say what the answer said.
var ErrUnverified = errors.New("buyer: a signed text could not be verified")

// Buyer buys over one connection to the platform.
type Buyer struct {
	Offers offerv1.OfferServiceClient
	// OnCall, if set, hears every attempt of a unary call and every broken stream (err nil: it succeeded).
	OnCall func(method string, took time.Duration, err error)
	// Tries is how often one unary call is made at most, from 1. 0: DefaultTries.
	Tries int

	keys token.Keys
}

// Prepare fetches the public keys, as a page does when it loads: a purchase without it does so after its first receipt.
func (b *Buyer) Prepare(ctx context.Context) error { return b.fetchKeys(ctx) }

// NewSession makes a viewer session id.
func NewSession() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails since Go 1.24
	return b
}

// Buy walks one purchase to its final outcome. On an error the result tells how far it came; a receipt in it is a
// promise that stands whatever happened afterwards.
func (b *Buyer) Buy(ctx context.Context, req Request) (*Result, error) {
	res := &Result{}
	if req.ViewerSessionID == nil {
		req.ViewerSessionID = NewSession()
	}
	hints := &offerv1.RoutingHints{DropId: req.Drop.GetDropId(), RequestId: ids.NewV7(time.Now(), rand.Reader)}
	var err error
	if req.Claim {
		err = b.claim(ctx, req, hints, res)
	} else {
		err = b.offerAndRedeem(ctx, req, hints, res)
	}
	if err != nil {
		return res, err
	}
	if req.OnReceipt != nil {
		req.OnReceipt(res)
	}
	if err := b.step(ctx, res, StepVerify, func(context.Context, ...grpc.CallOption) error { return b.verifyReceipt(ctx, req, res) }); err != nil {
		return res, err
	}
	hints.PreferredRegion = res.Region
	return res, b.follow(ctx, req, hints, res)
}

func (b *Buyer) offerAndRedeem(ctx context.Context, req Request, hints *offerv1.RoutingHints, res *Result) error {
	err := b.step(ctx, res, "RequestOffer", func(ctx context.Context, opts ...grpc.CallOption) error {
		resp, err := b.Offers.RequestOffer(ctx, &offerv1.RequestOfferRequest{
			Hints: hints, ViewerSessionId: req.ViewerSessionID, Consent: req.Consent,
		}, opts...)
		if err != nil {
			return err
		}
		switch d := resp.GetDecision().(type) {
		case *offerv1.RequestOfferResponse_Granted:
			res.Offer, res.OfferToken = d.Granted.GetOffer(), d.Granted.GetOfferToken()
			return nil
		case *offerv1.RequestOfferResponse_Refused:
			return res.refused(d.Refused)
		default:
			return errors.New("waiting in line is not supported by this client yet")
		}
	})
	if err != nil {
		return err
	}
	if err := sleep(ctx, req.Think); err != nil {
		return err
	}
	if req.Abandon {
		return ErrAbandoned
	}
	details, err := req.seal(hints, res.Offer.GetDeliveryKeys())
	if err != nil {
		return err
	}
	return b.step(ctx, res, "RedeemOffer", func(ctx context.Context, opts ...grpc.CallOption) error {
		resp, err := b.Offers.RedeemOffer(ctx, &offerv1.RedeemOfferRequest{
			Hints: hints, OfferToken: res.OfferToken, ViewerSessionId: req.ViewerSessionID,
			PaymentReference: req.PaymentReference, Consent: req.Consent, Voucher: req.Voucher, DeliveryDetails: details,
		}, opts...)
		if err != nil {
			return err
		}
		res.Receipt, res.PurchaseID, res.Region = resp.GetReceipt(), resp.GetPurchaseId(), resp.GetRegion()
		return nil
	})
}

func (b *Buyer) claim(ctx context.Context, req Request, hints *offerv1.RoutingHints, res *Result) error {
	details, err := req.seal(hints, req.Drop.GetDeliveryKeys())
	if err != nil {
		return err
	}
	return b.step(ctx, res, "ClaimOffer", func(ctx context.Context, opts ...grpc.CallOption) error {
		resp, err := b.Offers.ClaimOffer(ctx, &offerv1.ClaimOfferRequest{
			Hints: hints, ViewerSessionId: req.ViewerSessionID, Consent: req.Consent,
			PaymentReference: req.PaymentReference, MaxPrice: req.Drop.GetPrice(), Voucher: req.Voucher, DeliveryDetails: details,
		}, opts...)
		if err != nil {
			return err
		}
		switch d := resp.GetDecision().(type) {
		case *offerv1.ClaimOfferResponse_Accepted:
			res.Offer, res.Receipt = d.Accepted.GetOffer(), d.Accepted.GetReceipt()
			res.PurchaseID, res.Region = d.Accepted.GetPurchaseId(), d.Accepted.GetRegion()
			return nil
		case *offerv1.ClaimOfferResponse_Refused:
			return res.refused(d.Refused)
		default:
			return errors.New("waiting in line is not supported by this client yet")
		}
	})
}

// seal makes the envelope of this purchase, once: however often it is redeemed, the bytes are the same.
func (r Request) seal(hints *offerv1.RoutingHints, keys [][]byte) ([]byte, error) {
	if len(r.DeliveryDetails) == 0 || !r.Drop.GetPhysical() { // nobody needs to know where to
		return nil, nil
	}
	drop, err := ids.Bytes(hints.GetDropId())
	if err != nil {
		return nil, fmt.Errorf("the drop: %w", err)
	}
	purchase := token.PurchaseID(token.DeriveTokenID(r.ViewerSessionID, drop, hints.GetRequestId()))
	return sealed.Seal(r.DeliveryDetails, keys, sealed.Purchase{DropID: hints.GetDropId(), ID: purchase})
}

func (r *Result) refused(refusal *offerv1.OfferRefused) error {
	r.Refusal = refusal
	return ErrRefused
}

// step runs one call, repeats it where that is right, and writes down what it took.
func (b *Buyer) step(ctx context.Context, res *Result, name string, call func(context.Context, ...grpc.CallOption) error) error {
	s := Step{Name: name}
	start := time.Now()
	var err error
	for s.Tries = 1; ; s.Tries++ {
		var header metadata.MD
		began := time.Now()
		try, cancel := context.WithTimeout(ctx, tryTime)
		err = call(try, grpc.Header(&header))
		late := try.Err() != nil && ctx.Err() == nil // nobody answered in time
		cancel()
		if b.OnCall != nil {
			b.OnCall(name, time.Since(began), err)
		}
		s.Decision, s.Region = first(header, DecisionHeader), first(header, RegionHeader)
		wait, again := retryAfter(err)
		again = again || err != nil && late
		if !again || s.Tries >= cmp.Or(b.Tries, DefaultTries) || sleep(ctx, wait) != nil {
			break
		}
	}
	s.Duration = time.Since(start)
	s.Millis = float64(s.Duration.Microseconds()) / 1000
	res.Steps = append(res.Steps, s)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// retryAfter says whether the same call may be repeated and when. The wait is jittered so that viewers refused together
// do not return together.
func retryAfter(err error) (time.Duration, bool) {
	wait, again := rpcerr.Retry(err)
	if errors.Is(err, errStreamEnded) {
		again = true
	}
	if wait == 0 {
		wait = quietRetry
	}
	return jitter(wait), again
}

func jitter(d time.Duration) time.Duration {
	return d/2 + mathrand.N(d+1)
}

func (b *Buyer) verifyReceipt(ctx context.Context, req Request, res *Result) error {
	var receipt *offerv1.Receipt
	var offer *offerv1.OfferToken
	err := b.withKeys(ctx, func() (err error) { receipt, offer, err = b.keys.OpenReceipt(res.Receipt); return err })
	if err != nil {
		return fmt.Errorf("the receipt: %w", err)
	}
	if receipt.GetPurchaseId() != res.PurchaseID || string(offer.GetViewerSessionId()) != string(req.ViewerSessionID) ||
		ids.Text(offer.GetDropId()) != req.Drop.GetDropId() || !proto.Equal(offer.GetPrice(), res.Offer.GetPrice()) {
		return fmt.Errorf("%w: the receipt is for another purchase", ErrUnverified)
	}
	return nil
}

// withKeys opens a signed text, with fresh keys where its own is unknown. Whoever is asked for keys learns a new node's from
// its next heartbeat, so they are asked for again.
func (b *Buyer) withKeys(ctx context.Context, open func() error) error {
	err := open()
	for try := 1; errors.Is(err, token.ErrUnknownKey) && try <= cmp.Or(b.Tries, DefaultTries); try++ {
		if try > 1 && sleep(ctx, jitter(keysAgain)) != nil {
			break
		}
		if err := b.fetchKeys(ctx); err != nil {
			return err
		}
		err = open()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	return nil
}

func (b *Buyer) fetchKeys(ctx context.Context) error {
	for page := ""; ; {
		try, cancel := context.WithTimeout(ctx, tryTime)
		resp, err := b.Offers.ListKeys(try, &offerv1.ListKeysRequest{PageToken: page})
		cancel()
		if err != nil {
			return fmt.Errorf("fetching the public keys: %w", err)
		}
		b.keys.Add(resp.GetKeys()...)
		if page = resp.GetNextPageToken(); page == "" {
			return nil
		}
	}
}

// follow watches the purchase to its final state, over as many streams as it takes.
func (b *Buyer) follow(ctx context.Context, req Request, hints *offerv1.RoutingHints, res *Result) error {
	start := time.Now()
	for !Final(res.Purchase.GetState()) {
		if err := b.followOnce(ctx, req, hints, res, start); err != nil {
			wait, again := retryAfter(err)
			if !again {
				return fmt.Errorf("WatchPurchase: %w", err)
			}
			if err := sleep(ctx, wait); err != nil {
				return fmt.Errorf("WatchPurchase: %w", err)
			}
		}
	}
	return b.verifyOutcome(ctx, res)
}

func (b *Buyer) followOnce(ctx context.Context, req Request, hints *offerv1.RoutingHints, res *Result, start time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	stream, err := b.Offers.WatchPurchase(ctx, &offerv1.WatchPurchaseRequest{
		Hints: hints, Credential: &offerv1.WatchPurchaseRequest_Receipt{Receipt: res.Receipt},
	})
	for err == nil && !Final(res.Purchase.GetState()) {
		var msg *offerv1.WatchPurchaseResponse
		if msg, err = stream.Recv(); err != nil {
			break
		}
		if state := msg.GetPurchase().GetState(); state != res.Purchase.GetState() {
			took := time.Since(start)
			res.Steps = append(res.Steps, Step{Name: state.String(), Duration: took, Millis: float64(took.Microseconds()) / 1000})
			if req.OnState != nil {
				req.OnState(msg.GetPurchase())
			}
		}
		res.Purchase = msg.GetPurchase()
	}
	if errors.Is(err, io.EOF) { // a server that goes away in order ends its streams in order
		err = errStreamEnded
	}
	if b.OnCall != nil {
		b.OnCall("WatchPurchase", time.Since(began), err)
	}
	return err
}

func (b *Buyer) verifyOutcome(ctx context.Context, res *Result) error {
	var outcome *offerv1.Outcome
	err := b.withKeys(ctx, func() (err error) { outcome, err = b.keys.OpenOutcome(res.Purchase.GetOutcome()); return err })
	if err != nil {
		return fmt.Errorf("the outcome: %w", err)
	}
	if outcome.GetPurchaseId() != res.PurchaseID || outcome.GetState() != res.Purchase.GetState() {
		return fmt.Errorf("%w: the outcome is of another purchase or state", ErrUnverified)
	}
	res.Outcome = outcome
	return nil
}

// Final tells whether a purchase changes no more.
func Final(s offerv1.PurchaseState) bool {
	switch s {
	case offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, offerv1.PurchaseState_PURCHASE_STATE_SHIPPED,
		offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, offerv1.PurchaseState_PURCHASE_STATE_REFUSED,
		offerv1.PurchaseState_PURCHASE_STATE_REFUNDED:
		return true
	}
	return false
}

func first(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

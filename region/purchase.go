package region

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/token"
)

// claimOn is what shows that a purchase is the caller's: a receipt, or else an offer token, genuine.
type claimOn struct {
	receipt, offerToken string
	offer               *offerv1.OfferToken
}

// centreError is the verifier's answer to a question that we passed on.
type centreError struct{ err error }

func (e *centreError) Error() string { return "asking the verifier: " + e.err.Error() }
func (e *centreError) Unwrap() error { return e.err }

func (n *Node) openClaimOn(receipt, offerToken string) (claimOn, error) {
	c := claimOn{receipt: receipt, offerToken: offerToken}
	var err error
	if receipt != "" {
		_, c.offer, err = n.keys.OpenReceipt(receipt)
	} else {
		c.offer, err = n.keys.OpenOfferToken(offerToken)
	}
	return c, n.wantKeys(err)
}

// wantKeys makes the next heartbeat come early when a text was signed with a key that is not known here yet.
func (n *Node) wantKeys(err error) error {
	if errors.Is(err, token.ErrUnknownKey) {
		n.keysWanted.Store(true)
		poke(n.pokeStock)
	}
	return err
}

// own is the purchase as this node knows it; nil when the verifier must be asked. changed is closed when it changes.
func (n *Node) own(ctx context.Context, c claimOn) (p *offerv1.Purchase, changed <-chan struct{}, err error) {
	s, err := n.find(ctx, token.PurchaseID(c.offer.GetTokenId()))
	if s == nil || err != nil {
		return nil, nil, err
	}
	select {
	case <-s.done:
	default:
		return nil, nil, nil // nothing was promised yet
	}
	p, settled, changed := n.till.state(s)
	if settled {
		return nil, nil, nil
	}
	if p == nil {
		p = &offerv1.Purchase{
			PurchaseId: s.purchaseID, DropId: s.drop, State: offerv1.PurchaseState_PURCHASE_STATE_ACCEPTED,
			Price: c.offer.GetPrice(), StateTime: timestamppb.New(s.acceptTime),
		}
	}
	return p, changed, nil
}

func (n *Node) getPurchase(ctx context.Context, c claimOn) (*offerv1.Purchase, error) {
	if p, _, err := n.own(ctx, c); p != nil || err != nil {
		return p, err
	}
	request := &verifierv1.GetPurchaseRequest{Credential: &verifierv1.GetPurchaseRequest_OfferToken{OfferToken: c.offerToken}}
	if c.receipt != "" {
		request.Credential = &verifierv1.GetPurchaseRequest_Receipt{Receipt: c.receipt}
	}
	call, cancel := n.callContext(ctx)
	defer cancel()
	answer, err := n.deps.Verifier.GetPurchase(call, request)
	if err != nil {
		return nil, firstOf(ctx, &centreError{err})
	}
	return answer.GetPurchase(), nil
}

// chooseMakeGood passes the viewer's choice on.
func (n *Node) chooseMakeGood(ctx context.Context, c claimOn, choice offerv1.MakeGood) (*offerv1.Purchase, error) {
	request := &verifierv1.ChooseMakeGoodRequest{Choice: choice, Credential: &verifierv1.ChooseMakeGoodRequest_OfferToken{OfferToken: c.offerToken}}
	if c.receipt != "" {
		request.Credential = &verifierv1.ChooseMakeGoodRequest_Receipt{Receipt: c.receipt}
	}
	call, cancel := n.callContext(ctx)
	defer cancel()
	answer, err := n.deps.Verifier.ChooseMakeGood(call, request)
	if err != nil {
		return nil, firstOf(ctx, &centreError{err})
	}
	return answer.GetPurchase(), nil
}

// checkVoucher refuses texts that the verifier never signed. What a genuine one is worth is the verifier's to say.
func (n *Node) checkVoucher(text string) error {
	if text == "" {
		return nil
	}
	_, err := n.keys.OpenVoucher(text)
	return n.wantKeys(err)
}

// firstOf prefers the end of the caller's own context to what it led to.
func firstOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// watchPurchase sends a purchase whenever it changed, until it is final.
func (n *Node) watchPurchase(ctx context.Context, c claimOn, send func(*offerv1.Purchase) error) error {
	var last *offerv1.Purchase
	tell := func(p *offerv1.Purchase) (over bool, err error) {
		if last == nil || !proto.Equal(last, p) {
			last = p
			err = send(p)
		}
		return final(p.GetState()), err
	}
	wait := n.newBackoff()
	relayed := false // a token may be redeemed here after the verifier told of its redemption elsewhere: we know less
	for {
		p, changed, err := n.own(ctx, c)
		if err != nil {
			return err
		}
		if p == nil || relayed {
			relayed = true
			over, err := n.relayPurchase(ctx, c, wait, tell)
			if over || err != nil {
				return err
			}
			continue
		}
		if over, err := tell(p); over || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-n.gate.closing():
			return errDraining()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// relayPurchase passes on one stream of the verifier's, with a pause after a broken one. over is true after the final
// state; an error is final too.
func (n *Node) relayPurchase(ctx context.Context, c claimOn, wait *backoff, tell func(*offerv1.Purchase) (bool, error)) (over bool, err error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	defer func() { cancel(); <-stopped }()
	go func() { // a Recv ends with its context only
		defer close(stopped)
		select {
		case <-n.gate.closing():
			cancel()
		case <-inner.Done():
		}
	}()
	request := &verifierv1.WatchPurchaseRequest{Credential: &verifierv1.WatchPurchaseRequest_OfferToken{OfferToken: c.offerToken}}
	if c.receipt != "" {
		request.Credential = &verifierv1.WatchPurchaseRequest_Receipt{Receipt: c.receipt}
	}
	stream, err := n.deps.Verifier.WatchPurchase(inner, request)
	for err == nil {
		var m *verifierv1.WatchPurchaseResponse
		if m, err = stream.Recv(); err == nil {
			wait.reset()
			if over, err := tell(m.GetPurchase()); over || err != nil {
				return over, err
			}
		}
	}
	select {
	case <-n.gate.closing():
		return false, errDraining()
	case <-ctx.Done():
		return false, ctx.Err()
	default:
	}
	if aboutTheCaller(err) {
		return false, &centreError{err}
	}
	if !errors.Is(err, io.EOF) {
		n.log.Info("verifier's purchase stream broke; going on", "error", fmt.Errorf("watching a purchase: %w", err))
	}
	select {
	case <-time.After(wait.pause()):
		return false, nil
	case <-n.gate.closing():
		return false, errDraining()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

package region

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/journal"
)

// defaultKeys is the page of ListKeys when the caller names none.
const defaultKeys = 100

// RequestOffer implements OfferService.
func (n *Node) RequestOffer(ctx context.Context, r *offerv1.RequestOfferRequest) (*offerv1.RequestOfferResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	w, err := readWish(r.GetHints(), r.GetViewerSessionId(), r.GetConsent())
	if err != nil {
		return nil, n.toStatus(err)
	}
	m, refused, err := n.decide(ctx, w)
	switch {
	case err != nil:
		return nil, n.toStatus(err)
	case refused != nil:
		return &offerv1.RequestOfferResponse{Decision: &offerv1.RequestOfferResponse_Refused{Refused: refused}}, nil
	}
	return &offerv1.RequestOfferResponse{Decision: &offerv1.RequestOfferResponse_Granted{
		Granted: &offerv1.OfferGranted{Offer: m.offer, OfferToken: m.text},
	}}, nil
}

// RedeemOffer implements OfferService.
func (n *Node) RedeemOffer(ctx context.Context, r *offerv1.RedeemOfferRequest) (*offerv1.RedeemOfferResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	o, err := n.readOrder(r)
	if err != nil {
		return nil, n.toStatus(err)
	}
	a, err := n.redeem(ctx, o)
	if err != nil {
		return nil, n.toStatus(err)
	}
	return &offerv1.RedeemOfferResponse{
		Receipt: a.receipt, PurchaseId: a.sale.purchaseID, Region: cmp.Or(a.region, n.cfg.Region), AcceptTime: timestamppb.New(a.sale.acceptTime),
	}, nil
}

// readOrder checks what a redemption says about itself; the times are the till's to check.
func (n *Node) readOrder(r *offerv1.RedeemOfferRequest) (order, error) {
	if len(r.GetViewerSessionId()) != 16 {
		return order{}, invalid("viewer_session_id", "must have 16 bytes")
	}
	if r.GetPaymentReference() == "" {
		return order{}, invalid("payment_reference", "is required")
	}
	recipients, err := checkDetails(r.GetPaymentReference(), r.GetDeliveryDetails(), readConsent(r.GetConsent()))
	if err != nil {
		return order{}, err
	}
	if err := n.checkVoucher(r.GetVoucher()); err != nil {
		return order{}, err
	}
	t, err := n.keys.OpenOfferToken(r.GetOfferToken())
	if err != nil {
		return order{}, n.wantKeys(err)
	}
	if !bytes.Equal(t.GetViewerSessionId(), r.GetViewerSessionId()) {
		return order{}, refuse(errorsv1.Reason_REASON_TOKEN_MISMATCH, "the offer was made for another viewer session")
	}
	if dropText(t) != r.GetHints().GetDropId() {
		return order{}, refuse(errorsv1.Reason_REASON_TOKEN_MISMATCH, "the offer was made for another drop")
	}
	if err := n.checkAddressed(dropText(t), r.GetDeliveryDetails()); err != nil {
		return order{}, err
	}
	var inTime time.Time
	if t.GetTimeBack() != "" {
		w, err := timeback.Check(&n.keys, t)
		if err != nil {
			return order{}, n.wantKeys(err)
		}
		inTime = w.Close
	}
	return order{
		tokenText: r.GetOfferToken(), token: t, drop: dropText(t), inTime: inTime, session: [16]byte(r.GetViewerSessionId()),
		paymentReference: r.GetPaymentReference(), voucher: r.GetVoucher(), details: r.GetDeliveryDetails(), recipients: recipients,
	}, nil
}

// ClaimOffer implements OfferService. A price above max_price, or in another currency, is refused with
// PRICE_ABOVE_LIMIT.
func (n *Node) ClaimOffer(ctx context.Context, r *offerv1.ClaimOfferRequest) (*offerv1.ClaimOfferResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	a, offer, refused, err := n.claim(ctx, r)
	switch {
	case err != nil:
		return nil, n.toStatus(err)
	case refused != nil:
		return &offerv1.ClaimOfferResponse{Decision: &offerv1.ClaimOfferResponse_Refused{Refused: refused}}, nil
	}
	return &offerv1.ClaimOfferResponse{Decision: &offerv1.ClaimOfferResponse_Accepted{Accepted: &offerv1.ClaimAccepted{
		Offer: offer, Receipt: a.receipt, PurchaseId: a.sale.purchaseID, Region: cmp.Or(a.region, n.cfg.Region),
		AcceptTime: timestamppb.New(a.sale.acceptTime),
	}}}, nil
}

func (n *Node) claim(ctx context.Context, r *offerv1.ClaimOfferRequest) (accepted, *offerv1.Offer, *offerv1.OfferRefused, error) {
	w, err := readWish(r.GetHints(), r.GetViewerSessionId(), r.GetConsent())
	if err != nil {
		return accepted{}, nil, nil, err
	}
	if r.GetPaymentReference() == "" {
		return accepted{}, nil, nil, invalid("payment_reference", "is required")
	}
	if err := n.checkAddressed(w.drop, r.GetDeliveryDetails()); err != nil {
		return accepted{}, nil, nil, err
	}
	recipients, err := checkDetails(r.GetPaymentReference(), r.GetDeliveryDetails(), w.consent)
	if err != nil {
		return accepted{}, nil, nil, err
	}
	if err := n.checkVoucher(r.GetVoucher()); err != nil {
		return accepted{}, nil, nil, err
	}
	var a accepted
	s, err := n.find(ctx, token.PurchaseID(w.tokenID))
	if err != nil {
		return accepted{}, nil, nil, err
	}
	if s != nil { // it came before: nothing is decided anew
		a, err = n.repeat(ctx, s, bodyOf(r.GetPaymentReference(), r.GetVoucher(), r.GetDeliveryDetails()))
	} else {
		m, refused, derr := n.decide(ctx, w)
		if isSoldOut(derr) {
			return n.claimSoldOut(ctx, w, bodyOf(r.GetPaymentReference(), r.GetVoucher(), r.GetDeliveryDetails()))
		}
		if derr != nil || refused != nil {
			return accepted{}, nil, refused, derr
		}
		price := m.offer.GetPrice()
		if price.GetCurrencyCode() != r.GetMaxPrice().GetCurrencyCode() || price.GetMinorUnits() > r.GetMaxPrice().GetMinorUnits() {
			return accepted{}, nil, &offerv1.OfferRefused{
				Reason: errorsv1.Reason_REASON_PRICE_ABOVE_LIMIT, Message: "The price is above the most that the viewer agreed to pay.",
			}, nil
		}
		a, err = n.redeem(ctx, order{
			tokenText: m.text, token: m.token, drop: w.drop, session: w.session,
			paymentReference: r.GetPaymentReference(), voucher: r.GetVoucher(), details: r.GetDeliveryDetails(), recipients: recipients,
		})
		if a.first {
			return a, m.offer, nil, err
		}
	}
	if err != nil {
		return accepted{}, nil, nil, err
	}
	return n.claimedBefore(a)
}

// claimSoldOut is a claim of which nothing is left to decide.
func (n *Node) claimSoldOut(ctx context.Context, w wish, body [sha256.Size]byte) (accepted, *offerv1.Offer, *offerv1.OfferRefused, error) {
	d, ok := n.findDrop(w.drop)
	if !ok {
		return accepted{}, nil, nil, n.noDrop(w.drop)
	}
	a, err := n.soldOutFor(ctx, wanted{w.tokenID, w.drop, w.session, d.msg.GetDrop().GetPrice(), body})
	if err != nil {
		return accepted{}, nil, nil, err
	}
	return n.claimedBefore(a)
}

// claimedBefore answers with the token that was redeemed, which another call made.
func (n *Node) claimedBefore(a accepted) (accepted, *offerv1.Offer, *offerv1.OfferRefused, error) {
	_, t, err := n.keys.OpenReceipt(a.receipt)
	if err != nil {
		return accepted{}, nil, nil, err
	}
	return a, n.offerOf(t), nil, nil
}

// WatchDrops implements OfferService.
func (n *Node) WatchDrops(r *offerv1.WatchDropsRequest, stream grpc.ServerStreamingServer[offerv1.WatchDropsResponse]) error {
	if !n.gate.enter() {
		return n.toStatus(errDraining())
	}
	defer n.gate.leave()
	return n.toStatus(n.watchDrops(stream.Context(), r.GetChannelId(), r.GetResumeToken(), stream.Send))
}

// GetPurchase implements OfferService.
func (n *Node) GetPurchase(ctx context.Context, r *offerv1.GetPurchaseRequest) (*offerv1.GetPurchaseResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	c, err := n.openClaimOn(r.GetReceipt(), r.GetOfferToken())
	if err != nil {
		return nil, n.toStatus(err)
	}
	p, err := n.getPurchase(ctx, c)
	if err != nil {
		return nil, n.toStatus(err)
	}
	return &offerv1.GetPurchaseResponse{Purchase: p}, nil
}

// ChooseMakeGood implements OfferService. The verifier decides; its news of the choice comes to the accepting node as of
// every other change.
func (n *Node) ChooseMakeGood(ctx context.Context, r *offerv1.ChooseMakeGoodRequest) (*offerv1.ChooseMakeGoodResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	c, err := n.openClaimOn(r.GetReceipt(), r.GetOfferToken())
	if err != nil {
		return nil, n.toStatus(err)
	}
	p, err := n.chooseMakeGood(ctx, c, r.GetChoice())
	if err != nil {
		return nil, n.toStatus(err)
	}
	return &offerv1.ChooseMakeGoodResponse{Purchase: p}, nil
}

// WatchPurchase implements OfferService.
func (n *Node) WatchPurchase(r *offerv1.WatchPurchaseRequest, stream grpc.ServerStreamingServer[offerv1.WatchPurchaseResponse]) error {
	if !n.gate.enter() {
		return n.toStatus(errDraining())
	}
	defer n.gate.leave()
	c, err := n.openClaimOn(r.GetReceipt(), r.GetOfferToken())
	if err != nil {
		return n.toStatus(err)
	}
	return n.toStatus(n.watchPurchase(stream.Context(), c, func(p *offerv1.Purchase) error {
		return stream.Send(&offerv1.WatchPurchaseResponse{Purchase: p})
	}))
}

// ListKeys implements OfferService. The page token is the last key's id.
func (n *Node) ListKeys(_ context.Context, r *offerv1.ListKeysRequest) (*offerv1.ListKeysResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	after, err := hex.DecodeString(r.GetPageToken())
	if err != nil {
		return nil, n.toStatus(invalid("page_token", "is not from this method"))
	}
	size := int(r.GetPageSize())
	if size <= 0 {
		size = defaultKeys
	}
	answer := &offerv1.ListKeysResponse{}
	for _, k := range n.keys.All() {
		if bytes.Compare(k.GetKeyId(), after) <= 0 {
			continue
		}
		if len(answer.Keys) == size {
			answer.NextPageToken = hex.EncodeToString(answer.Keys[size-1].GetKeyId())
			break
		}
		answer.Keys = append(answer.Keys, k)
	}
	return answer, nil
}

// code says for each reason what a client may do next: rimlight.errors.v1 has the meaning.
var code = map[errorsv1.Reason]codes.Code{
	errorsv1.Reason_REASON_INVALID_REQUEST:     codes.InvalidArgument,
	errorsv1.Reason_REASON_REQUEST_REPLAYED:    codes.AlreadyExists,
	errorsv1.Reason_REASON_TOKEN_EXPIRED:       codes.FailedPrecondition,
	errorsv1.Reason_REASON_TOKEN_MISMATCH:      codes.InvalidArgument,
	errorsv1.Reason_REASON_DROP_NOT_FOUND:      codes.NotFound,
	errorsv1.Reason_REASON_DROP_NOT_HEARD_OF:   codes.Unavailable,
	errorsv1.Reason_REASON_DROP_NOT_OPEN:       codes.FailedPrecondition,
	errorsv1.Reason_REASON_SOLD_OUT:            codes.FailedPrecondition,
	errorsv1.Reason_REASON_NO_UNIT_HERE:        codes.ResourceExhausted,
	errorsv1.Reason_REASON_VIEWER_LIMIT:        codes.FailedPrecondition,
	errorsv1.Reason_REASON_CONSENT_REQUIRED:    codes.FailedPrecondition,
	errorsv1.Reason_REASON_CARD_NUMBER_REFUSED: codes.InvalidArgument,
	errorsv1.Reason_REASON_DETAILS_NOT_SEALED:  codes.InvalidArgument,
	errorsv1.Reason_REASON_NO_DEPOT:            codes.FailedPrecondition,
	errorsv1.Reason_REASON_DRAINING:            codes.Unavailable,
	errorsv1.Reason_REASON_OVERLOADED:          codes.ResourceExhausted,
	errorsv1.Reason_REASON_STORE_UNAVAILABLE:   codes.Unavailable,
	errorsv1.Reason_REASON_JOURNAL_FULL:        codes.ResourceExhausted,
	errorsv1.Reason_REASON_DRILLS_OFF:          codes.FailedPrecondition,
}

// toStatus is the one place where the node's errors become statuses.
func (n *Node) toStatus(err error) error {
	var r *refusal
	var centre *centreError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		return r.status()
	case errors.Is(err, token.ErrUnknownKey):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_KEY_UNKNOWN, "the signing key is not known at this node yet",
			rpcerr.RetryAfter(keyRetry))
	case errors.Is(err, token.ErrMalformed), errors.Is(err, token.ErrForged):
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, "the token or receipt is not genuine")
	case errors.As(err, &centre):
		return centre.status()
	case errors.Is(err, context.DeadlineExceeded):
		return rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED, "the deadline ended before an answer")
	case errors.Is(err, context.Canceled):
		return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "the caller went away")
	case errors.Is(err, journal.ErrNoSpace):
		return n.toStatus(errJournalFull())
	case errors.Is(err, journal.ErrBroken), errors.Is(err, journal.ErrClosed), errors.Is(err, journal.ErrFull):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STORE_UNAVAILABLE, "the node cannot use its journal")
	}
	if st, ok := status.FromError(err); ok { // a stream's Send: the transport's own word
		return st.Err()
	}
	n.log.Error("call failed", "error", err)
	return rpcerr.New(codes.Internal, errorsv1.Reason_REASON_INTERNAL, "internal error")
}

func (r *refusal) status() error {
	var options []rpcerr.Option
	for i := 0; i+1 < len(r.meta); i += 2 {
		options = append(options, rpcerr.Meta(r.meta[i], r.meta[i+1]))
	}
	if r.field != "" {
		options = append(options, rpcerr.Violation(r.field, r.message))
	}
	if r.retryAfter > 0 {
		options = append(options, rpcerr.RetryAfter(r.retryAfter))
	}
	c, ok := code[r.reason]
	if !ok {
		c = codes.Internal
	}
	return rpcerr.New(c, r.reason, r.message, options...)
}

// aboutTheCaller tells that the verifier has said no to what the viewer asked or showed: asking again does not help.
func aboutTheCaller(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition:
		return rpcerr.Info(err) != nil
	}
	return false
}

// status passes the verifier's word on where it speaks about the viewer's question, and hides what is between services.
func (e *centreError) status() error {
	if aboutTheCaller(e.err) {
		return e.err
	}
	return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, "the verifier does not answer now",
		rpcerr.RetryAfter(firstWait))
}

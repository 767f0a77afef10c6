package verifier

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/store"
)

// Errors that only this edge makes.
var (
	errStopping     = errors.New("verifier: stopping")
	errNoHello      = errors.New("verifier: a forwarding stream begins with Hello, once")
	errPageToken    = errors.New("verifier: not a page token of ours")
	errNodeID       = errors.New("verifier: not a node id")
	errDropID       = errors.New("verifier: not a drop id")
	errNoCredential = errors.New("verifier: no credential")
	errPurchaseID   = errors.New("verifier: not a purchase id")
	errVoucherID    = errors.New("verifier: not a voucher id")
	errOrderID      = errors.New("verifier: not an order id")
	errSince        = errors.New("verifier: not a time")
	errWebhookID    = errors.New("verifier: not a webhook id")
	errUpstream     = errors.New("verifier: fulfillment does not answer")
	errAmount       = errors.New("verifier: not an amount to refund")
)

// toStatus is the one place where the verifier's errors become statuses.
func (s *Service) toStatus(ctx context.Context, method string, err error) error {
	var notRefundable *notRefundableError
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "The caller went away.")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED, "The deadline ended before an answer.")
	case errors.Is(err, errStopping):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_DRAINING, "The verifier is shutting down.")
	case errors.Is(err, token.ErrUnknownKey):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_KEY_UNKNOWN,
			"The text is signed by a key that is not known here yet.", rpcerr.RetryAfter(minKeyRefresh))
	case errors.Is(err, token.ErrMalformed), errors.Is(err, token.ErrForged):
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID, "The text is no genuine receipt or offer token.")
	case errors.Is(err, errMismatch):
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_MISMATCH, "The offer token belongs to another session or drop.")
	case errors.Is(err, errNoHello):
		return invalid("hello", "a stream begins with Hello, once")
	case errors.Is(err, errSealTooEarly):
		return rpcerr.New(codes.Aborted, errorsv1.Reason_REASON_SEAL_TOO_EARLY, "An entry that comes before the seal is not here yet; forward it first.")
	case errors.Is(err, errNodeID):
		return invalid("hello.node_id", "must be a UUID in canonical form")
	case errors.Is(err, errDropID):
		return invalid("drop_id", "must be empty or a UUID in canonical form")
	case errors.Is(err, errPageToken):
		return invalid("page_token", "must come from the last page")
	case errors.Is(err, errNoCredential):
		return invalid("credential", "must be a receipt or an offer token")
	case errors.Is(err, payment.ErrNoActionPending), errors.Is(err, payment.ErrNotFound):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NO_ACTION_PENDING, "No payment attempt waits for the customer under this id.")
	case errors.Is(err, errPurchaseID):
		return invalid("purchase_id", "must be 32 hex digits")
	case errors.Is(err, errVoucherID):
		return invalid("voucher_id", "must be empty or a UUID in canonical form")
	case errors.Is(err, errOrderID):
		return invalid("order_id", "must be empty or a UUID in canonical form")
	case errors.Is(err, errSince):
		return invalid("since_time", "must be a time between the years 1 and 9999")
	case errors.Is(err, errWebhookID):
		return invalid("webhook_id", "must be a UUID in canonical form")
	case errors.Is(err, errURL):
		return invalid("url", "must be an http or https URL without user and fragment")
	case errors.Is(err, errStates):
		return invalid("states", "must be states that purchases come into")
	case errors.Is(err, errTooManyWebhooks):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_TOO_MANY_WEBHOOKS, "There are as many webhooks as there may be; remove one first.")
	case errors.Is(err, store.ErrNoWebhook):
		return rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_WEBHOOK_NOT_FOUND, "No webhook has this id.")
	case errors.Is(err, errUpstream):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, "Fulfillment does not answer.")
	case errors.Is(err, errAmount):
		return invalid("amount.minor_units", "must be more than 0; without an amount all that is left is refunded")
	case errors.Is(err, errNoChoice):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NO_CHOICE_PENDING, "The purchase does not wait for this choice.")
	case errors.Is(err, errReplayed), errors.Is(err, store.ErrRequestKnown):
		return rpcerr.New(codes.AlreadyExists, errorsv1.Reason_REASON_REQUEST_REPLAYED, "The request id was used for something else.")
	case errors.As(err, &notRefundable):
		left := strconv.FormatInt(notRefundable.refundable, 10)
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NOT_REFUNDABLE,
			"The purchase is "+notRefundable.state.String()+" and has "+left+" minor units of "+notRefundable.currencyCode+
				" left; only delivered purchases are refunded, with at most that.",
			rpcerr.Meta("state", notRefundable.state.String()), rpcerr.Meta("refundable_minor_units", left),
			rpcerr.Meta("currency_code", notRefundable.currencyCode))
	case errors.Is(err, errRecovering), errors.Is(err, store.ErrNotFound) && s.recovering.Load():
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STORE_RECOVERING,
			"The verifier was restored and is reading the nodes' journals again; its log names those it waits for. Try again.", rpcerr.RetryAfter(minKeyRefresh))
	case errors.Is(err, store.ErrNotFound):
		return rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_PURCHASE_NOT_FOUND, "No purchase belongs to this receipt, token or id.")
	case errors.Is(err, store.ErrConflict):
		return rpcerr.New(codes.Aborted, errorsv1.Reason_REASON_CONFLICT, "The purchase changed at the same time.")
	case sqldb.IsUnstorable(err):
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "A text of the request has a zero byte.")
	case sqldb.IsUnavailable(err):
		s.deps.Log.Error("the store cannot be used", "method", method, "error", err)
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STORE_UNAVAILABLE, "The verifier's store cannot be used now.")
	case rpcerr.Reason(err) != errorsv1.Reason_REASON_UNSPECIFIED: // what an interceptor said of a stream's message
		return err
	case status.Code(err) != codes.Unknown: // the stream broke: nobody is there to read this
		return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "The stream broke off.")
	}
	s.deps.Log.Error("a call failed", "method", method, "error", err)
	return rpcerr.New(codes.Internal, errorsv1.Reason_REASON_INTERNAL, "The verifier failed; its log says why.")
}

func invalid(field, rule string) error {
	return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "The field "+field+" "+rule+".", rpcerr.Violation(field, rule))
}

// hasReason tells what another service's status says.
func hasReason(err error, reason errorsv1.Reason) bool {
	return err != nil && rpcerr.Reason(err) == reason
}

// refused tells a no that a repetition at once would not change.
func refused(err error) bool {
	code := status.Code(err)
	return code == codes.FailedPrecondition || code == codes.Aborted
}

type verifierServer struct {
	verifierv1.UnimplementedVerifierServiceServer
	s *Service
}

// SubmitRedemptions implements VerifierService.
func (v *verifierServer) SubmitRedemptions(stream grpc.BidiStreamingServer[verifierv1.SubmitRedemptionsRequest, verifierv1.SubmitRedemptionsResponse]) error {
	return v.s.toStatus(stream.Context(), "SubmitRedemptions", v.s.serveNode(stream.Context(), stream))
}

// PresentReceipt implements VerifierService.
func (v *verifierServer) PresentReceipt(ctx context.Context, r *verifierv1.PresentReceiptRequest) (*verifierv1.PresentReceiptResponse, error) {
	p, err := v.s.present(ctx, r.GetReceipt())
	var m *offerv1.Purchase
	if err == nil {
		m, err = v.s.forBuyer(&p)
	}
	if err != nil {
		return nil, v.s.toStatus(ctx, "PresentReceipt", err)
	}
	return &verifierv1.PresentReceiptResponse{Purchase: m}, nil
}

// GetPurchase implements VerifierService.
func (v *verifierServer) GetPurchase(ctx context.Context, r *verifierv1.GetPurchaseRequest) (*verifierv1.GetPurchaseResponse, error) {
	id, err := v.s.credential(ctx, r.GetReceipt(), r.GetOfferToken())
	var p store.Purchase
	if err == nil {
		p, err = v.s.store.Read().Purchase(ctx, id)
	}
	var m *offerv1.Purchase
	if err == nil {
		m, err = v.s.forBuyer(&p)
	}
	if err != nil {
		return nil, v.s.toStatus(ctx, "GetPurchase", err)
	}
	return &verifierv1.GetPurchaseResponse{Purchase: m}, nil
}

// ChooseMakeGood implements VerifierService.
func (v *verifierServer) ChooseMakeGood(ctx context.Context, r *verifierv1.ChooseMakeGoodRequest) (*verifierv1.ChooseMakeGoodResponse, error) {
	id, err := v.s.credential(ctx, r.GetReceipt(), r.GetOfferToken())
	var p store.Purchase
	if err == nil {
		p, err = v.s.choose(ctx, id, r.GetChoice())
	}
	var m *offerv1.Purchase
	if err == nil {
		m, err = v.s.forBuyer(&p)
	}
	if err != nil {
		return nil, v.s.toStatus(ctx, "ChooseMakeGood", err)
	}
	return &verifierv1.ChooseMakeGoodResponse{Purchase: m}, nil
}

// WatchPurchase implements VerifierService.
func (v *verifierServer) WatchPurchase(r *verifierv1.WatchPurchaseRequest, stream grpc.ServerStreamingServer[verifierv1.WatchPurchaseResponse]) error {
	ctx := stream.Context()
	id, err := v.s.credential(ctx, r.GetReceipt(), r.GetOfferToken())
	if err == nil {
		err = v.s.watchPurchase(ctx, id, func(p *offerv1.Purchase) error {
			return stream.Send(&verifierv1.WatchPurchaseResponse{Purchase: p})
		})
	}
	return v.s.toStatus(ctx, "WatchPurchase", err)
}

// WatchEvents implements VerifierService.
func (v *verifierServer) WatchEvents(r *verifierv1.WatchEventsRequest, stream grpc.ServerStreamingServer[verifierv1.WatchEventsResponse]) error {
	return v.s.toStatus(stream.Context(), "WatchEvents", v.s.watchEvents(stream.Context(), r.GetAfterCursor(), stream.Send))
}

// ListKeys implements VerifierService. The page token is the last key id in hex.
func (v *verifierServer) ListKeys(ctx context.Context, r *verifierv1.ListKeysRequest) (*verifierv1.ListKeysResponse, error) {
	after, err := hex.DecodeString(r.GetPageToken())
	if err != nil {
		return nil, v.s.toStatus(ctx, "ListKeys", fmt.Errorf("%w: %w", errPageToken, err))
	}
	size := int(r.GetPageSize())
	if size <= 0 || size > maxKeyPage {
		size = maxKeyPage
	}
	response := &verifierv1.ListKeysResponse{}
	for _, k := range v.s.keys.All() {
		if string(k.GetKeyId()) <= string(after) {
			continue
		}
		if len(response.Keys) == size {
			response.NextPageToken = hex.EncodeToString(response.Keys[size-1].GetKeyId())
			break
		}
		response.Keys = append(response.Keys, k)
	}
	return response, nil
}

// maxKeyPage is ListKeys' largest page.
const maxKeyPage = 1000

type testPaymentServer struct {
	verifierv1.UnimplementedTestPaymentServiceServer
	s        *Service
	customer payment.TestCustomer
}

// CompleteAction implements TestPaymentService.
func (v *testPaymentServer) CompleteAction(ctx context.Context, r *verifierv1.CompleteActionRequest) (*verifierv1.CompleteActionResponse, error) {
	if err := v.s.completeAction(ctx, v.customer, r.GetPaymentIntentId(), r.GetDecline()); err != nil {
		return nil, v.s.toStatus(ctx, "CompleteAction", err)
	}
	return &verifierv1.CompleteActionResponse{}, nil
}

// credential is the token id that a receipt or an offer token gives access to. A receipt is presented by the way.
func (s *Service) credential(ctx context.Context, receipt, offerToken string) (store.ID, error) {
	switch {
	case receipt != "":
		p, err := s.present(ctx, receipt)
		return p.TokenID, err
	case offerToken != "":
		offer, err := s.keys.OpenOfferToken(offerToken)
		if errors.Is(err, token.ErrUnknownKey) {
			if err := s.refreshKeys(ctx); err != nil {
				return store.ID{}, fmt.Errorf("%w: %w", token.ErrUnknownKey, err)
			}
			offer, err = s.keys.OpenOfferToken(offerToken)
		}
		if err != nil {
			return store.ID{}, fmt.Errorf("opening an offer token: %w", err)
		}
		return store.ID(offer.GetTokenId()), nil
	}
	return store.ID{}, errNoCredential
}

// ended tells the ways in which a stream's other side is simply gone.
func ended(err error) bool { return errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled }

// proofOfLife is how often a silent stream says something, so that a dead connection is noticed.
const proofOfLife = 15 * time.Second

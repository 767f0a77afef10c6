package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/fulfillment/store"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// errStopping ends streams when Run's context ended.
var errStopping = errors.New("fulfillment: shutting down")

// errReplaced ends a node's stream when it has a newer one.
var errReplaced = errors.New("fulfillment: the node has another stream")

// requestError is a request that is wrong by itself.
type requestError struct {
	reason     errorsv1.Reason
	violations []catalog.Violation
}

func (e *requestError) Error() string {
	return fmt.Sprintf("%v: %d violations", e.reason, len(e.violations))
}

func invalid(field, sentence string) *requestError {
	return &requestError{errorsv1.Reason_REASON_INVALID_REQUEST, []catalog.Violation{{Field: field, Sentence: sentence}}}
}

// toStatus is the one place where this service's errors become statuses. What it does not know is the service's own
// fault: the caller gets a fixed text, the log the full one.
func (s *Service) toStatus(ctx context.Context, err error) error {
	var (
		request  *requestError
		noDrop   *store.DropNotFoundError
		noOrder  *store.OrderNotFoundError
		noNode   *store.NotJoinedError
		noLease  *store.LeaseNotFoundError
		notLive  *store.NotLiveError
		notSold  *store.UnitNotSoldError
		settling *store.NotSettleableError
		disk     *store.DiskChangedError
		change   *changeError
		stale    *store.EpochStaleError
		other    *store.SupersededError
		inUse    *store.LeaseInUseError
		claims   *store.ClaimsOpenError
		fenced   *store.FencedError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &request):
		return requestStatus(request)
	case errors.As(err, &noDrop):
		return rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND, "No drop has this id.",
			rpcerr.Meta("drop_id", noDrop.DropID.String()))
	case errors.As(err, &noOrder):
		return rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_ORDER_NOT_FOUND, "No order has this id.",
			rpcerr.Meta("order_id", noOrder.OrderID.String()))
	case errors.As(err, &noNode):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_NOT_JOINED, "The node must join first.",
			rpcerr.Meta("node_id", noNode.NodeID.String()))
	case errors.As(err, &noLease):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_LEASE_NOT_FOUND, "No lease of this node's epoch has this id.",
			rpcerr.Meta("lease_id", noLease.LeaseID.String()))
	case errors.As(err, &notLive):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_DROP_NOT_OPEN,
			fmt.Sprintf("Units are lent while a drop is armed, open or draining; this one is %v.", notLive.State),
			rpcerr.Meta("drop_id", notLive.DropID.String()), rpcerr.Meta("state", notLive.State.String()),
			rpcerr.Meta("open_time", notLive.OpenTime.Format(time.RFC3339Nano)),
			rpcerr.Meta("close_time", notLive.CloseTime.Format(time.RFC3339Nano)))
	case errors.As(err, &notSold):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_UNIT_NOT_YOURS,
			"The unit is not sold to this purchase, or has an order already.",
			rpcerr.Meta("drop_id", notSold.DropID.String()), rpcerr.Meta("serial", strconv.FormatUint(uint64(notSold.Serial), 10)))
	case errors.As(err, &settling):
		return rpcerr.New(codes.Aborted, errorsv1.Reason_REASON_CONFLICT,
			fmt.Sprintf("A drop is settled when it is CLOSED and nothing of it is leased; this one is %v with %d units leased.", settling.State, settling.Leased),
			rpcerr.Meta("drop_id", settling.DropID.String()), rpcerr.Meta("state", settling.State.String()),
			rpcerr.Meta("leased", strconv.FormatUint(uint64(settling.Leased), 10)))
	case errors.As(err, &change):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_DROP_CHANGE_REFUSED,
			fmt.Sprintf("The drop is %v. %s", change.State, change.Sentence),
			rpcerr.Meta("drop_id", change.dropID), rpcerr.Meta("state", change.State.String()))
	case errors.As(err, &disk):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_DISK_CHANGED,
			"This node has joined from another disk since it last did from this one; that one stands.",
			rpcerr.Meta("node_id", disk.NodeID.String()))
	case errors.As(err, &inUse):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_LEASE_NOT_CLOSABLE, "A node sells from the lease.",
			rpcerr.Meta("lease_id", inUse.LeaseID.String()))
	case errors.As(err, &claims):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_LEASE_NOT_CLOSABLE, "Receipts for the lease are still waited for.",
			rpcerr.Meta("lease_id", claims.LeaseID.String()), rpcerr.Meta("claims_end_time", claims.End.Format(time.RFC3339Nano)))
	case errors.As(err, &other):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_SUPERSEDED,
			"Another process took the place of this one of the node.", rpcerr.Meta("node_id", other.NodeID.String()))
	case errors.As(err, &fenced):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_FENCED,
			"The node gets nothing of this drop any more: an operator fenced it, or it retired.", rpcerr.Meta("node_id", fenced.NodeID.String()))
	case errors.As(err, &stale):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_EPOCH_STALE,
			fmt.Sprintf("The node acts under epoch %d; the current one is %d.", stale.Epoch, stale.Current),
			rpcerr.Meta("epoch", strconv.FormatInt(stale.Epoch, 10)), rpcerr.Meta("current", strconv.FormatInt(stale.Current, 10)))
	case errors.Is(err, store.ErrReplayed):
		return rpcerr.New(codes.AlreadyExists, errorsv1.Reason_REASON_REQUEST_REPLAYED, "The same id came before with another body.")
	case errors.Is(err, store.ErrKeyTaken):
		return requestStatus(invalid("signing_key.key_id", "The key belongs to another node."))
	case errors.Is(err, errReplaced):
		return rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_SUPERSEDED, "The node has another stream.")
	case errors.Is(err, errRecovering):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STORE_RECOVERING,
			"Fulfillment was restored and waits for the nodes and the verifier to tell what it lent and sold; its log names those it waits for. Try again.",
			rpcerr.RetryAfter(rebuildEvery))
	case errors.Is(err, errStopping):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_DRAINING, "Fulfillment is shutting down.")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED, "The deadline ended before an answer.")
	case ctx.Err() != nil:
		return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "The caller went away.")
	case sqldb.IsUnstorable(err):
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "A text of the request has a zero byte.")
	case sqldb.IsUnavailable(err):
		s.log.ErrorContext(ctx, "the store cannot be used", "error", err)
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STORE_UNAVAILABLE, "The store cannot be used now; nothing was promised.")
	default:
		s.log.ErrorContext(ctx, "a call failed", "error", err)
		return rpcerr.New(codes.Internal, errorsv1.Reason_REASON_INTERNAL, "Fulfillment failed; its log says why.")
	}
}

// streamStatus is toStatus for streams: what Send answers is a status already.
func (s *Service) streamStatus(ctx context.Context, err error) error {
	if _, isStatus := status.FromError(err); isStatus {
		return err
	}
	return s.toStatus(ctx, err)
}

func requestStatus(e *requestError) error {
	var options []rpcerr.Option
	for _, v := range e.violations {
		options = append(options, rpcerr.Violation(v.Field, v.Sentence))
	}
	options = append(options, rpcerr.Meta("field", e.violations[0].Field))
	return rpcerr.New(codes.InvalidArgument, e.reason, e.violations[0].Sentence, options...)
}

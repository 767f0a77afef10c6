package router

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

const (
	watchInterval    = time.Second
	setModeTimeout   = 2 * time.Second // per SetRegionMode call without a deadline
	defaultPage      = 1000
	defaultDecisions = 50
)

// What the admin methods find wrong. toStatus turns these into statuses.
var (
	errPageToken        = errors.New("page_token is not one of this method's")
	errRegionNotFound   = errors.New("no region has this name")
	errDecisionNotFound = errors.New("no kept decision has this id")
	errNoChoice         = errors.New("the call ended before a region was chosen")
	errLastRegion       = errors.New("no other region serves; force it if that is meant")
	errPeerSilent       = errors.New("the router that made the decision does not answer")
	errStopping         = errors.New("the router is shutting down")
	errNotAudited       = errors.New("the change could not be written to the audit log, so it was not made")
	errDrillsOff        = errors.New("the platform was not started with --drills")
)

// ErrFaultNotPossible is a Saboteur's word for what it cannot break.
var ErrFaultNotPossible = errors.New("this platform cannot break in that way; a kill needs nodes with processes of their own, rimlight dev --split")

// ListRegions implements rimlight.router.v1.RouterAdminService.
func (r *Router) ListRegions(ctx context.Context, q *routerv1.ListRegionsRequest) (*routerv1.ListRegionsResponse, error) {
	page, next, err := paginate(r.regions(), q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, toStatus(err)
	}
	answer := &routerv1.ListRegionsResponse{Router: r.config.Name, Regions: page, NextPageToken: next}
	if q.GetLocalOnly() {
		return answer, nil
	}
	views, silent := askPeers(ctx, r, func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.ListRegionsResponse, error) {
		return c.ListRegions(ctx, &routerv1.ListRegionsRequest{LocalOnly: true})
	})
	for _, v := range views {
		answer.Peers = append(answer.Peers, &routerv1.RouterView{Router: v.GetRouter(), Regions: v.GetRegions()})
	}
	answer.SilentRouters = silent
	return answer, nil
}

// WatchRegions implements rimlight.router.v1.RouterAdminService.
func (r *Router) WatchRegions(_ *routerv1.WatchRegionsRequest, stream grpc.ServerStreamingServer[routerv1.WatchRegionsResponse]) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		if err := stream.Send(&routerv1.WatchRegionsResponse{Regions: r.regions()}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return toStatus(stream.Context().Err())
		case <-r.stopping.Done():
			return toStatus(errStopping)
		case <-ticker.C:
		}
	}
}

// localOnly marks a router's question to a peer, which then asks nobody else.
const localOnly = "rimlight-local-only"

// GetRttMatrix implements rimlight.router.v1.RouterAdminService.
func (r *Router) GetRttMatrix(ctx context.Context, _ *routerv1.GetRttMatrixRequest) (*routerv1.GetRttMatrixResponse, error) {
	answer := &routerv1.GetRttMatrixResponse{Cells: r.rttCells()}
	if len(metadata.ValueFromIncomingContext(ctx, localOnly)) > 0 {
		return answer, nil
	}
	views, silent := askPeers(ctx, r, func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.GetRttMatrixResponse, error) {
		return c.GetRttMatrix(metadata.AppendToOutgoingContext(ctx, localOnly, "1"), &routerv1.GetRttMatrixRequest{})
	})
	for _, v := range views {
		answer.Cells = append(answer.Cells, v.GetCells()...)
	}
	slices.SortFunc(answer.Cells, func(a, b *routerv1.RttCell) int {
		return cmp.Or(strings.Compare(a.GetRouter(), b.GetRouter()), strings.Compare(a.GetRegion(), b.GetRegion()))
	})
	answer.SilentRouters = silent
	return answer, nil
}

// ListMembers implements rimlight.router.v1.RouterAdminService.
func (r *Router) ListMembers(_ context.Context, q *routerv1.ListMembersRequest) (*routerv1.ListMembersResponse, error) {
	page, next, err := paginate(r.memberList(), q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, toStatus(err)
	}
	return &routerv1.ListMembersResponse{Members: page, NextPageToken: next}, nil
}

// ExplainDecision implements rimlight.router.v1.RouterAdminService.
func (r *Router) ExplainDecision(ctx context.Context, q *routerv1.ExplainDecisionRequest) (*routerv1.ExplainDecisionResponse, error) {
	if d := r.decisions.find(q.GetDecisionId()); d != nil {
		return &routerv1.ExplainDecisionResponse{Decision: decisionProto(r.config.Name, d)}, nil
	}
	return askMaker(ctx, r, q.GetDecisionId(), q.GetLocalOnly(),
		func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.ExplainDecisionResponse, error) {
			return c.ExplainDecision(ctx, &routerv1.ExplainDecisionRequest{DecisionId: q.GetDecisionId(), LocalOnly: true})
		})
}

// SimulateDecision implements rimlight.router.v1.RouterAdminService.
func (r *Router) SimulateDecision(ctx context.Context, q *routerv1.SimulateDecisionRequest) (*routerv1.SimulateDecisionResponse, error) {
	d := r.decisions.find(q.GetDecisionId())
	if d == nil {
		return askMaker(ctx, r, q.GetDecisionId(), q.GetLocalOnly(),
			func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.SimulateDecisionResponse, error) {
				return c.SimulateDecision(ctx, &routerv1.SimulateDecisionRequest{
					DecisionId: q.GetDecisionId(), Changes: q.GetChanges(), LocalOnly: true,
				})
			})
	}
	if len(d.Attempts) == 0 {
		return nil, toStatus(errNoChoice, rpcerr.Meta("decision_id", d.ID))
	}
	first := d.Attempts[0]
	for _, c := range q.GetChanges() {
		named := func(g *arbiter.Region) bool { return g.Name == c.GetRegion() }
		if !slices.ContainsFunc(first.Snapshot.Regions, named) {
			return nil, toStatus(errRegionNotFound, rpcerr.Meta("region", c.GetRegion()))
		}
	}
	changed := first.Snapshot.With(d.Drop, changesOf(q.GetChanges())...)
	return &routerv1.SimulateDecisionResponse{
		Actual: choiceProto(first, first.Snapshot), Simulated: choiceProto(first, changed),
	}, nil
}

// askMaker asks the router that made a decision about it.
func askMaker[T any](
	ctx context.Context, r *Router, decision string, localOnly bool, ask func(context.Context, routerv1.RouterAdminServiceClient) (*T, error),
) (*T, error) {
	maker, _, _ := strings.Cut(decision, "/")
	if localOnly || maker == r.config.Name {
		return nil, toStatus(errDecisionNotFound, rpcerr.Meta("decision_id", decision))
	}
	for _, p := range r.peerList() {
		if p.name != maker {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, peerTimeout)
		defer cancel()
		answer, err := ask(ctx, p.client)
		if err != nil && rpcerr.Reason(err) == errorsv1.Reason_REASON_UNSPECIFIED {
			return nil, toStatus(errPeerSilent, rpcerr.Meta("router", maker))
		}
		return answer, err
	}
	return nil, toStatus(errDecisionNotFound, rpcerr.Meta("decision_id", decision))
}

// ListDecisions implements rimlight.router.v1.RouterAdminService.
func (r *Router) ListDecisions(_ context.Context, q *routerv1.ListDecisionsRequest) (*routerv1.ListDecisionsResponse, error) {
	before := int64(-1)
	if token := q.GetPageToken(); token != "" {
		n, err := strconv.ParseInt(token, 10, 64)
		if err != nil || n < 0 {
			return nil, toStatus(errPageToken)
		}
		before = n
	}
	found, more := r.decisions.list(before, cmp.Or(int(q.GetPageSize()), defaultDecisions), func(d *forward.Decision) bool {
		return d.Total >= q.GetMinTotal().AsDuration() && (q.GetDropId() == "" || d.Drop == q.GetDropId()) &&
			(!q.GetFailedOnly() || d.Refused()) && (q.GetRegion() == "" || d.Asked(q.GetRegion()))
	})
	answer := &routerv1.ListDecisionsResponse{}
	for _, d := range found {
		answer.Decisions = append(answer.Decisions, decisionProto(r.config.Name, d))
	}
	if more > 0 {
		answer.NextPageToken = strconv.FormatInt(more, 10)
	}
	return answer, nil
}

// setMode asks one node and answers its status, or UPSTREAM_UNREACHABLE.
func (r *Router) setMode(ctx context.Context, key string, q *routerv1.SetRegionModeRequest) error {
	conn := r.nodes.get(key)
	if conn == nil {
		return unreachable(q.GetRegion())
	}
	answer, err := regionv1.NewRegionServiceClient(conn).SetMode(ctx, &regionv1.SetModeRequest{
		Mode: q.GetMode(), Reason: q.GetReason(), RequestId: q.GetRequestId(), ExpireAfter: q.GetExpireAfter(),
	})
	switch {
	case err == nil:
		r.table.SetMode(key, measure.ModeOf(answer.GetMode()))
		return nil
	case rpcerr.Reason(err) != errorsv1.Reason_REASON_UNSPECIFIED:
		return err
	case ctx.Err() != nil:
		return toStatus(ctx.Err())
	default:
		return unreachable(q.GetRegion())
	}
}

func unreachable(region string) error {
	return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE,
		"A node of the region could not be reached; repeat the call with the same request_id.", rpcerr.Meta("region", region))
}

// toStatus gives what an admin method finds wrong its code and reason.
func toStatus(err error, options ...rpcerr.Option) error {
	code, reason := codes.Internal, errorsv1.Reason_REASON_INTERNAL
	switch {
	case errors.Is(err, errPageToken):
		code, reason = codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST
		options = append(options, rpcerr.Violation("page_token", err.Error()))
	case errors.Is(err, errRegionNotFound):
		code, reason = codes.NotFound, errorsv1.Reason_REASON_REGION_NOT_FOUND
	case errors.Is(err, errDecisionNotFound), errors.Is(err, errNoChoice):
		code, reason = codes.NotFound, errorsv1.Reason_REASON_DECISION_NOT_FOUND
	case errors.Is(err, errLastRegion):
		code, reason = codes.FailedPrecondition, errorsv1.Reason_REASON_LAST_REGION
	case errors.Is(err, errPeerSilent):
		code, reason = codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE
	case errors.Is(err, errNotAudited):
		code, reason = codes.Unavailable, errorsv1.Reason_REASON_STORE_UNAVAILABLE
	case errors.Is(err, errDrillsOff):
		code, reason = codes.FailedPrecondition, errorsv1.Reason_REASON_DRILLS_OFF
	case errors.Is(err, ErrFaultNotPossible):
		code, reason = codes.FailedPrecondition, errorsv1.Reason_REASON_FAULT_NOT_POSSIBLE
	case errors.Is(err, errStopping):
		code, reason = codes.Unavailable, errorsv1.Reason_REASON_DRAINING
	case errors.Is(err, context.Canceled):
		code, reason = codes.Canceled, errorsv1.Reason_REASON_CANCELLED
	case errors.Is(err, context.DeadlineExceeded):
		code, reason = codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED
	}
	return rpcerr.New(code, reason, sentence(err), options...)
}

// sentence is an error's text as a sentence.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// paginate cuts one page out of a list; its token is the place of the next one.
func paginate[T any](all []T, size int32, token string) (page []T, next string, err error) {
	from := 0
	if token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 {
			return nil, "", errPageToken
		}
	}
	from = min(from, len(all))
	to := min(from+cmp.Or(int(max(size, 0)), defaultPage), len(all))
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return all[from:to], next, nil
}

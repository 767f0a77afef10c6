package router

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/audit"
)

const defaultEntries = 100

// audited lets an operator's change happen: written down before, with what came of it after. What cannot be written down
// does not happen.
func audited(ctx context.Context, r *Router, e audit.Entry, change func(context.Context) (after string, err error)) error {
	now := r.deps.Now()
	e.ID, e.Time, e.Router, e.Role = ids.NewV7(now, r.deps.Random), now, r.config.Name, string(auth.FromContext(ctx))
	if err := r.deps.Audit.Begin(e); err != nil {
		r.deps.Log.Error("a change was refused: it could not be audited", "error", err)
		return toStatus(errNotAudited)
	}
	after, err := change(ctx)
	problem := ""
	if err != nil {
		problem = cmp.Or(rpcerr.Info(err).GetReason(), "unknown")
	}
	if aerr := r.deps.Audit.End(e, after, problem); aerr != nil {
		r.deps.Log.Error("a change's end could not be audited", "entry", e.ID, "error", aerr)
	}
	return err
}

// onBehalf passes the caller's token on: the nodes and peers check it again.
func onBehalf(ctx context.Context) context.Context {
	if bearer := metadata.ValueFromIncomingContext(ctx, "authorization"); len(bearer) > 0 {
		return metadata.AppendToOutgoingContext(ctx, "authorization", bearer[0])
	}
	return ctx
}

// SetRegionMode implements rimlight.router.v1.RouterAdminService. The nodes check the caller's token again.
func (r *Router) SetRegionMode(ctx context.Context, q *routerv1.SetRegionModeRequest) (*routerv1.SetRegionModeResponse, error) {
	keys, othersServe := r.nodesOf(q.GetRegion())
	if len(keys) == 0 {
		return nil, toStatus(errRegionNotFound, rpcerr.Meta("region", q.GetRegion()))
	}
	last := q.GetMode() != regionv1.RegionMode_REGION_MODE_SERVING && !othersServe
	if q.GetDryRun() {
		answer := r.predict(ctx, q)
		answer.Regions, answer.LastRegion = r.statusesOf(q.GetRegion()), last
		return answer, nil
	}
	if last && !q.GetForce() {
		return nil, toStatus(errLastRegion, rpcerr.Meta("region", q.GetRegion()))
	}
	entry := audit.Entry{
		Method: routerv1.RouterAdminService_SetRegionMode_FullMethodName, Target: q.GetRegion(), Reason: q.GetReason(),
		Before: modesOf(r.statusesOf(q.GetRegion())), Asked: asked(q),
	}
	err := audited(ctx, r, entry, func(ctx context.Context) (string, error) {
		err := r.setModes(ctx, keys, q)
		return modesOf(r.statusesOf(q.GetRegion())), err
	})
	if err != nil {
		return nil, err
	}
	return &routerv1.SetRegionModeResponse{Regions: r.statusesOf(q.GetRegion())}, nil
}

// setModes asks all of a region's nodes.
func (r *Router) setModes(ctx context.Context, keys []string, q *routerv1.SetRegionModeRequest) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, setModeTimeout)
		defer cancel()
	}
	ctx = onBehalf(ctx)
	errs := make([]error, len(keys))
	var asked sync.WaitGroup
	for i, key := range keys {
		asked.Go(func() { errs[i] = r.setMode(ctx, key, q) })
	}
	asked.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) statusesOf(region string) []*routerv1.RegionStatus {
	return slices.DeleteFunc(r.regions(), func(s *routerv1.RegionStatus) bool { return s.GetName() != region })
}

// modesOf tells the modes of a region's nodes in words.
func modesOf(nodes []*routerv1.RegionStatus) string {
	var all []string
	for _, s := range nodes {
		all = append(all, strings.ToLower(strings.TrimPrefix(s.GetMode().String(), "REGION_MODE_")))
	}
	if one := slices.Compact(slices.Clone(all)); len(one) == 1 {
		return one[0]
	}
	return strings.Join(all, ", ")
}

func asked(q *routerv1.SetRegionModeRequest) string {
	text := strings.ToLower(strings.TrimPrefix(q.GetMode().String(), "REGION_MODE_"))
	if d := q.GetExpireAfter(); d != nil {
		text += " for " + d.AsDuration().String()
	}
	if q.GetForce() {
		text += ", forced"
	}
	return text
}

// defaultBrownout is how much longer a browned-out call takes: more than any objective allows.
const defaultBrownout = 500 * time.Millisecond

// InjectFault implements rimlight.router.v1.RouterAdminService.
func (r *Router) InjectFault(ctx context.Context, q *routerv1.InjectFaultRequest) (*routerv1.InjectFaultResponse, error) {
	if !r.config.Drills {
		return nil, toStatus(errDrillsOff)
	}
	keys, _ := r.nodesOf(q.GetRegion())
	if len(keys) == 0 {
		return nil, toStatus(errRegionNotFound, rpcerr.Meta("region", q.GetRegion()))
	}
	kind := strings.ToLower(strings.TrimPrefix(q.GetKind().String(), "FAULT_KIND_"))
	entry := audit.Entry{
		Method: routerv1.RouterAdminService_InjectFault_FullMethodName, Target: q.GetRegion(), Reason: q.GetReason(),
		Before: faultsOf(r.faults(q.GetRegion())), Asked: fmt.Sprintf("%s for %v", kind, q.GetDuration().AsDuration()),
	}
	var faults []*regionv1.Fault
	err := audited(ctx, r, entry, func(ctx context.Context) (string, error) {
		var err error
		if faults, err = r.inject(ctx, keys, q); err != nil {
			return "", err
		}
		return faultsOf(faults), nil
	})
	if err != nil {
		return nil, err
	}
	return &routerv1.InjectFaultResponse{Faults: faults}, nil
}

// inject breaks a region: its nodes can slow themselves down and fail calls; the rest is whoever runs the platform's.
func (r *Router) inject(ctx context.Context, keys []string, q *routerv1.InjectFaultRequest) ([]*regionv1.Fault, error) {
	during := q.GetDuration().AsDuration()
	var err error
	switch q.GetKind() {
	case regionv1.FaultKind_FAULT_KIND_PARTITION, regionv1.FaultKind_FAULT_KIND_KILL:
		if r.deps.Saboteur == nil {
			return nil, toStatus(ErrFaultNotPossible)
		}
		if q.GetKind() == regionv1.FaultKind_FAULT_KIND_KILL {
			err = r.deps.Saboteur.Kill(q.GetRegion(), during)
		} else {
			err = r.deps.Saboteur.Partition(q.GetRegion(), during)
		}
		if err != nil {
			return nil, toStatus(err)
		}
		return r.faults(q.GetRegion()), nil
	default:
		return r.injectNodes(ctx, keys, q)
	}
}

func (r *Router) injectNodes(ctx context.Context, keys []string, q *routerv1.InjectFaultRequest) ([]*regionv1.Fault, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, setModeTimeout)
		defer cancel()
	}
	ctx = onBehalf(ctx)
	request := &regionv1.SetFaultRequest{Kind: q.GetKind(), Duration: q.GetDuration()}
	switch q.GetKind() {
	case regionv1.FaultKind_FAULT_KIND_BROWNOUT:
		request.AddedTime = durationpb.New(defaultBrownout)
		if q.GetAddedTime() != nil {
			request.AddedTime = q.GetAddedTime()
		}
	default:
		request.ErrorShare = cmp.Or(q.GetErrorShare(), 1)
	}
	var faults []*regionv1.Fault
	for _, key := range keys {
		conn := r.nodes.get(key)
		if conn == nil {
			return nil, unreachable(q.GetRegion())
		}
		answer, err := regionv1.NewRegionServiceClient(conn).SetFault(ctx, request)
		switch {
		case err == nil:
			faults = answer.GetFaults()
		case rpcerr.Reason(err) != errorsv1.Reason_REASON_UNSPECIFIED:
			return nil, err
		case ctx.Err() != nil:
			return nil, toStatus(ctx.Err())
		default:
			return nil, unreachable(q.GetRegion())
		}
	}
	return append(faults, r.sabotage(q.GetRegion())...), nil
}

// faults is what is injected in a region, as far as it is known here.
func (r *Router) faults(region string) []*regionv1.Fault {
	var all []*regionv1.Fault
	for _, s := range r.table.States() {
		if s.Target.Region == region && len(all) == 0 { // its nodes have the same
			all = append(all, r.live(s.Answer.GetFaults())...)
		}
	}
	return append(all, r.sabotage(region)...)
}

func (r *Router) sabotage(region string) []*regionv1.Fault {
	if r.deps.Saboteur == nil {
		return nil
	}
	return r.deps.Saboteur.Active(region)
}

// live leaves out what has healed since a node told of it.
func (r *Router) live(faults []*regionv1.Fault) []*regionv1.Fault {
	return slices.DeleteFunc(slices.Clone(faults), func(f *regionv1.Fault) bool { return !r.deps.Now().Before(f.GetExpireTime().AsTime()) })
}

func faultsOf(faults []*regionv1.Fault) string {
	var all []string
	for _, f := range faults {
		all = append(all, strings.ToLower(strings.TrimPrefix(f.GetKind().String(), "FAULT_KIND_")))
	}
	return cmp.Or(strings.Join(all, ", "), "healthy")
}

// ListAuditEntries implements rimlight.router.v1.RouterAdminService.
func (r *Router) ListAuditEntries(ctx context.Context, q *routerv1.ListAuditEntriesRequest) (*routerv1.ListAuditEntriesResponse, error) {
	var all []*routerv1.AuditEntry
	for _, e := range r.deps.Audit.List() {
		all = append(all, &routerv1.AuditEntry{
			EntryId: e.ID, Time: timestamppb.New(e.Time), Router: e.Router, Role: e.Role, Method: e.Method, Target: e.Target, Reason: e.Reason,
			Before: e.Before, Asked: e.Asked, After: e.After, Problem: e.Problem,
		})
	}
	answer := &routerv1.ListAuditEntriesResponse{}
	if !q.GetLocalOnly() {
		views, silent := askPeers(onBehalf(ctx), r, func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.ListAuditEntriesResponse, error) {
			return c.ListAuditEntries(ctx, &routerv1.ListAuditEntriesRequest{LocalOnly: true, PageSize: defaultPage})
		})
		for _, v := range views {
			all = append(all, v.GetEntries()...)
		}
		answer.SilentRouters = silent
	}
	slices.SortStableFunc(all, func(a, b *routerv1.AuditEntry) int {
		return cmp.Or(b.GetTime().AsTime().Compare(a.GetTime().AsTime()), strings.Compare(b.GetEntryId(), a.GetEntryId()))
	})
	page, next, err := paginate(all, cmp.Or(q.GetPageSize(), defaultEntries), q.GetPageToken())
	if err != nil {
		return nil, toStatus(err)
	}
	answer.Entries, answer.NextPageToken = page, next
	return answer, nil
}

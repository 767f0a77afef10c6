package router

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

const (
	// mostReplayed bounds how many decisions a prediction plays again: enough for a share to within a few percent.
	mostReplayed = 500
	// predictedFrom is how far back they reach: as far as the shares that they are compared with.
	predictedFrom = shareBuckets * shareWidth
)

// predict plays the fleet's decisions of the last minute again, with the region in the wanted mode. Each router plays its
// own, and speaks for as many calls as it had.
func (r *Router) predict(ctx context.Context, q *routerv1.SetRegionModeRequest) *routerv1.SetRegionModeResponse {
	own := r.replayed(q.GetRegion(), measure.ModeOf(q.GetMode()))
	if len(metadata.ValueFromIncomingContext(ctx, localOnly)) > 0 {
		return own
	}
	views, silent := askPeers(metadata.AppendToOutgoingContext(onBehalf(ctx), localOnly, "1"), r,
		func(ctx context.Context, c routerv1.RouterAdminServiceClient) (*routerv1.SetRegionModeResponse, error) {
			return c.SetRegionMode(ctx, &routerv1.SetRegionModeRequest{
				RequestId: q.GetRequestId(), Region: q.GetRegion(), Mode: q.GetMode(), DryRun: true,
			})
		})
	before, after := map[string]float64{}, map[string]float64{} // calls, by region
	fleet := &routerv1.SetRegionModeResponse{SilentRouters: silent}
	for _, v := range append(views, own) {
		fleet.PredictedFromCalls += v.GetPredictedFromCalls()
		fleet.UnservedCalls += v.GetUnservedCalls()
		for _, p := range v.GetPredictions() {
			before[p.GetRegion()] += p.GetShare() * float64(v.GetPredictedFromCalls())
			after[p.GetRegion()] += p.GetPredictedShare() * float64(v.GetPredictedFromCalls())
		}
	}
	fleet.Predictions = r.predictions(before, after, float64(fleet.GetPredictedFromCalls()))
	return fleet
}

// replayed is the prediction of this router's own calls.
func (r *Router) replayed(region string, mode arbiter.Mode) *routerv1.SetRegionModeResponse {
	since := r.deps.Now().Add(-predictedFrom)
	recent, _ := r.decisions.list(-1, mostReplayed, func(d *forward.Decision) bool { return d.Time.After(since) && len(d.Attempts) > 0 })
	before, after := map[string]float64{}, map[string]float64{}
	unserved := 0
	for _, d := range recent {
		first := d.Attempts[0]
		if g := first.Choice.Region; g != nil {
			before[g.Name]++
		}
		if g := arbiter.Pick(inMode(first.Snapshot, region, mode), first.Request, first.Draw).Region; g != nil {
			after[g.Name]++
		} else {
			unserved++
		}
	}
	calls := r.decisions.lastMinute()
	answer := &routerv1.SetRegionModeResponse{
		PredictedFromCalls: int64(calls), Predictions: r.predictions(before, after, float64(len(recent))),
	}
	if len(recent) > 0 {
		answer.UnservedCalls = int64(unserved * calls / len(recent))
	}
	return answer
}

// predictions turns calls of a minute into shares and utilisations. What a region carries now is its nodes' own word; the
// calls that it would win or lose change that.
func (r *Router) predictions(before, after map[string]float64, calls float64) []*routerv1.LoadPrediction {
	capacity, arrivals := map[string]float64{}, map[string]float64{} // calls per second
	for _, g := range r.table.Snapshot().Regions {
		capacity[g.Name] += 0
		if g.Service > 0 {
			capacity[g.Name] += float64(g.Parallelism) / g.Service.Seconds()
			arrivals[g.Name] += g.Arrivals
		}
	}
	var list []*routerv1.LoadPrediction
	for _, name := range slices.SortedFunc(maps.Keys(capacity), strings.Compare) {
		p := &routerv1.LoadPrediction{Region: name}
		if calls > 0 {
			p.Share, p.PredictedShare = before[name]/calls, after[name]/calls
		}
		if capacity[name] > 0 {
			moved := (after[name] - before[name]) / predictedFrom.Seconds()
			p.Utilisation = arrivals[name] / capacity[name]
			p.PredictedUtilisation = max(0, arrivals[name]+moved) / capacity[name]
		}
		list = append(list, p)
	}
	return list
}

// inMode is the snapshot with a region's nodes in a mode.
func inMode(s *arbiter.Snapshot, region string, mode arbiter.Mode) *arbiter.Snapshot {
	changed := *s
	changed.Regions = slices.Clone(s.Regions)
	for i, g := range changed.Regions {
		if g.Name == region {
			row := *g
			row.Mode = mode
			changed.Regions[i] = &row
		}
	}
	return &changed
}

// Saboteur breaks what a node cannot break by itself, for drills.
type Saboteur interface {
	// Partition cuts a region off for a while. ErrFaultNotPossible: not on this platform.
	Partition(region string, during time.Duration) error
	// Kill kills a region's nodes and keeps them away for a while. ErrFaultNotPossible: they have no process of their own.
	Kill(region string, during time.Duration) error
	// Active lists what is broken now.
	Active(region string) []*regionv1.Fault
}

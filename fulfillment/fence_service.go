package fulfillment

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// fenceServer is FenceService.
type fenceServer struct {
	*Service
	fulfillmentv1.UnimplementedFenceServiceServer
}

func (s *fenceServer) FenceNode(ctx context.Context, req *fulfillmentv1.FenceNodeRequest) (*fulfillmentv1.FenceNodeResponse, error) {
	res, err := s.fenceNode(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *fenceServer) fenceNode(ctx context.Context, req *fulfillmentv1.FenceNodeRequest) (*fulfillmentv1.FenceNodeResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	fence := store.Fence{Role: string(auth.FromContext(ctx)), Request: req}
	var err error
	if fence.NodeID, err = parseID("node_id", req.GetNodeId()); err != nil {
		return nil, err
	}
	if req.GetDropId() != "" {
		drop, err := parseID("drop_id", req.GetDropId())
		if err != nil {
			return nil, err
		}
		fence.DropID = &drop
	}
	now := s.now()
	var met store.Fenced
	if req.GetDryRun() {
		met, err = s.store.RehearseFence(ctx, fence, now)
	} else {
		met, err = s.store.Fence(ctx, fence, now)
	}
	if err != nil {
		return nil, err
	}
	if !req.GetDryRun() {
		s.metrics.quarantined.Add(float64(len(met.Leases)))
		s.log.WarnContext(ctx, "a node was fenced", "node_id", req.GetNodeId(), "region", met.Region, "drop_id", req.GetDropId(),
			"epoch", met.Epoch, "leases", len(met.Leases), "reason", req.GetReason(), "role", fence.Role)
	}
	return s.fenced(met, fence.DropID == nil, now), nil
}

// fenced says what a fence meets. In a rehearsal the leases are not quarantined yet: they would be now.
func (s *fenceServer) fenced(met store.Fenced, everything bool, now time.Time) *fulfillmentv1.FenceNodeResponse {
	res := &fulfillmentv1.FenceNodeResponse{
		Region: met.Region, SeenTime: timestamppb.New(met.Seen), Epoch: met.Epoch, Leases: uint32(len(met.Leases)),
	}
	var end time.Time
	for _, l := range met.Leases {
		res.Units += l.Units
		if l.Since.UnixMicro() == 0 {
			l.Since = now
		}
		if e := s.claims.end(l); e.After(end) {
			end = e
		}
	}
	say := func(format string, args ...any) {
		res.Consequences = append(res.Consequences, fmt.Sprintf(format, args...))
	}
	if everything {
		say("The node gets no stock of any drop until it comes back with an empty data directory.")
	} else {
		say("The node gets no stock of this drop any more.")
	}
	if res.Leases == 0 {
		say("It holds nothing now.")
		return res
	}
	res.ClaimsEndTime = timestamppb.New(end)
	if met.Alive {
		say("It sells on until its next heartbeat, within %v; then it gives back what it has not sold, and the rest settles.", idleHeartbeat)
	} else {
		say("It was last heard of at %v. If it lives, it sells until it hears of this or the drop is over.", met.Seen.UTC().Format(time.RFC3339))
	}
	say("What does not come back by itself is out of sale until %v: so long receipts for it are waited for.", end.UTC().Format(time.RFC3339))
	return res
}

func (s *stockServer) RetireNode(ctx context.Context, req *fulfillmentv1.RetireNodeRequest) (*fulfillmentv1.RetireNodeResponse, error) {
	res, err := s.retireNode(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) retireNode(ctx context.Context, req *fulfillmentv1.RetireNodeRequest) (*fulfillmentv1.RetireNodeResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	node, err := parseID("node_id", req.GetNodeId())
	if err != nil {
		return nil, err
	}
	leases, err := s.store.Retire(ctx, store.Caller{NodeID: node, Epoch: req.GetEpoch(), BootID: req.GetBootId()}, s.now())
	if err != nil {
		return nil, err
	}
	s.metrics.quarantined.Add(float64(leases))
	s.log.InfoContext(ctx, "a node retired", "node_id", req.GetNodeId(), "epoch", req.GetEpoch(), "leases", leases)
	return &fulfillmentv1.RetireNodeResponse{Leases: uint32(leases)}, nil
}

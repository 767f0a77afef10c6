package region

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

// Check implements RegionService. It answers in every mode, and asks nobody but the ring and the disk.
func (n *Node) Check(ctx context.Context, _ *regionv1.CheckRequest) (*regionv1.CheckResponse, error) {
	answer := &regionv1.CheckResponse{Version: n.deps.Version, ReceiveTime: timestamppb.New(n.deps.Now())}
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	if n.deps.Paths != nil {
		answer.Paths = n.deps.Paths(ctx)
	}
	if n.deps.Disk != nil {
		h, err := n.deps.Disk()
		if err != nil {
			return nil, n.toStatus(err)
		}
		answer.Disk = &regionv1.DiskHealth{Syncs: uint32(h.Syncs), FreeBytes: h.FreeBytes, TotalBytes: h.AllBytes}
		if h.Syncs > 0 {
			answer.Disk.SyncP99 = durationpb.New(h.SyncP99)
		}
	}
	answer.AnswerTime = timestamppb.New(n.deps.Now())
	return answer, nil
}

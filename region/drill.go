package region

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

// drill breaks viewers' calls on purpose, where the node was started for that. Nothing of it is durable: a restart heals.
type drill struct {
	now  func() time.Time
	draw func() float64

	mu     sync.Mutex
	faults map[regionv1.FaultKind]*regionv1.Fault // replaced, never changed
}

func newDrill(now func() time.Time, draw func() float64) *drill {
	return &drill{now: now, draw: draw, faults: map[regionv1.FaultKind]*regionv1.Fault{}}
}

// set injects a fault for a while, in place of one of the same kind; 0 heals it.
func (d *drill) set(r *regionv1.SetFaultRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.faults, r.GetKind())
	if during := r.GetDuration().AsDuration(); during > 0 {
		d.faults[r.GetKind()] = &regionv1.Fault{
			Kind: r.GetKind(), ExpireTime: timestamppb.New(d.now().Add(during)), AddedTime: r.GetAddedTime(), ErrorShare: r.GetErrorShare(),
		}
	}
}

// active lists what is injected now, by kind.
func (d *drill) active() []*regionv1.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []*regionv1.Fault
	for kind, f := range d.faults {
		if !d.now().Before(f.GetExpireTime().AsTime()) {
			delete(d.faults, kind)
			continue
		}
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *regionv1.Fault) int { return cmp.Compare(a.GetKind(), b.GetKind()) })
	return list
}

// strike lets the faults happen to one viewer's call, before its handler runs. An error is the call's end.
func (d *drill) strike(ctx context.Context) error {
	for _, f := range d.active() {
		switch f.GetKind() {
		case regionv1.FaultKind_FAULT_KIND_BROWNOUT:
			slow := time.NewTimer(f.GetAddedTime().AsDuration())
			defer slow.Stop()
			select {
			case <-slow.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		case regionv1.FaultKind_FAULT_KIND_ERRORS:
			if d.draw() < f.GetErrorShare() {
				return refuse(errorsv1.Reason_REASON_STORE_UNAVAILABLE, "a drill lets this call fail")
			}
		}
	}
	return nil
}

// SetFault implements RegionService.
func (n *Node) SetFault(_ context.Context, r *regionv1.SetFaultRequest) (*regionv1.SetFaultResponse, error) {
	if !n.cfg.Drills {
		return nil, n.toStatus(refuse(errorsv1.Reason_REASON_DRILLS_OFF, "the node was not started with --drills"))
	}
	n.drill.set(r)
	n.log.Warn("a drill's fault is set", "kind", r.GetKind().String(), "duration_s", r.GetDuration().AsDuration().Seconds(),
		"added_ms", r.GetAddedTime().AsDuration().Milliseconds(), "error_share", r.GetErrorShare())
	return &regionv1.SetFaultResponse{Faults: n.drill.active()}, nil
}

package region

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
)

// mostStock is how many drops a probe's answer lists.
const mostStock = 64

// Probe implements RegionService. A node that does not serve answers no probe, so no router chooses it.
func (n *Node) Probe(_ context.Context, _ *regionv1.ProbeRequest) (*regionv1.ProbeResponse, error) {
	begin := time.Now()
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	if n.epoch() == 0 {
		return nil, n.toStatus(errDraining())
	}
	return &regionv1.ProbeResponse{
		NodeId: n.deps.Identity.NodeID, Region: n.cfg.Region, Zones: n.cfg.Zones, Mode: n.Mode(), Stock: n.stock(),
		JournalLag: int64(n.till.lag()), CatalogRevision: n.CatalogRevision(), Version: n.deps.Version,
		NodeTime: timestamppb.New(n.deps.Now()), Load: n.load.report(time.Now(), time.Since(begin)),
	}, nil
}

// stock lists live drops: those that sell first, then those that open soonest.
func (n *Node) stock() []*regionv1.DropStock {
	now := n.deps.Now()
	urgency := map[dropclock.State]int{dropclock.Open: 0, dropclock.Paused: 1, dropclock.Draining: 2, dropclock.Armed: 3}
	drops := slices.DeleteFunc(n.catalogue.Load().sorted(), func(d *knownDrop) bool {
		_, live := urgency[d.terms.State(now)]
		return !live
	})
	slices.SortStableFunc(drops, func(a, b *knownDrop) int {
		return cmp.Compare(urgency[a.terms.State(now)], urgency[b.terms.State(now)])
	})
	n.till.mu.Lock()
	defer n.till.mu.Unlock()
	var out []*regionv1.DropStock
	for _, d := range drops[:min(len(drops), mostStock)] {
		out = append(out, &regionv1.DropStock{
			DropId: d.id, Untouched: uint32(n.till.book.Untouched(d.id)), SoldOut: n.till.soldOut(d.id),
		})
	}
	return out
}

// SetMode implements RegionService.
func (n *Node) SetMode(ctx context.Context, r *regionv1.SetModeRequest) (*regionv1.SetModeResponse, error) {
	if !n.gate.enter() {
		return nil, n.toStatus(errDraining())
	}
	defer n.gate.leave()
	switch r.GetMode() {
	case regionv1.RegionMode_REGION_MODE_SERVING, regionv1.RegionMode_REGION_MODE_CORDONED, regionv1.RegionMode_REGION_MODE_DRAINED:
	default:
		return nil, n.toStatus(invalid("mode", "must be SERVING, CORDONED or DRAINED"))
	}
	previous, err := n.setMode(ctx, r.GetMode(), r.GetReason())
	if err != nil {
		return nil, n.toStatus(err)
	}
	return &regionv1.SetModeResponse{PreviousMode: previous, Mode: r.GetMode()}, nil
}

// setMode makes a mode durable and then lets it count; one change at a time.
func (n *Node) setMode(ctx context.Context, mode regionv1.RegionMode, reason string) (previous regionv1.RegionMode, err error) {
	select {
	case n.modeTurn <- struct{}{}:
		defer func() { <-n.modeTurn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	previous = n.Mode()
	if previous == mode {
		return previous, nil
	}
	err = n.append(ctx, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_ModeChanged{ModeChanged: &regionv1.ModeChanged{
		Mode: mode, Reason: reason, ChangeTime: timestamppb.New(n.deps.Now()),
	}}})
	if err != nil {
		return 0, fmt.Errorf("journaling the mode: %w", err)
	}
	n.mode.Store(int32(mode))
	n.log.Info("mode changed", "from", previous.String(), "to", mode.String(), "reason", reason)
	poke(n.pokeStock)
	if n.deps.OnModeChange != nil {
		n.deps.OnModeChange(mode)
	}
	return previous, nil
}

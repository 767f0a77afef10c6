package region

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/region/journal"
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
	drained := n.drained()
	return &regionv1.ProbeResponse{
		NodeId: n.deps.Identity.NodeID, Region: n.cfg.Region, Zones: n.cfg.Zones, Mode: n.Mode(), Stock: n.stock(),
		JournalLag: int64(n.till.lag()), CatalogRevision: n.CatalogRevision(), Version: n.deps.Version,
		NodeTime: timestamppb.New(n.deps.Now()), ModeExpireTime: n.modeExpireTime(), Faults: n.drill.active(), Load: n.load.report(time.Now(), time.Since(begin)),
		Drained: drained, OffersPerSecond: n.offers.perSecond(time.Now()),
		JournalFull: n.room.full.Load(),
	}, nil
}

// drained tells whether the node may be turned off without anybody missing anything. The calls inside are looked at first:
// one that leaves meanwhile has left its entry in the journal, which is looked at last.
func (n *Node) drained() bool {
	turn := n.woundDown.Load()
	return turn != 0 && turn == n.modeTurns.Load() && !n.load.busy() && n.till.empty() && n.till.lag() == 0
}

// stock lists live drops: those that sell first, then those that open soonest.
func (n *Node) stock() []*regionv1.DropStock {
	now := n.deps.Now()
	urgency := map[dropclock.State]int{dropclock.Open: 0, dropclock.Paused: 1, dropclock.Draining: 2, dropclock.Armed: 3}
	drops := slices.DeleteFunc(n.catalogue.Load().sorted(), func(d *knownDrop) bool {
		_, live := urgency[n.terms(d).State(now)]
		return !live
	})
	slices.SortStableFunc(drops, func(a, b *knownDrop) int {
		return cmp.Compare(urgency[n.terms(a).State(now)], urgency[n.terms(b).State(now)])
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
	previous, err := n.setMode(ctx, r.GetMode(), r.GetReason(), r.GetExpireAfter().AsDuration())
	if err != nil {
		return nil, n.toStatus(err)
	}
	return &regionv1.SetModeResponse{PreviousMode: previous, Mode: r.GetMode()}, nil
}

// modeEnd is when a mode goes back by itself, and to which.
type modeEnd struct {
	at   time.Time
	then regionv1.RegionMode
}

// setMode makes a mode durable and then lets it count; one change at a time. With an expiry, the mode before comes back
// after it: the last one that was to stay.
func (n *Node) setMode(ctx context.Context, mode regionv1.RegionMode, reason string, expireAfter time.Duration) (previous regionv1.RegionMode, err error) {
	select {
	case n.modeTurn <- struct{}{}:
		defer func() { <-n.modeTurn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return n.changeMode(ctx, mode, reason, expireAfter)
}

// changeMode is setMode for whoever has the turn.
func (n *Node) changeMode(ctx context.Context, mode regionv1.RegionMode, reason string, expireAfter time.Duration) (previous regionv1.RegionMode, err error) {
	previous = n.Mode()
	pending := n.modeEnds.Load()
	var end *modeEnd
	if expireAfter > 0 {
		end = &modeEnd{at: n.deps.Now().Add(expireAfter), then: previous}
		if pending != nil {
			end.then = pending.then
		}
	}
	if previous == mode && pending == nil && end == nil {
		return previous, nil
	}
	change := &regionv1.ModeChanged{Mode: mode, Reason: reason, ChangeTime: timestamppb.New(n.deps.Now())}
	if end != nil {
		change.ExpireTime, change.ThenMode = timestamppb.New(end.at), end.then
	}
	err = n.append(ctx, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_ModeChanged{ModeChanged: change}})
	if err != nil {
		return 0, fmt.Errorf("journaling the mode: %w", err)
	}
	n.takeMode(change)
	n.log.Info("mode changed", "from", previous.String(), "to", mode.String(), "reason", reason, "expires_in_s", expireAfter.Seconds())
	poke(n.pokeStock)
	poke(n.pokeMode)
	if n.deps.OnModeChange != nil {
		n.deps.OnModeChange(mode)
	}
	return previous, nil
}

// takeMode lets a journaled mode count.
func (n *Node) takeMode(change *regionv1.ModeChanged) {
	n.modeTurns.Add(1)
	n.mode.Store(int32(change.GetMode()))
	n.modeEnds.Store(nil)
	if t := change.GetExpireTime(); t != nil {
		n.modeEnds.Store(&modeEnd{at: t.AsTime(), then: change.GetThenMode()})
	}
}

func (n *Node) modeExpireTime() *timestamppb.Timestamp {
	if end := n.modeEnds.Load(); end != nil {
		return timestamppb.New(end.at)
	}
	return nil
}

// keepMode brings the mode before back when the time of the current one is over.
func (n *Node) keepMode(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		end := n.modeEnds.Load()
		timer.Stop()
		if end != nil {
			timer.Reset(max(0, end.at.Sub(n.deps.Now())))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.pokeMode:
			continue
		case <-timer.C:
		}
		if end == nil {
			continue
		}
		err := n.endMode(ctx, end)
		if errors.Is(err, journal.ErrNoSpace) { // it can wait for room: the node takes nothing meanwhile
			select {
			case <-time.After(lookForRoom):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil && ctx.Err() == nil { // stopped: the journal still says when it ends
			return fmt.Errorf("bringing the mode before back: %w", err)
		}
	}
}

// endMode brings the mode before back if it is time, and nobody set another one meanwhile.
func (n *Node) endMode(ctx context.Context, end *modeEnd) error {
	select {
	case n.modeTurn <- struct{}{}:
		defer func() { <-n.modeTurn }()
	case <-ctx.Done():
		return nil
	}
	if n.modeEnds.Load() != end || n.deps.Now().Before(end.at) {
		return nil
	}
	_, err := n.changeMode(ctx, end.then, "the time of the mode before is over", 0)
	return err
}

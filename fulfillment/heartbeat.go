package fulfillment

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rimlight/rimlight/fulfillment/stock"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
)

// Heartbeats come every second while anything may be sold: a starving node waits for two of them, its own and a rich
// node's, so at double the pace of a 90 s drop's last sales are still served. Otherwise they only carry keys.
const (
	liveHeartbeat = time.Second
	idleHeartbeat = 5 * time.Second
)

// maxMissing bounds the leases that one heartbeat brings back; the next brings more.
const maxMissing = 100

func (s *stockServer) Heartbeat(ctx context.Context, req *fulfillmentv1.HeartbeatRequest) (*fulfillmentv1.HeartbeatResponse, error) {
	res, err := s.heartbeat(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) heartbeat(ctx context.Context, req *fulfillmentv1.HeartbeatRequest) (*fulfillmentv1.HeartbeatResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	b, err := parseBeat(req)
	if err != nil {
		return nil, err
	}
	pulse, err := s.store.Seen(ctx, b.caller, s.now())
	if err != nil {
		return nil, err
	}
	if err := s.store.CountOffers(ctx, b.caller, b.offers); err != nil {
		return nil, err
	}
	var fences store.Fences
	if pulse.AnyFence {
		if fences, err = s.store.Fences(ctx, b.caller); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(b.report.hungry, func(drop store.ID, _ bool) bool { return fences.Bar(drop) }) // nobody gives back for it
	s.board.report(b.caller.NodeID, b.report)

	res := &fulfillmentv1.HeartbeatResponse{Epoch: b.caller.Epoch, NextIn: durationpb.New(idleHeartbeat)}
	if pulse.AnyLive {
		res.NextIn = durationpb.New(liveHeartbeat)
	}
	if res.Missing, err = s.store.ActiveLeases(ctx, b.caller, b.known, maxMissing); err != nil {
		return nil, err
	}
	if pulse.AnyAside && len(b.sellable) > 0 {
		aside, err := s.store.PutAside(ctx, b.caller)
		if err != nil {
			return nil, err
		}
		for _, lease := range b.sellable {
			if aside[lease] {
				res.FencedLeaseIds = append(res.FencedLeaseIds, lease.String())
			}
		}
	}
	for _, drop := range b.drops {
		if err := s.advise(ctx, res, b.caller.NodeID, drop, b.report.untouched[drop], fences.Bar(drop)); err != nil {
			return nil, err
		}
	}
	if pulse.Keys > int64(req.GetKnownKeys()) {
		if res.Keys, err = s.keys(ctx); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// beat is what a heartbeat says.
type beat struct {
	caller   store.Caller
	report   nodeReport
	drops    []store.ID        // every one once, in the node's order
	known    map[store.ID]bool // the leases that it holds
	sellable []store.ID        // those with something untouched
	offers   map[store.ID]int64
}

func parseBeat(req *fulfillmentv1.HeartbeatRequest) (beat, error) {
	node, err := parseID("node_id", req.GetNodeId())
	if err != nil {
		return beat{}, err
	}
	b := beat{
		caller: store.Caller{NodeID: node, Epoch: req.GetEpoch(), BootID: req.GetBootId()},
		report: nodeReport{at: time.Now(), untouched: map[store.ID]int{}, hungry: map[store.ID]bool{}},
		known:  map[store.ID]bool{}, offers: map[store.ID]int64{},
	}
	for i, h := range req.GetHeld() {
		lease, err := parseID(fmt.Sprintf("held[%d].lease_id", i), h.GetLeaseId())
		if err != nil {
			return beat{}, err
		}
		drop, err := parseID(fmt.Sprintf("held[%d].drop_id", i), h.GetDropId())
		if err != nil {
			return beat{}, err
		}
		b.known[lease] = true
		if h.GetUntouched() > 0 {
			b.sellable = append(b.sellable, lease)
		}
		b.list(drop)
		b.report.untouched[drop] += int(h.GetUntouched())
	}
	for i, text := range req.GetHungryDropIds() {
		drop, err := parseID(fmt.Sprintf("hungry_drop_ids[%d]", i), text)
		if err != nil {
			return beat{}, err
		}
		b.list(drop)
		b.report.hungry[drop] = true
	}
	for i, o := range req.GetOffers() {
		drop, err := parseID(fmt.Sprintf("offers[%d].drop_id", i), o.GetDropId())
		if err != nil {
			return beat{}, err
		}
		b.offers[drop] = max(b.offers[drop], o.GetOffers())
	}
	return b, nil
}

// list notes a drop, before anything is reported of it.
func (b *beat) list(drop store.ID) {
	if _, held := b.report.untouched[drop]; !held && !b.report.hungry[drop] {
		b.drops = append(b.drops, drop)
	}
}

// advise adds what the node should know of one drop: whether anything is free for it, left at all, or wanted by others.
func (s *stockServer) advise(ctx context.Context, res *fulfillmentv1.HeartbeatResponse, node, drop store.ID, untouched int, barred bool) error {
	supply, err := s.store.Supply(ctx, drop)
	if err != nil || !supply.Known {
		return err
	}
	state := supply.State(s.now())
	switch {
	case !supply.AnyFree && !supply.AnyLeased:
		res.SoldOutDropIds = append(res.SoldOutDropIds, drop.String())
	case supply.AnyFree && state.Live() && !barred:
		res.AvailableDropIds = append(res.AvailableDropIds, drop.String())
	}
	recall := 0
	switch {
	case state == dropclock.Closed: // nothing can be sold any more, and a drop settles when nothing is leased
		recall = untouched
	case state.Live() && !supply.AnyFree:
		recall = stock.Recall(node.String(), s.board.of(drop))
	}
	if recall > 0 {
		s.metrics.recalled.Add(float64(recall))
		res.Recalls = append(res.Recalls, &fulfillmentv1.Recall{DropId: drop.String(), Units: uint32(recall)})
	}
	return nil
}

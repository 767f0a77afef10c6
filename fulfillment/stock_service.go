package fulfillment

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rimlight/rimlight/fulfillment/stock"
	"github.com/rimlight/rimlight/fulfillment/store"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
)

// Heartbeats come every second while anything may be sold: a starving node waits for two of them, its own and a rich
// node's, so at double the pace of a 90 s drop's last sales are still served. Otherwise they only carry keys.
const (
	liveHeartbeat = time.Second
	idleHeartbeat = 5 * time.Second
)

const (
	// maxMissing bounds the leases that one heartbeat brings back; the next brings more.
	maxMissing = 100
	// keyPage is what ListNodeKeys answers to page_size 0, and at most.
	keyPage = 1000
)

// stockServer is StockService.
type stockServer struct {
	*Service
	fulfillmentv1.UnimplementedStockServiceServer
}

func (s *stockServer) JoinNode(ctx context.Context, req *fulfillmentv1.JoinNodeRequest) (*fulfillmentv1.JoinNodeResponse, error) {
	res, err := s.joinNode(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) joinNode(ctx context.Context, req *fulfillmentv1.JoinNodeRequest) (*fulfillmentv1.JoinNodeResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	node, err := parseNode(req)
	if err != nil {
		return nil, err
	}
	if _, err := s.ownSigner(ctx); err != nil { // whoever joins hears of its key
		return nil, err
	}
	joined, err := s.store.Join(ctx, node, s.now())
	if err != nil {
		return nil, err
	}
	keys, err := s.keys(ctx)
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "a node joined", "node_id", req.GetNodeId(), "region", req.GetRegion(), "epoch", joined.Epoch)
	if joined.Quarantined > 0 {
		s.metrics.quarantined.Add(float64(joined.Quarantined))
		s.log.WarnContext(ctx, "a node came back with a new disk; the leases of the lost one are quarantined",
			"node_id", req.GetNodeId(), "leases", joined.Quarantined)
	}
	return &fulfillmentv1.JoinNodeResponse{Epoch: joined.Epoch, Keys: keys}, nil
}

func parseNode(req *fulfillmentv1.JoinNodeRequest) (store.Node, error) {
	id, err := parseID("node_id", req.GetNodeId())
	if err != nil {
		return store.Node{}, err
	}
	return store.Node{
		ID: id, DiskID: req.GetDiskId(), Region: req.GetRegion(), Key: req.GetSigningKey(), Life: req.GetLife(), BootID: req.GetBootId(), Epoch: req.GetEpoch(),
	}, checkKey(req)
}

// checkKey refuses a key that no verifier of signatures would take later: its id must be its own, and its owner the node.
func checkKey(req *fulfillmentv1.JoinNodeRequest) error {
	key := req.GetSigningKey()
	if len(key.GetPublicKey()) != ed25519.PublicKeySize {
		return invalid("signing_key.public_key", "An Ed25519 public key has 32 bytes.")
	}
	if sum := sha256.Sum256(key.GetPublicKey()); !bytes.Equal(key.GetKeyId(), sum[:8]) {
		return invalid("signing_key.key_id", "A key's id is the first 8 bytes of SHA-256 of the public key.")
	}
	if key.GetOwner() != offerv1.KeyOwner_KEY_OWNER_NODE || key.GetNodeId() != req.GetNodeId() {
		return invalid("signing_key.node_id", "A node joins with a key that names it as the owner.")
	}
	return nil
}

func (s *stockServer) GrantLease(ctx context.Context, req *fulfillmentv1.GrantLeaseRequest) (*fulfillmentv1.GrantLeaseResponse, error) {
	res, err := s.grantLease(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) grantLease(ctx context.Context, req *fulfillmentv1.GrantLeaseRequest) (*fulfillmentv1.GrantLeaseResponse, error) {
	if err := s.ready(ctx); err != nil && !mutant.On(mutant.GrantRecovering) {
		return nil, err
	}
	ask := store.GrantRequest{Epoch: req.GetEpoch(), BootID: req.GetBootId(), Wanted: int(req.GetWantedUnits())}
	var err error
	if ask.RequestID, err = parseID("request_id", req.GetRequestId()); err != nil {
		return nil, err
	}
	if ask.NodeID, err = parseID("node_id", req.GetNodeId()); err != nil {
		return nil, err
	}
	if ask.DropID, err = parseID("drop_id", req.GetDropId()); err != nil {
		return nil, err
	}
	now := s.now()
	lease, err := store.ParseID(ids.NewV7(now, s.random))
	if err != nil {
		return nil, err
	}
	g, err := s.store.Grant(ctx, ask, lease, now)
	if err != nil {
		return nil, err
	}
	switch {
	case g.Repeated:
		s.metrics.grants.WithLabelValues("repeated").Inc()
	case g.Lease != nil:
		s.metrics.grants.WithLabelValues("lease").Inc()
		s.metrics.granted.Add(float64(len(g.Lease.GetSerials())))
	case g.SoldOut:
		s.metrics.grants.WithLabelValues("sold_out").Inc()
	default:
		s.metrics.grants.WithLabelValues("nothing_free").Inc()
	}
	return &fulfillmentv1.GrantLeaseResponse{Lease: g.Lease, SoldOut: g.SoldOut}, nil
}

func (s *stockServer) ReturnUnits(ctx context.Context, req *fulfillmentv1.ReturnUnitsRequest) (*fulfillmentv1.ReturnUnitsResponse, error) {
	res, err := s.returnUnits(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) returnUnits(ctx context.Context, req *fulfillmentv1.ReturnUnitsRequest) (*fulfillmentv1.ReturnUnitsResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	node, err := parseID("node_id", req.GetNodeId())
	if err != nil {
		return nil, err
	}
	lease, err := parseID("lease_id", req.GetLeaseId())
	if err != nil {
		return nil, err
	}
	freed, err := s.store.Return(ctx, store.Caller{NodeID: node, Epoch: req.GetEpoch(), BootID: req.GetBootId()}, lease, req.GetSerials(), s.now())
	if err != nil {
		return nil, err
	}
	s.metrics.returned.Add(float64(freed))
	return &fulfillmentv1.ReturnUnitsResponse{Freed: uint32(freed)}, nil
}

func (s *stockServer) Heartbeat(ctx context.Context, req *fulfillmentv1.HeartbeatRequest) (*fulfillmentv1.HeartbeatResponse, error) {
	res, err := s.heartbeat(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) heartbeat(ctx context.Context, req *fulfillmentv1.HeartbeatRequest) (*fulfillmentv1.HeartbeatResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	node, err := parseID("node_id", req.GetNodeId())
	if err != nil {
		return nil, err
	}
	report := nodeReport{at: time.Now(), untouched: map[store.ID]int{}, hungry: map[store.ID]bool{}}
	var listed []store.ID // every drop once, in the node's order
	list := func(id store.ID) {
		_, held := report.untouched[id]
		if !held && !report.hungry[id] {
			listed = append(listed, id)
		}
	}
	known := map[store.ID]bool{}
	var sellable []store.ID // leases with something untouched
	for i, h := range req.GetHeld() {
		lease, err := parseID(fmt.Sprintf("held[%d].lease_id", i), h.GetLeaseId())
		if err != nil {
			return nil, err
		}
		drop, err := parseID(fmt.Sprintf("held[%d].drop_id", i), h.GetDropId())
		if err != nil {
			return nil, err
		}
		known[lease] = true
		if h.GetUntouched() > 0 {
			sellable = append(sellable, lease)
		}
		list(drop)
		report.untouched[drop] += int(h.GetUntouched())
	}
	for i, text := range req.GetHungryDropIds() {
		drop, err := parseID(fmt.Sprintf("hungry_drop_ids[%d]", i), text)
		if err != nil {
			return nil, err
		}
		list(drop)
		report.hungry[drop] = true
	}
	offers := map[store.ID]int64{}
	for i, o := range req.GetOffers() {
		drop, err := parseID(fmt.Sprintf("offers[%d].drop_id", i), o.GetDropId())
		if err != nil {
			return nil, err
		}
		offers[drop] = max(offers[drop], o.GetOffers())
	}
	caller := store.Caller{NodeID: node, Epoch: req.GetEpoch(), BootID: req.GetBootId()}
	pulse, err := s.store.Seen(ctx, caller, s.now())
	if err != nil {
		return nil, err
	}
	if err := s.store.CountOffers(ctx, caller, offers); err != nil {
		return nil, err
	}
	var fences store.Fences
	if pulse.AnyFence {
		if fences, err = s.store.Fences(ctx, caller); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(report.hungry, func(drop store.ID, _ bool) bool { return fences.Bar(drop) }) // nobody gives back for it
	s.board.report(node, report)

	res := &fulfillmentv1.HeartbeatResponse{Epoch: caller.Epoch, NextIn: durationpb.New(idleHeartbeat)}
	if pulse.AnyLive {
		res.NextIn = durationpb.New(liveHeartbeat)
	}
	if res.Missing, err = s.store.ActiveLeases(ctx, caller, known, maxMissing); err != nil {
		return nil, err
	}
	if pulse.AnyAside && len(sellable) > 0 {
		aside, err := s.store.PutAside(ctx, caller)
		if err != nil {
			return nil, err
		}
		for _, lease := range sellable {
			if aside[lease] {
				res.FencedLeaseIds = append(res.FencedLeaseIds, lease.String())
			}
		}
	}
	for _, drop := range listed {
		if err := s.advise(ctx, res, node, drop, report.untouched[drop], fences.Bar(drop)); err != nil {
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

func (s *stockServer) SettleUnits(ctx context.Context, req *fulfillmentv1.SettleUnitsRequest) (*fulfillmentv1.SettleUnitsResponse, error) {
	res, err := s.settleUnits(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) settleUnits(ctx context.Context, req *fulfillmentv1.SettleUnitsRequest) (*fulfillmentv1.SettleUnitsResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	claims, err := parseClaims(req.GetClaims())
	if err != nil {
		return nil, err
	}
	verdicts, err := s.store.Settle(ctx, claims)
	if err != nil {
		return nil, err
	}
	res := &fulfillmentv1.SettleUnitsResponse{}
	for _, v := range verdicts {
		r := &fulfillmentv1.SettleResult{Settled: v == store.Settled}
		switch v {
		case store.NotYours:
			r.Reason = errorsv1.Reason_REASON_UNIT_NOT_YOURS
		case store.NoLease:
			r.Reason = errorsv1.Reason_REASON_LEASE_NOT_FOUND
		}
		if r.Settled {
			s.metrics.settled.WithLabelValues("yes").Inc()
		} else {
			s.metrics.settled.WithLabelValues("no").Inc()
		}
		res.Results = append(res.Results, r)
	}
	return res, nil
}

func (s *stockServer) ReleaseUnits(ctx context.Context, req *fulfillmentv1.ReleaseUnitsRequest) (*fulfillmentv1.ReleaseUnitsResponse, error) {
	res, err := s.releaseUnits(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) releaseUnits(ctx context.Context, req *fulfillmentv1.ReleaseUnitsRequest) (*fulfillmentv1.ReleaseUnitsResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	claims, err := parseClaims(req.GetClaims())
	if err != nil {
		return nil, err
	}
	freed, err := s.store.Release(ctx, claims, s.now())
	if err != nil {
		return nil, err
	}
	s.metrics.released.Add(float64(freed))
	return &fulfillmentv1.ReleaseUnitsResponse{Freed: uint32(freed)}, nil
}

func (s *stockServer) ListNodeKeys(ctx context.Context, req *fulfillmentv1.ListNodeKeysRequest) (*fulfillmentv1.ListNodeKeysResponse, error) {
	res, err := s.listNodeKeys(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) listNodeKeys(ctx context.Context, req *fulfillmentv1.ListNodeKeysRequest) (*fulfillmentv1.ListNodeKeysResponse, error) {
	var after int64
	if req.GetPageToken() != "" {
		var err error
		if after, _, err = parsePageToken(req.GetPageToken(), 0); err != nil {
			return nil, err
		}
	}
	size := pageSize(req.GetPageSize(), keyPage, keyPage)
	found, err := s.store.Keys(ctx, after, size+1)
	if err != nil {
		return nil, err
	}
	found, more := page(found, size)
	res := &fulfillmentv1.ListNodeKeysResponse{}
	for _, k := range found {
		res.Keys = append(res.Keys, k.Key)
	}
	if more {
		res.NextPageToken = pageToken(found[len(found)-1].Position, nil)
	}
	return res, nil
}

func (s *stockServer) keys(ctx context.Context) ([]*offerv1.SigningKey, error) {
	all, err := s.store.Keys(ctx, 0, -1)
	keys := make([]*offerv1.SigningKey, len(all))
	for i, k := range all {
		keys[i] = k.Key
	}
	return keys, err
}

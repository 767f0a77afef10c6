package fulfillment

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"

	"github.com/rimlight/rimlight/fulfillment/store"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
)

// keyPage is what ListNodeKeys answers to page_size 0, and at most.
const keyPage = 1000

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

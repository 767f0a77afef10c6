package region

import (
	"bytes"
	"context"
	"fmt"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// Bounds of one request of a report: serials take three bytes at most, a drop's terms about a thousand.
const mostSerials, mostLeases, mostDrops = 100_000, 1000, 300

// report tells a fulfillment that was restored from a backup all that the node holds (docs/decisions/0018), in pieces of
// which the last one counts. It belongs to the stock loop: whatever it plans to give back is durable between its turns, and no
// lease arrives meanwhile.
func (s *stocker) report(ctx context.Context) error {
	n := s.n
	n.till.mu.Lock()
	holdings := n.till.book.Holdings()
	n.till.mu.Unlock()
	request, serials := &fulfillmentv1.ReportHoldingsRequest{Node: s.introduction()}, 0
	send := func() error {
		call, cancel := n.callContext(ctx)
		defer cancel()
		if _, err := n.deps.Stock.ReportHoldings(call, request); err != nil {
			return fmt.Errorf("reporting what the node holds: %w", err)
		}
		request, serials = &fulfillmentv1.ReportHoldingsRequest{Node: request.GetNode()}, 0
		return nil
	}
	for _, h := range holdings {
		if serials += 2 * len(h.Serials); len(request.Leases) == mostLeases || len(request.Leases) > 0 && serials > mostSerials {
			if err := send(); err != nil {
				return err
			}
			serials = 2 * len(h.Serials)
		}
		request.Leases = append(request.Leases, &fulfillmentv1.HeldSerials{
			Lease: &fulfillmentv1.Lease{
				LeaseId: h.ID, DropId: h.Drop, NodeId: n.deps.Identity.NodeID, Epoch: h.Epoch, Serials: h.Serials,
			},
			GivenBack: h.GivenBack,
		})
	}
	for _, d := range n.catalogue.Load().sorted() {
		if len(request.Drops) == mostDrops {
			if err := send(); err != nil {
				return err
			}
		}
		request.Drops = append(request.Drops, d.msg)
	}
	for _, k := range n.keys.All() {
		if k.GetOwner() == offerv1.KeyOwner_KEY_OWNER_NODE && !bytes.Equal(k.GetKeyId(), n.signer.Public().GetKeyId()) {
			request.Keys = append(request.Keys, k)
		}
	}
	request.Complete = true
	if err := send(); err != nil {
		return err
	}
	n.log.Info("fulfillment was restored: it has been told what the node holds", "leases", len(holdings))
	return nil
}

// introduction is who the node is, with the epoch in its journal.
func (s *stocker) introduction() *fulfillmentv1.JoinNodeRequest {
	n := s.n
	return &fulfillmentv1.JoinNodeRequest{
		NodeId: n.deps.Identity.NodeID, DiskId: n.deps.Identity.DiskID, Region: n.cfg.Region, SigningKey: n.signer.Public(),
		Life: n.life, BootId: n.bootID, Epoch: n.epoch(),
	}
}

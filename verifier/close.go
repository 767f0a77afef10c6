package verifier

import (
	"context"
	"fmt"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/store"
)

// runCloser closes quarantined leases until ctx ends: docs/settlement.md 2.6. It goes through here because only the
// verifier knows which receipts for a lease have come.
func (s *Service) runCloser(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		err := s.closeLeases(ctx)
		if hasReason(err, errorsv1.Reason_REASON_STORE_RECOVERING) {
			err = s.tellFulfillment(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			sleep(ctx, s.jitter(s.cfg.ClosePoll), nil)
			continue
		}
		failures++
		s.deps.Log.Warn("closing quarantined leases failed", "error", err)
		sleep(ctx, max(s.cfg.ClosePoll, s.backoff(failures-1)), nil)
	}
}

// closeLeases looks once at every quarantined lease.
func (s *Service) closeLeases(ctx context.Context) error {
	for request := (&fulfillmentv1.ListQuarantinedLeasesRequest{}); ; {
		call, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
		page, err := s.deps.Stock.ListQuarantinedLeases(call, request)
		cancel()
		if err != nil {
			return fmt.Errorf("listing quarantined leases: %w", err)
		}
		for _, l := range page.GetLeases() {
			if err := s.closeLease(ctx, l); err != nil {
				return fmt.Errorf("lease %s: %w", l.GetLeaseId(), err)
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return nil
		}
	}
}

// closeLease closes a lease for which nobody is waited for any more: the window is over, or the node retired and all that it
// sold is here. The tombstone is durable first; after it no
// redemption can become a candidate, so that what is not open stays so, and fulfillment may free what is unsold.
func (s *Service) closeLease(ctx context.Context, l *fulfillmentv1.QuarantinedLease) error {
	leaseID, err := store.ParseUUID(l.GetLeaseId())
	if err != nil {
		return err
	}
	dropID, err := store.ParseUUID(l.GetDropId())
	if err != nil {
		return err
	}
	nodeID, err := store.ParseUUID(l.GetNodeId())
	if err != nil {
		return err
	}
	sealed, err := s.store.Read().Sealed(ctx, nodeID, l.GetEpoch())
	if err != nil {
		return err
	}
	if !sealed && s.deps.Now().Before(l.GetClaimsEndTime().AsTime()) {
		return nil
	}
	dead, err := s.store.Read().Tombstoned(ctx, leaseID)
	if err == nil && !dead[leaseID] && !mutant.On(mutant.CloseUntombstoned) {
		err = s.store.Write(ctx, func(tx *store.Tx) error { return tx.Tombstone(ctx, leaseID, s.deps.Now().UnixMicro()) })
	}
	if err != nil {
		return err
	}
	open, err := s.store.Read().LeaseOpen(ctx, dropID, leaseID)
	if err != nil || open { // its jobs are under way; the next look is soon
		return err
	}
	call, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	_, err = s.deps.Stock.CloseLease(call, &fulfillmentv1.CloseLeaseRequest{LeaseId: l.GetLeaseId(), JournalSealed: sealed})
	if hasReason(err, errorsv1.Reason_REASON_LEASE_NOT_CLOSABLE) { // its clock is behind, or the drop was extended meanwhile
		return nil
	}
	if err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	s.deps.Log.Info("a quarantined lease was closed", "lease_id", l.GetLeaseId(), "node_id", l.GetNodeId(), "units", l.GetUnits(),
		"waited_s", int64(s.deps.Now().Sub(l.GetQuarantineTime().AsTime())/time.Second))
	return nil
}

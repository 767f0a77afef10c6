package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/stock"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
)

// leasePage is what ListQuarantinedLeases answers to page_size 0; at most a key page's length.
const leasePage = 100

// ClaimsWindows are for how long receipts for a quarantined lease are waited for, once nobody can have sold from it any
// more. At half, viewers whose node was lost come too late and get a voucher instead of the unit; at double, the unit is
// out of sale for twice as long. Zero means the default everywhere.
type ClaimsWindows struct {
	// Reusable is for stock that another drop can use: 10 min.
	Reusable time.Duration
	// Physical is for things on a shelf: 72 h.
	Physical time.Duration
	// Digital is for stock that costs nothing to keep: 30 days.
	Digital time.Duration
	// Skew is how far a node's clock may be behind beyond the grace of 2 s: 2 s.
	Skew time.Duration
}

func (w ClaimsWindows) validate() error {
	if min(w.Reusable, w.Physical, w.Digital, w.Skew) < 0 {
		return errors.New("a claims window is negative")
	}
	return nil
}

func (w ClaimsWindows) withDefaults() ClaimsWindows {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{{&w.Reusable, 10 * time.Minute}, {&w.Physical, 72 * time.Hour}, {&w.Digital, 30 * 24 * time.Hour}, {&w.Skew, 2 * time.Second}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return w
}

// end is when a lease may be closed though no journal was sealed.
func (w ClaimsWindows) end(q store.QuarantinedLease) time.Time {
	window := w.Digital // what is no thing is digital
	switch q.Drop.Terms.GetStockKind() {
	case fulfillmentv1.StockKind_STOCK_KIND_REUSABLE:
		window = w.Reusable
	case fulfillmentv1.StockKind_STOCK_KIND_PHYSICAL:
		window = w.Physical
	}
	if mutant.On(mutant.ClaimsFromQuarantine) {
		return q.Since.Add(window)
	}
	return stock.ClaimsEnd(q.Since, q.Drop.OverTime, w.Skew, window)
}

func (s *stockServer) ListQuarantinedLeases(ctx context.Context, req *fulfillmentv1.ListQuarantinedLeasesRequest) (*fulfillmentv1.ListQuarantinedLeasesResponse, error) {
	res, err := s.listQuarantined(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) listQuarantined(ctx context.Context, req *fulfillmentv1.ListQuarantinedLeasesRequest) (*fulfillmentv1.ListQuarantinedLeasesResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	var since time.Time
	var after store.ID
	if req.GetPageToken() != "" {
		us, id, err := parsePageToken(req.GetPageToken(), len(after))
		if err != nil {
			return nil, err
		}
		since, after = time.UnixMicro(us), store.ID(id)
	}
	size := pageSize(req.GetPageSize(), leasePage, keyPage)
	found, err := s.store.Quarantined(ctx, since, after, size+1)
	if err != nil {
		return nil, err
	}
	found, more := page(found, size)
	res := &fulfillmentv1.ListQuarantinedLeasesResponse{}
	for _, q := range found {
		res.Leases = append(res.Leases, &fulfillmentv1.QuarantinedLease{
			LeaseId: q.ID.String(), DropId: q.Drop.ID.String(), NodeId: q.NodeID.String(), Epoch: q.Epoch, Units: q.Units,
			QuarantineTime: timestamppb.New(q.Since), ClaimsEndTime: timestamppb.New(s.claims.end(q)),
		})
	}
	if more {
		last := found[len(found)-1]
		res.NextPageToken = pageToken(last.Since.UnixMicro(), last.ID[:])
	}
	return res, nil
}

func (s *stockServer) CloseLease(ctx context.Context, req *fulfillmentv1.CloseLeaseRequest) (*fulfillmentv1.CloseLeaseResponse, error) {
	res, err := s.closeLease(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) closeLease(ctx context.Context, req *fulfillmentv1.CloseLeaseRequest) (*fulfillmentv1.CloseLeaseResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	id, err := parseID("lease_id", req.GetLeaseId())
	if err != nil {
		return nil, err
	}
	now := s.now()
	freed, err := s.store.CloseLease(ctx, id, func(q store.QuarantinedLease) error {
		if end := s.claims.end(q); now.Before(end) && !req.GetJournalSealed() {
			return &store.ClaimsOpenError{LeaseID: id, End: end}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lease %v: %w", id, err)
	}
	s.metrics.closed.Add(float64(freed))
	s.log.InfoContext(ctx, "a quarantined lease was closed", "lease_id", id.String(), "units_freed", freed, "journal_sealed", req.GetJournalSealed())
	return &fulfillmentv1.CloseLeaseResponse{Freed: uint32(freed)}, nil
}

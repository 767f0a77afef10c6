package fulfillment_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// loseDisk lets the node join from another disk.
func (n *node) loseDisk() {
	n.t.Helper()
	req := proto.Clone(n.joinRequest()).(*fulfillmentv1.JoinNodeRequest)
	req.DiskId = "disk-" + newID()
	if res, err := n.stock.JoinNode(n.t.Context(), req); err != nil || res.GetEpoch() != 2 {
		n.t.Fatalf("got %v, %v", res, err)
	}
}

func TestHowLongReceiptsForALostDiskAreWaitedFor(t *testing.T) {
	for kind, window := range map[fulfillmentv1.StockKind]time.Duration{
		fulfillmentv1.StockKind_STOCK_KIND_UNSPECIFIED: 30 * 24 * time.Hour, // goods are digital so far
		fulfillmentv1.StockKind_STOCK_KIND_REUSABLE:    10 * time.Minute,
		fulfillmentv1.StockKind_STOCK_KIND_PHYSICAL:    72 * time.Hour,
		fulfillmentv1.StockKind_STOCK_KIND_DIGITAL:     30 * 24 * time.Hour,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			onBoth(t, func(t *testing.T, db *sqldb.DB) {
				l := start(t, db, fulfillment.Config{}, nil)
				req := dropRequest(20)
				req.StockKind = kind
				created, err := l.catalog.CreateDrop(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				drop := created.GetDrop().GetDrop()
				n := l.join()
				lease := n.grant(drop.GetDropId(), 1).GetLease()
				n.loseDisk()
				list, err := l.stock.ListQuarantinedLeases(t.Context(), &fulfillmentv1.ListQuarantinedLeasesRequest{})
				if err != nil || len(list.GetLeases()) != 1 {
					t.Fatalf("got %v, %v", list, err)
				}
				over := drop.GetCloseTime().AsTime().Add(time.Minute + 2*time.Second + 2*time.Second) // TTL, grace, skew
				if got := list.GetLeases()[0].GetClaimsEndTime().AsTime(); !got.Equal(over.Add(window)) {
					t.Errorf("receipts are waited for until %v, want %v", got, over.Add(window))
				}
				if window > time.Hour {
					return // a month of polling is many events
				}
				closeLease := func(sealed bool) error {
					_, err := l.stock.CloseLease(t.Context(), &fulfillmentv1.CloseLeaseRequest{LeaseId: lease.GetLeaseId(), JournalSealed: sealed})
					return err
				}
				time.Sleep(time.Until(over.Add(window)) - time.Second)
				if err := closeLease(false); rpcerr.Reason(err) != errorsv1.Reason_REASON_LEASE_NOT_CLOSABLE {
					t.Errorf("a second before the end: %v", err)
				}
				if l.level(drop.GetDropId()).GetQuarantined() == 0 {
					t.Error("nothing is in quarantine")
				}
				time.Sleep(time.Second)
				if err := closeLease(false); err != nil {
					t.Errorf("at the end: %v", err)
				}
				if got := l.level(drop.GetDropId()); got.GetFree() != 20 {
					t.Errorf("got %v", got)
				}
			})
		})
	}
}

func TestASealedJournalIsNotWaitedFor(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		drop := l.createDrop(20).GetDrop().GetDropId()
		n := l.join()
		lease := n.grant(drop, 1).GetLease()
		n.loseDisk()
		res, err := l.stock.CloseLease(t.Context(), &fulfillmentv1.CloseLeaseRequest{LeaseId: lease.GetLeaseId(), JournalSealed: true})
		if err != nil || int(res.GetFreed()) != len(lease.GetSerials()) {
			t.Errorf("got %v, %v", res, err)
		}
	})
}

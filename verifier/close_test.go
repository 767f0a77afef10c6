package verifier_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// ListQuarantinedLeases and CloseLease answer as the real ones do.
func (f *fulfillment) ListQuarantinedLeases(context.Context, *fulfillmentv1.ListQuarantinedLeasesRequest, ...grpc.CallOption) (*fulfillmentv1.ListQuarantinedLeasesResponse, error) {
	if err := f.enter("ListQuarantinedLeases"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	return &fulfillmentv1.ListQuarantinedLeasesResponse{Leases: f.quarantined}, nil
}

func (f *fulfillment) CloseLease(_ context.Context, r *fulfillmentv1.CloseLeaseRequest, _ ...grpc.CallOption) (*fulfillmentv1.CloseLeaseResponse, error) {
	if err := f.enter("CloseLease"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	f.closedSealed = r.GetJournalSealed()
	res := &fulfillmentv1.CloseLeaseResponse{}
	for _, d := range f.drops {
		for _, u := range d.units {
			if u.lease == r.GetLeaseId() && u.sold == "" {
				u.lease = ""
				res.Freed++
			}
		}
	}
	f.quarantined = nil
	return res, nil
}

// quarantine puts a node's lease aside; receipts for it are waited for until end.
func (w *world) quarantine(n *node, end time.Time) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.quarantined = []*fulfillmentv1.QuarantinedLease{{
		LeaseId: n.lease, DropId: w.drop, NodeId: n.id, Epoch: 1, QuarantineTime: timestamppb.Now(), ClaimsEndTime: timestamppb.New(end),
	}}
}

func (w *world) called(method string) int {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	return w.f.calls[method]
}

// The node is gone for good: only clients hold what it accepted.
func TestReceiptsOfALostNodeCountUntilItsLeaseIsClosed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		n := w.nodes[0]
		early, _ := w.redeem(n, sale{reference: "tp_ok"})
		late, _ := w.redeem(n, sale{reference: "tp_ok"})
		w.quarantine(n, time.Now().Add(10*time.Minute))
		time.Sleep(9 * time.Minute)
		w.present(early)
		time.Sleep(30 * time.Second)
		want(t, w.get(early), delivered, noReason)
		if w.called("CloseLease") != 0 {
			t.Fatal("the lease was closed while receipts for it were waited for")
		}
		time.Sleep(2 * time.Minute)
		if free, leased, sold := w.f.count(w.drop); free != 1 || leased != 0 || sold != 1 {
			t.Fatalf("%d free, %d leased, %d sold; want the unsold unit free", free, leased, sold)
		}
		settles := w.called("SettleUnits")
		p := w.present(late)
		want(t, p, offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, "REASON_UNIT_DENIED")
		if p.GetVoucher() == nil || p.GetOutcome() == "" {
			t.Error("a late receipt has no voucher, or no signed outcome")
		}
		if !proto.Equal(p, w.present(late)) {
			t.Error("the late receipt presented again shows something else")
		}
		time.Sleep(time.Minute)
		if w.called("SettleUnits") != settles {
			t.Error("a unit of a closed lease was asked for")
		}
		w.checkBooks()
	})
}

func TestALeaseWithAnOpenRedemptionIsNotClosed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		n := w.nodes[0]
		receipt, _ := w.redeem(n, sale{reference: "tp_ok"})
		w.make() // takes receipts, and settles nothing
		w.present(receipt)
		settled := make(chan struct{})
		w.f.mu.Lock()
		w.f.beforeSettle = func() { <-settled } // fulfillment is slow with the unit
		w.f.mu.Unlock()
		w.start()
		w.quarantine(n, time.Now())
		time.Sleep(5 * time.Second)
		if w.called("CloseLease") != 0 {
			t.Error("the lease was closed while a redemption of it waited for its unit")
		}
		close(settled)
		time.Sleep(time.Minute)
		want(t, w.get(receipt), delivered, noReason)
		if w.called("CloseLease") != 1 {
			t.Errorf("the lease was closed %d times", w.called("CloseLease"))
		}
	})
}

// A duplicate from a closed lease may not become a spare: its unit is somebody else's.
func TestALateDuplicateIsNoSpare(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		n := w.nodes[0]
		w.quarantine(n, time.Now())
		time.Sleep(10 * time.Second)
		k, session := w.bytes(), w.bytes()
		denied, _ := w.redeem(w.nodes[1], sale{k: k, session: session, reference: "tp_ok", unleased: true})
		late, _ := w.redeem(n, sale{k: k, session: session, reference: "tp_ok", unleased: true})
		w.submit(w.nodes[1], 0, denied, late)
		time.Sleep(time.Minute)
		want(t, w.get(late), offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, "REASON_UNIT_DENIED")
		if n := w.called("SettleUnits"); n != 1 {
			t.Errorf("units were asked for %d times, want once: the duplicate has none", n)
		}
		if n := w.called("ReleaseUnits"); n != 1 {
			t.Errorf("%d releases, want that of the unit which was denied: one of a closed lease is not released", n)
		}
	})
}

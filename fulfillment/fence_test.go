package fulfillment_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

func TestAnOperatorFencesALivingNode(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		drop := l.createDrop(200).GetDrop()
		n, poor := l.join(), l.join()
		lease := n.grant(drop.GetDropId(), 4).GetLease()
		before := n.take(drop.GetDropId())
		fences := fulfillmentv1.NewFenceServiceClient(l.conn)
		ask := &fulfillmentv1.FenceNodeRequest{RequestId: newID(), NodeId: n.id, DropId: drop.GetDropId(), Reason: "sells too slowly", DryRun: true}
		rehearsed, err := fences.FenceNode(as(t.Context(), auth.SRE), ask)
		if err != nil || rehearsed.GetLeases() != 1 || int(rehearsed.GetUnits()) != len(lease.GetSerials()) || rehearsed.GetRegion() != "europe-west3" ||
			!strings.Contains(strings.Join(rehearsed.GetConsequences(), " "), "next heartbeat") {
			t.Fatalf("the rehearsal: %v, %v", rehearsed, err)
		}
		if res := n.beat(); len(res.GetFencedLeaseIds()) != 0 {
			t.Fatalf("a rehearsal fenced: %v", res)
		}
		ask.DryRun = false
		fenced, err := fences.FenceNode(as(t.Context(), auth.SRE), ask)
		if err != nil || fenced.GetUnits() != rehearsed.GetUnits() {
			t.Fatalf("got %v, %v", fenced, err)
		}
		over := drop.GetCloseTime().AsTime().Add(time.Minute + 4*time.Second) // TTL, grace, skew
		if end := fenced.GetClaimsEndTime().AsTime(); !end.Equal(over.Add(30 * 24 * time.Hour)) {
			t.Errorf("receipts are waited for until %v: the window must begin when the fenced node cannot sell any more", end)
		}

		after := n.take(drop.GetDropId()) // it has not heard
		res := n.beat(drop.GetDropId())
		if got := res.GetFencedLeaseIds(); len(got) != 1 || got[0] != lease.GetLeaseId() || len(res.GetAvailableDropIds()) != 0 {
			t.Errorf("its heartbeat was answered %v", res)
		}
		n.giveBack(drop.GetDropId(), n.untouched(drop.GetDropId()))
		if got := n.beat().GetFencedLeaseIds(); len(got) != 0 {
			t.Errorf("it is told again: %v", got)
		}
		_, err = l.stock.GrantLease(t.Context(), &fulfillmentv1.GrantLeaseRequest{RequestId: newID(), NodeId: n.id, Epoch: 1, DropId: drop.GetDropId(), WantedUnits: 1})
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_NODE_FENCED {
			t.Errorf("a grant to a fenced node: %v", err)
		}
		l.settle(before, after)
		if poor.grant(drop.GetDropId(), 1).GetLease() == nil {
			t.Error("others get nothing either")
		}
		if got := l.level(drop.GetDropId()); got.GetSold() != 2 || got.GetQuarantined() != 0 {
			t.Errorf("got %v", got)
		}
	})
}

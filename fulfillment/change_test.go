package fulfillment_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

func TestAnOperatorChangesADrop(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		d := l.createDrop(20).GetDrop()
		n := l.join()
		n.grant(d.GetDropId(), 10)
		time.Sleep(time.Until(d.GetOpenTime().AsTime()))
		request := func(id string, dry bool) *fulfillmentv1.ChangeDropRequest {
			return &fulfillmentv1.ChangeDropRequest{RequestId: id, DropId: d.GetDropId(), Reason: "test", DryRun: dry}
		}
		change := func(req *fulfillmentv1.ChangeDropRequest) (*fulfillmentv1.ChangeDropResponse, error) {
			return l.catalog.ChangeDrop(as(t.Context(), auth.Producer), req)
		}
		is := func(what string, want offerv1.DropState) *offerv1.Drop {
			t.Helper()
			got, err := l.catalog.GetDrop(t.Context(), &fulfillmentv1.GetDropRequest{DropId: d.GetDropId()})
			if err != nil || got.GetDrop().GetDrop().GetDrop().GetState() != want {
				t.Fatalf("%s: %v, %v, want %v", what, got, err, want)
			}
			return got.GetDrop().GetDrop().GetDrop()
		}
		pause := request("pause", true)
		pause.Change = &fulfillmentv1.ChangeDropRequest_Pause{}
		dry, err := change(pause)
		if err != nil || dry.GetBefore().GetDrop().GetDrop().GetState() != offerv1.DropState_DROP_STATE_OPEN ||
			dry.GetAfter().GetDrop().GetDrop().GetState() != offerv1.DropState_DROP_STATE_PAUSED {
			t.Fatalf("the dry run: %v, %v", dry, err)
		}
		if b := dry.GetBlastRadius(); b.GetNodes() != 1 || b.GetRegions() != 1 || b.GetUnitsUnsold() != 20 || len(b.GetConsequences()) != 2 {
			t.Errorf("the dry run meets %v", b)
		}
		before := is("after a dry run", offerv1.DropState_DROP_STATE_OPEN)

		pause.DryRun = false
		if _, err := change(pause); err != nil {
			t.Fatal(err)
		}
		paused := is("paused", offerv1.DropState_DROP_STATE_PAUSED)
		if paused.GetRevision() <= before.GetRevision() {
			t.Errorf("revision %d after %d: no node hears of it", paused.GetRevision(), before.GetRevision())
		}
		if _, err := change(pause); err != nil || is("paused twice", offerv1.DropState_DROP_STATE_PAUSED).GetRevision() != paused.GetRevision() {
			t.Errorf("a repeat changed something, %v", err)
		}
		other := proto.CloneOf(pause)
		other.Change = &fulfillmentv1.ChangeDropRequest_Close{}
		if _, err := change(other); rpcerr.Reason(err) != errorsv1.Reason_REASON_REQUEST_REPLAYED {
			t.Errorf("another change under the same id: %v", err)
		}
		_, err = l.stock.GrantLease(t.Context(), &fulfillmentv1.GrantLeaseRequest{
			RequestId: "019b0000-0000-7000-8000-000000000001", NodeId: n.id, Epoch: 1, DropId: d.GetDropId(), WantedUnits: 1,
		})
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_DROP_NOT_OPEN {
			t.Errorf("a paused drop lends: %v", err)
		}
		list, err := l.catalog.ListDrops(t.Context(), &fulfillmentv1.ListDropsRequest{States: []offerv1.DropState{offerv1.DropState_DROP_STATE_PAUSED}})
		if err != nil || len(list.GetDrops()) != 1 {
			t.Errorf("paused drops: %v, %v", list, err)
		}

		resume := request("resume", false)
		resume.Change = &fulfillmentv1.ChangeDropRequest_Resume{}
		if _, err := change(resume); err != nil {
			t.Fatal(err)
		}
		is("resumed", offerv1.DropState_DROP_STATE_OPEN)

		extend := request("extend", false)
		extend.Change = &fulfillmentv1.ChangeDropRequest_Extend{Extend: &fulfillmentv1.ExtendDrop{By: durationpb.New(time.Minute)}}
		longer, err := change(extend)
		if err != nil || longer.GetBlastRadius().GetWindowChange().AsDuration() != time.Minute {
			t.Errorf("extended: %v, %v", longer, err)
		}
		time.Sleep(time.Until(d.GetCloseTime().AsTime()))
		is("at its old close", offerv1.DropState_DROP_STATE_OPEN)

		end := request("close", false)
		end.Change = &fulfillmentv1.ChangeDropRequest_Close{}
		if _, err := change(end); err != nil {
			t.Fatal(err)
		}
		is("closed", offerv1.DropState_DROP_STATE_DRAINING)
		late := request("late", false)
		late.Change = extend.GetChange()
		_, err = change(late)
		if status.Code(err) != codes.FailedPrecondition || rpcerr.Reason(err) != errorsv1.Reason_REASON_DROP_CHANGE_REFUSED ||
			!strings.Contains(status.Convert(err).Message(), "plan another drop") {
			t.Errorf("a closed drop was extended: %v", err)
		}
	})
}

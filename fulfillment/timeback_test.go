package fulfillment_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
)

// report is a router's word about a drop.
func (l *life) report(drop string, delay time.Duration) *fulfillmentv1.ReportDelayResponse {
	l.t.Helper()
	res, err := l.catalog.ReportDelay(l.t.Context(), &fulfillmentv1.ReportDelayRequest{
		DropId: drop, Delay: durationpb.New(delay), Cause: "service", SlipId: "europe-west1/1",
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return res
}

// now is the drop as it is served.
func (l *life) now(drop string) *offerv1.Drop {
	l.t.Helper()
	got, err := l.catalog.GetDrop(l.t.Context(), &fulfillmentv1.GetDropRequest{DropId: drop})
	if err != nil {
		l.t.Fatal(err)
	}
	return got.GetDrop().GetDrop().GetDrop()
}

// keys are all that nodes and the verifier hear of.
func (l *life) keys() *token.Keys {
	l.t.Helper()
	list, err := l.stock.ListNodeKeys(l.t.Context(), &fulfillmentv1.ListNodeKeysRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	keys := &token.Keys{}
	keys.Add(list.GetKeys()...)
	return keys
}

func TestLateAnswersCloseADropLater(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		d := l.createDrop(20).GetDrop()
		id, planned := d.GetDropId(), d.GetCloseTime().AsTime()
		n := l.join()
		if res := l.report(id, 5*time.Second); res.GetExtra().AsDuration() != 0 || res.GetLimit() == "" {
			t.Errorf("a drop that has not opened: %v", res)
		}
		time.Sleep(time.Until(d.GetOpenTime().AsTime()))
		is := func(what string, extra time.Duration) *offerv1.Drop {
			t.Helper()
			got := l.now(id)
			if got.GetCloseTime().AsTime() != planned.Add(extra) {
				t.Fatalf("%s: it closes %v later, want %v", what, got.GetCloseTime().AsTime().Sub(planned), extra)
			}
			if extra == 0 {
				if got.GetTimeBack() != "" || got.GetPlannedCloseTime() != nil {
					t.Errorf("%s: %v", what, got)
				}
				return got
			}
			raw, err := ids.Bytes(id)
			if err != nil {
				t.Fatal(err)
			}
			w, err := timeback.Open(l.keys(), raw, got.GetTimeBack())
			want := timeback.Window{Open: got.GetOpenTime().AsTime(), Planned: got.GetPlannedCloseTime().AsTime(), Close: got.GetCloseTime().AsTime()}
			if err != nil || w != want || w.Extra() != extra {
				t.Errorf("%s: it is signed for %+v, %v; want %+v", what, w, err, want)
			}
			return got
		}
		is("before any report", 0)
		if res := l.report(id, 3900*time.Millisecond); res.GetExtra().AsDuration() != 3*time.Second || res.GetLimit() != "" {
			t.Errorf("the first report: %v", res)
		}
		first := is("reported", 3*time.Second)
		l.report(id, 2*time.Second)
		if again := is("reported by a router that saw less", 3*time.Second); again.GetRevision() != first.GetRevision() {
			t.Error("a report without news is news to every node")
		}
		l.end()
		l = start(t, db, fulfillment.Config{}, nil)
		if res := l.report(id, time.Minute); res.GetExtra().AsDuration() != 22*time.Second || res.GetLimit() != "It is 22s at most." {
			t.Errorf("more than a quarter of the window: %v", res)
		}
		is("at the cap, after a restart", 22*time.Second)

		// An operator's extension comes on top, and is signed with it.
		planned = planned.Add(time.Minute)
		_, err := l.catalog.ChangeDrop(as(t.Context(), auth.Producer), &fulfillmentv1.ChangeDropRequest{
			RequestId: "extend", DropId: id, Change: &fulfillmentv1.ChangeDropRequest_Extend{Extend: &fulfillmentv1.ExtendDrop{By: durationpb.New(time.Minute)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		is("extended by an operator, too", 22*time.Second)
		n.life = l
		n.grant(id, 20)
		n.loseDisk()
		list, err := l.stock.ListQuarantinedLeases(t.Context(), &fulfillmentv1.ListQuarantinedLeasesRequest{})
		over := planned.Add(22*time.Second + time.Minute + 2*time.Second + 2*time.Second) // TTL, grace, skew
		if err != nil || len(list.GetLeases()) != 1 || !list.GetLeases()[0].GetClaimsEndTime().AsTime().Equal(over.Add(30*24*time.Hour)) {
			t.Errorf("receipts of the lost disk are waited for: %v, %v; want a month from %v", list, err, over)
		}
		time.Sleep(time.Until(planned.Add(22*time.Second - 1)))
		if state := l.now(id).GetState(); state != offerv1.DropState_DROP_STATE_OPEN {
			t.Errorf("in the last instant it is %v", state)
		}
		time.Sleep(time.Nanosecond)
		if res := l.report(id, time.Hour); res.GetExtra().AsDuration() != 22*time.Second || res.GetLimit() != "The drop is DRAINING." {
			t.Errorf("after it closed: %v", res)
		}
	})
}

func TestNoTimeIsGivenBackInVain(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{TimeBack: -1}, nil)
		d := l.createDrop(1).GetDrop()
		time.Sleep(time.Until(d.GetOpenTime().AsTime()))
		if res := l.report(d.GetDropId(), 5*time.Second); res.GetExtra().AsDuration() != 0 || res.GetLimit() != "No time is given back here." {
			t.Errorf("switched off: %v", res)
		}
		l.end()
		l = start(t, db, fulfillment.Config{TimeBack: 2 * time.Second}, nil)
		n := l.join()
		n.grant(d.GetDropId(), 1)
		n.settle(n.take(d.GetDropId()))
		if res := l.report(d.GetDropId(), 5*time.Second); res.GetExtra().AsDuration() != 0 || res.GetLimit() != "Everything is sold." {
			t.Errorf("sold out: %v", res)
		}
		for rule, req := range map[string]*fulfillmentv1.ReportDelayRequest{
			"an id that is none": {DropId: "x", Delay: durationpb.New(1)},
			"a negative delay":   {DropId: d.GetDropId(), Delay: durationpb.New(-1)},
		} {
			if _, err := l.catalog.ReportDelay(t.Context(), req); rpcerr.Reason(err) != errorsv1.Reason_REASON_INVALID_REQUEST {
				t.Errorf("%s: %v", rule, err)
			}
		}
		if _, err := l.catalog.ReportDelay(t.Context(), &fulfillmentv1.ReportDelayRequest{DropId: newID(), Delay: durationpb.New(1)}); rpcerr.Reason(err) != errorsv1.Reason_REASON_DROP_NOT_FOUND {
			t.Errorf("an unknown drop: %v", err)
		}
	})
}

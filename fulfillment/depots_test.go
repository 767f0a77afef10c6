package fulfillment_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
)

// planPoster makes a physical drop.
func (l *life) planPoster(sku string) *fulfillmentv1.CatalogDrop {
	l.t.Helper()
	req := dropRequest(20)
	req.RequestId, req.GoodsKind, req.Sku = newID(), fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, sku
	res, err := l.catalog.CreateDrop(l.t.Context(), req)
	if err != nil {
		l.t.Fatal(err)
	}
	return res.GetDrop()
}

// depotsOf are the depots that a drop names, and its revision.
func (l *life) depotsOf(d *fulfillmentv1.CatalogDrop) ([]*fulfillmentv1.Depot, int64) {
	l.t.Helper()
	synctest.Wait()
	res, err := l.catalog.GetDrop(l.t.Context(), &fulfillmentv1.GetDropRequest{DropId: d.GetDrop().GetDropId()})
	if err != nil {
		l.t.Fatal(err)
	}
	return res.GetDrop().GetDrop().GetDepots(), res.GetDrop().GetDrop().GetDrop().GetRevision()
}

func TestADropNamesTheDepotsThatHaveIt(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		before, mug, digital := l.planPoster("poster"), l.planPoster("mug"), l.createDrop(20)
		key := newDepotKey().Public()
		id := newID()
		hello := func(h *fulfillmentv1.NodeHello) { h.Zones, h.DeliveryKeys = []string{"europe"}, [][]byte{key} }
		first := l.hire(id, hello)
		depots, revision := l.depotsOf(before)
		if len(depots) != 1 || !bytes.Equal(depots[0].GetPublicKey(), key) || depots[0].GetZones()[0] != "europe" || revision <= before.GetDrop().GetRevision() {
			t.Fatalf("got %v, revision %d", depots, revision)
		}
		after := l.planPoster("poster")
		for _, d := range []*fulfillmentv1.CatalogDrop{mug, digital} {
			if depots, got := l.depotsOf(d); len(depots) != 0 || got != d.GetDrop().GetRevision() {
				t.Errorf("a drop of something else got %v", depots)
			}
		}
		if depots, _ := l.depotsOf(after); len(depots) != 1 {
			t.Errorf("a later drop names %v", depots)
		}

		first.leave()
		l.hire(id, hello).leave() // its line breaks all the time
		if _, got := l.depotsOf(before); got != revision {
			t.Errorf("a greeting that says nothing new made revision %d of %d", got, revision)
		}
		key = newDepotKey().Public()
		l.hire(id, hello).leave()
		if depots, _ := l.depotsOf(before); len(depots) != 1 || !bytes.Equal(depots[0].GetPublicKey(), key) {
			t.Errorf("after it made another key: %v", depots)
		}
	})
}

// An order goes to a depot that can open it, whoever else has time for it.
func TestASealedOrderGoesOnlyToItsRecipients(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{NodeWithin: time.Minute}, nil)
		mine := newDepotKey()
		stranger := l.hire("0"+newID()[1:], nil) // of equals the first by id is asked
		d := l.planPoster("poster")
		sell := func(to *sealed.Key) string {
			c := l.sellOne(l.join(), d.GetDrop().GetDropId())
			details, err := sealed.Seal([]byte(canary), [][]byte{to.Public()}, sealed.Purchase{DropID: c.GetDropId(), ID: token.PurchaseID(c.GetTokenId())})
			if err != nil {
				t.Fatal(err)
			}
			return l.placeWith(c, "us-east1", details)
		}
		id := sell(mine)
		time.Sleep(10 * time.Second)
		if got := l.order(id); got.GetState() != stateReady || got.GetAttempt() != 0 {
			t.Fatalf("with a stranger alone: %v", got)
		}
		h := l.hire("1"+newID()[1:], func(h *fulfillmentv1.NodeHello) {
			h.DeliveryKeys = [][]byte{newDepotKey().Public(), mine.Public()} // it made a newer one since
		})
		if a := h.next().GetAssignment(); a.GetOrderId() != id || addressOf(a, mine) != canary || !h.say(a, stepAccept) {
			t.Errorf("got %v", a)
		}
		lost := sell(newDepotKey())
		time.Sleep(time.Minute + 2*time.Second)
		if got := l.order(lost); got.GetState() != stateDead || got.GetReason() != noNode || l.keptDetails(db) != 0 {
			t.Errorf("sealed to nobody: %v", got)
		}
		stranger.leave()
	})
}

func TestAnOrderThatIsNotSealedDiesAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		l.hire(newID(), nil)
		c := l.sellOne(l.join(), l.planPoster("poster").GetDrop().GetDropId())
		id := l.placeWith(c, "us-east1", []byte(canary))
		time.Sleep(2 * time.Second)
		if got := l.order(id); got.GetState() != stateDead || got.GetReason() != fulfillmentv1.RejectReason_REJECT_REASON_UNDELIVERABLE || got.GetAttempt() != 0 {
			t.Errorf("got %v", got)
		}
	})
}

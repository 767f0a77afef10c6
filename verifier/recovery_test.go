package verifier_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier"
)

// restoreOld stops the verifier and starts it on the oldest of all backups: one that knows of no redemption.
//
//rimlight:bubble its callers are bubbles
func (w *world) restoreOld() {
	w.t.Helper()
	w.loseStore(func(db *sqldb.DB) error { return verifier.MarkRestored(w.t.Context(), db, time.Now()) })
}

// loseStore stops the verifier and starts it on a store that knows of no redemption.
//
//rimlight:bubble its callers are bubbles
func (w *world) loseStore(prepare func(*sqldb.DB) error) {
	w.t.Helper()
	w.stop()
	time.Sleep(48 * time.Hour) // the provider forgets its keys
	db, err := sqldb.OpenMemory(w.t.Context())
	check(w.t, err)
	w.t.Cleanup(func() { check(w.t, db.Close()) })
	check(w.t, verifier.Migrate(w.t.Context(), db))
	check(w.t, prepare(db))
	lost := w.db
	w.t.Cleanup(func() { w.db = lost }) // the world closes it
	w.db = db
	w.start()
}

// reforward is a node that finds the verifier behind. The stream stays open; its news are the answer.
func (w *world) reforward(n *node, receipts ...string) *forwarding {
	w.t.Helper()
	head := int64(len(receipts))
	f := w.openWith(&verifierv1.Hello{NodeId: n.id, Region: "test", OutcomeCursor: 1 << 20, JournalHead: &head})
	if f.ack().GetSequence() != 0 {
		w.t.Error("the restored verifier acknowledges what it does not have")
	}
	if head > 0 {
		f.send(1, receipts...)
		f.ack()
	}
	return f
}

// A store may come back from an older copy with nobody knowing. The log says so when a node was told more, and what is
// forwarded again charges nobody again, whatever the provider has forgotten.
func TestAnOldCopyThatNobodyRestored(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var log bytes.Buffer
		w.log = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
		w.start()
		paid, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 0, paid)
		time.Sleep(5 * time.Minute)
		want(t, w.get(paid), delivered, noReason)
		w.loseStore(func(*sqldb.DB) error { return nil })
		f := w.reforward(w.nodes[0], paid)
		time.Sleep(5 * time.Minute)
		if n := w.charges(w.get(paid).GetPurchaseId()); n != 1 {
			t.Errorf("%d charges", n)
		}
		w.checkBooks()
		f.hangUp(w)
		w.stop()
		if !strings.Contains(log.String(), "older than what a node was told") {
			t.Errorf("the log says %s", log.String())
		}
		w.start()
	})
}

func (f *forwarding) hangUp(w *world) {
	w.t.Helper()
	close(f.in)
	check(w.t, f.end())
}

// The whole story of a restore: a paid purchase, one whose payment was declined, and a token redeemed at two nodes, of
// which the second one is heard first this time. Everything ends as it did, and nobody is charged again.
func TestARestoredVerifierEndsEverythingAsItWas(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		k, session := w.bytes(), w.bytes()
		paid, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		declined, _ := w.redeem(w.nodes[0], sale{reference: "tp_decline"})
		twice, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", k: k, session: session})
		again, offer := w.redeem(w.nodes[1], sale{reference: "tp_ok", k: k, session: session})
		w.submit(w.nodes[0], 0, paid, declined, twice)
		w.submit(w.nodes[1], 0, again)
		time.Sleep(5 * time.Minute)
		before := map[string]*offerv1.Purchase{}
		for _, r := range []string{paid, declined, twice} {
			before[r] = w.get(r)
		}
		want(t, before[paid], offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, "REASON_UNSPECIFIED")
		want(t, before[twice], offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, "REASON_UNSPECIFIED")

		w.restoreOld()
		settled, placed := w.called("SettleUnits"), w.called("PlaceOrders")
		second := w.reforward(w.nodes[1], again)
		third := w.reforward(w.nodes[2])
		time.Sleep(10 * time.Minute)
		if w.called("SettleUnits") != settled || w.called("PlaceOrders") != placed {
			t.Error("fulfillment was asked before every journal was read")
		}
		want(t, w.get(again), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, "REASON_UNSPECIFIED")
		w.recovering(offer)

		first := w.reforward(w.nodes[0], paid, declined, twice)
		time.Sleep(10 * time.Minute)
		for _, r := range []string{paid, twice} {
			p := w.get(r)
			want(t, p, offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, "REASON_UNSPECIFIED")
			if p.GetLicenceKey() != before[r].GetLicenceKey() {
				t.Error("another licence key than before")
			}
			if n := w.charges(p.GetPurchaseId()); n != 1 {
				t.Errorf("%d charges", n)
			}
		}
		if p := w.get(declined); p.GetOutcome() == "" || w.charges(p.GetPurchaseId()) != 0 {
			t.Errorf("the declined purchase is %v", p)
		}
		if free, leased, sold := w.f.count(w.drop); free != 2 || leased != 0 || sold != 2 {
			t.Errorf("%d free, %d leased, %d sold; want 2, 0, 2", free, leased, sold)
		}
		if a := w.audit(); a.GetJobsOpen() != 0 {
			t.Errorf("%d jobs open", a.GetJobsOpen())
		}
		w.checkBooks()
		heard := false
		for len(first.out) > 0 {
			heard = len((<-first.out).GetOutcomes().GetPurchases()) > 0 || heard
		}
		if !heard {
			t.Error("the node heard nothing: its cursor is of what was lost")
		}

		for _, f := range []*forwarding{first, second, third} {
			f.hangUp(w)
		}
		w.stop() // the next start waits for nobody
		w.start()
		late, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.present(late)
		time.Sleep(time.Minute)
		want(t, w.get(late), offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, "REASON_UNSPECIFIED")
	})
}

// A token was redeemed at two nodes, and the verifier was lost before the second one forwarded. Afterwards that one is heard
// first: fulfillment denies its unit, since the token has the other one, and must get it back.
func TestARestoredVerifierGivesBackWhatIsDenied(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		k, session := w.bytes(), w.bytes()
		first, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", k: k, session: session})
		second, _ := w.redeem(w.nodes[1], sale{reference: "tp_ok", k: k, session: session})
		w.submit(w.nodes[0], 0, first)
		time.Sleep(5 * time.Minute)
		before := w.get(first)
		want(t, before, delivered, noReason)

		w.restoreOld()
		w.reforward(w.nodes[1], second).hangUp(w)
		w.reforward(w.nodes[0], first).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		time.Sleep(10 * time.Minute)
		after := w.get(second)
		want(t, after, delivered, noReason)
		if after.GetLicenceKey() != before.GetLicenceKey() || w.charges(after.GetPurchaseId()) != 1 {
			t.Errorf("another licence key, or %d charges", w.charges(after.GetPurchaseId()))
		}
		if free, leased, sold := w.f.count(w.drop); free != 1 || leased != 0 || sold != 1 {
			t.Errorf("%d free, %d leased, %d sold; want 1, 0, 1", free, leased, sold)
		}
		if a := w.audit(); a.GetJobsOpen() != 0 {
			t.Errorf("%d jobs open", a.GetJobsOpen())
		}
		w.checkBooks()
	})
}

// recovering asks for what needs to know everything.
func (w *world) recovering(offer string) {
	w.t.Helper()
	var o offerv1.OfferToken
	check(w.t, token.DecodeTrusted(offer, &o))
	_, cancelled := w.verifier().CancelRedemption(w.t.Context(), &verifierv1.CancelRedemptionRequest{
		TokenId: o.GetTokenId(), DropId: ids.Text(o.GetDropId()), ViewerSessionId: o.GetViewerSessionId(), Price: o.GetPrice(),
	})
	_, unsold := w.redeem(w.nodes[0], sale{unleased: true})
	_, read := w.verifier().GetPurchase(w.t.Context(), &verifierv1.GetPurchaseRequest{
		Credential: &verifierv1.GetPurchaseRequest_OfferToken{OfferToken: unsold},
	})
	_, refund := w.refund("while recovering", token.PurchaseID(o.GetTokenId()), 0) // of a purchase that is here
	_, choice := w.verifier().ChooseMakeGood(w.t.Context(), &verifierv1.ChooseMakeGoodRequest{
		Credential: &verifierv1.ChooseMakeGoodRequest_OfferToken{OfferToken: offer}, Choice: wantMoney,
	})
	for what, err := range map[string]error{"a definite no": cancelled, "a purchase that is not there": read, "a refund": refund, "a choice": choice} {
		if status.Code(err) != codes.Unavailable || rpcerr.Reason(err) != errorsv1.Reason_REASON_STORE_RECOVERING {
			w.t.Errorf("%s while recovering: got %v", what, err)
		}
	}
}

// A node that retired before the backup was taken is not waited for: it will not come.
func TestARestoredVerifierDoesNotWaitForRetiredNodes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		sold, _ := w.redeem(w.nodes[2], sale{reference: "tp_ok"})
		f := w.open(w.nodes[2], 1<<40)
		f.ack()
		f.send(3, sold)
		f.ack()
		f.seal(5, 3, 1)
		f.ack()
		f.hangUp(w)
		time.Sleep(time.Minute)
		w.stop()
		check(t, verifier.MarkRestored(t.Context(), w.db, time.Now()))
		w.start()
		later, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.reforward(w.nodes[0], later).hangUp(w)
		time.Sleep(time.Minute)
		want(t, w.get(later), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, noReason)
		w.reforward(w.nodes[1]).hangUp(w)
		time.Sleep(time.Minute)
		want(t, w.get(later), delivered, noReason)
		want(t, w.get(sold), delivered, noReason)
	})
}

// A node that says nothing of its journal's head is waited for; one that is gone for good is named by the operator.
func TestARestoredVerifierWaitsForSilentNodesUntilTold(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 0, receipt)
		time.Sleep(time.Minute)
		w.restoreOld()
		for _, n := range w.nodes[:2] {
			if n == w.nodes[0] {
				w.reforward(n, receipt).hangUp(w)
			} else {
				w.reforward(n).hangUp(w)
			}
		}
		w.submit(w.nodes[2], 0, receipt) // an old program's Hello has no head
		time.Sleep(time.Hour)
		want(t, w.get(receipt), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, "REASON_UNSPECIFIED")

		w.stop()
		w.cfg.RecoverWithout = []string{w.nodes[2].id}
		w.start()
		time.Sleep(time.Minute)
		want(t, w.get(receipt), offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, "REASON_UNSPECIFIED")
		if n := w.charges(w.get(receipt).GetPurchaseId()); n != 1 {
			t.Errorf("%d charges", n)
		}
		w.checkBooks()
	})
}

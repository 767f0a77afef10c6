package verifier_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// speechless is a provider that can be made not to say what it has of a purchase.
type speechless struct {
	*testpsp.Provider
	away  atomic.Bool
	asked atomic.Int64
}

func (s *speechless) Intents(ctx context.Context, purchaseID string) ([]payment.Intent, error) {
	s.asked.Add(1)
	if s.away.Load() {
		return nil, errors.New("the provider is away")
	}
	return s.Provider.Intents(ctx, purchaseID)
}

// overbought is a session that wants two of a drop that gives one: the first is paid, at node 0, the second refused, at
// node 1.
func (w *world) overbought() (paid, refused string) {
	w.t.Helper()
	w.drop = w.newDrop(1)
	session := w.bytes()
	paid, _ = w.redeem(w.nodes[0], sale{reference: "tp_ok", session: session})
	refused, _ = w.redeem(w.nodes[1], sale{reference: "tp_ok", session: session})
	w.submit(w.nodes[0], 0, paid)
	w.submit(w.nodes[1], 0, refused)
	w.pass(5 * time.Minute)
	want(w.t, w.get(paid), delivered, noReason)
	want(w.t, w.get(refused), offerv1.PurchaseState_PURCHASE_STATE_REFUSED, "REASON_VIEWER_LIMIT")
	return paid, refused
}

//rimlight:bubble its callers are bubbles
func (w *world) pass(d time.Duration) { time.Sleep(d) }

func (w *world) wantAsBefore(paid, refused string) {
	w.t.Helper()
	want(w.t, w.get(paid), delivered, noReason)
	want(w.t, w.get(refused), offerv1.PurchaseState_PURCHASE_STATE_REFUSED, "REASON_VIEWER_LIMIT")
	if n, m := w.charges(w.get(paid).GetPurchaseId()), w.charges(w.get(refused).GetPurchaseId()); n != 1 || m != 0 {
		w.t.Errorf("%d and %d charges, want 1 and 0", n, m)
	}
	w.checkBooks()
}

// What was paid before the restore keeps its share, although the journal of another purchase is heard first this time.
func TestARestoredVerifierCountsWhatWasPaidFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		paid, refused := w.overbought()
		w.restoreOld()
		w.reforward(w.nodes[1], refused).hangUp(w)
		w.reforward(w.nodes[0], paid).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		w.pass(10 * time.Minute)
		w.wantAsBefore(paid, refused)
	})
}

// While the provider does not answer, a limit is not decided, whichever replica looks, and other sessions' units are settled.
func TestARestoredVerifierWaitsForTheProvidersWord(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		provider := &speechless{Provider: w.psp}
		w.payment = provider
		w.start()
		paid, refused := w.overbought()
		provider.away.Store(true)
		w.restoreOld()
		other, _ := w.redeem(w.nodes[2], sale{reference: "tp_ok"})
		w.reforward(w.nodes[1], refused).hangUp(w)
		w.reforward(w.nodes[0], paid).hangUp(w)
		w.reforward(w.nodes[2], other).hangUp(w)
		second := w.replica()
		w.pass(time.Hour)
		for _, r := range []string{paid, refused} {
			want(t, w.get(r), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, noReason)
		}
		want(t, w.get(other), offerv1.PurchaseState_PURCHASE_STATE_UNIT_SETTLED, noReason) // its payment waits for the same
		w.stop()                                                                           // and again, with what was not decided
		w.start()
		w.pass(time.Minute)
		want(t, w.get(paid), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, noReason)
		provider.away.Store(false)
		w.pass(time.Hour)
		w.wantAsBefore(paid, refused)
		second()
	})
}

// What was paid and comes when the recovery is over, since its node was given up, is a purchase all the same, although
// another one has the session's share by then.
func TestAPaidPurchaseMayComeAfterTheRecovery(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		paid, refused := w.overbought()
		w.cfg.RecoverWithout = []string{w.nodes[0].id}
		w.restoreOld()
		w.reforward(w.nodes[1], refused).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		w.pass(10 * time.Minute)
		w.present(paid)
		w.pass(10 * time.Minute)
		want(t, w.get(paid), delivered, noReason)
		if n := w.charges(w.get(paid).GetPurchaseId()); n != 1 {
			t.Errorf("%d charges", n)
		}
		w.checkBooks()
	})
}

// history is a session's purchases at a drop, and in which order nodes forward them when the verifier is restored.
type history struct {
	share      uint32
	references []string // of the purchases, in the order of their first arrival
	nodes      []int    // of the purchases
	replay     []int    // nodes
	late       int      // the node that is given up, and whose receipts are shown after the recovery; 3: none
}

func drawHistory(t *rapid.T) history {
	n := rapid.IntRange(1, 7).Draw(t, "purchases")
	return history{
		share: rapid.Uint32Range(1, 3).Draw(t, "share"),
		references: rapid.SliceOfN(rapid.SampledFrom([]string{
			"tp_ok", "tp_ok", "tp_ok", "tp_decline", "tp_decline_once", "tp_timeout_after", "tp_action_required",
		}), n, n).Draw(t, "references"),
		nodes:  rapid.SliceOfN(rapid.IntRange(0, 2), n, n).Draw(t, "nodes"),
		replay: rapid.Permutation([]int{0, 1, 2}).Draw(t, "replay"),
		late:   rapid.IntRange(0, 3).Draw(t, "late"),
	}
}

// Whatever a session did, and in whatever order it is heard again: what the provider took is a purchase, nothing is taken
// twice, and nobody gets more than the share but for what was paid.
func TestAnyRestoredHistoryIsWhatTheProviderSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.ActionWindow = time.Hour
			w.start()
			h.play(w)
		})
		if t.Failed() {
			rt.Fatalf("history %+v", h)
		}
	})
}

func (h history) play(w *world) {
	w.drop = w.newDrop(h.share)
	session, journals := w.bytes(), make([][]string, 3)
	receipts := make([]string, len(h.nodes))
	for i, n := range h.nodes {
		receipts[i], _ = w.redeem(w.nodes[n], sale{reference: h.references[i], session: session})
		w.submit(w.nodes[n], int64(len(journals[n])), receipts[i])
		journals[n] = append(journals[n], receipts[i])
		w.pass(time.Minute)
	}
	w.pass(5 * time.Minute)
	paid, counted := map[string]bool{}, 0
	for _, r := range receipts {
		p := w.get(r)
		paid[r] = w.charges(p.GetPurchaseId()) == 1
		if paid[r] || p.GetState() == actionRequired {
			counted++
		}
	}
	w.cfg.RecoverWithout = nil
	if h.late < 3 {
		w.cfg.RecoverWithout = []string{w.nodes[h.late].id}
	}
	w.restoreOld()
	for _, n := range h.replay {
		if n != h.late {
			w.reforward(w.nodes[n], journals[n]...).hangUp(w)
		}
	}
	w.pass(10 * time.Minute)
	late := 0
	if h.late < 3 {
		for _, r := range slices.Backward(journals[h.late]) {
			w.present(r)
			late++
		}
	}
	w.pass(10 * time.Minute)
	live := 0
	for i, r := range receipts {
		p := w.get(r)
		charges := w.charges(p.GetPurchaseId())
		if isDelivered := p.GetState() == delivered; isDelivered != (charges == 1) || charges > 1 || paid[r] && !isDelivered {
			w.t.Errorf("purchase %d: %v %v with %d charges; paid before: %v", i, p.GetState(), p.GetReason(), charges, paid[r])
		}
		if p.GetState() == delivered || p.GetState() == actionRequired {
			live++
		}
	}
	if live > max(int(h.share), counted)+late {
		w.t.Errorf("%d purchases of a share of %d; %d were counted before, %d came late", live, h.share, counted, late)
	}
	w.checkBooks()
}

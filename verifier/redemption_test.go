package verifier_test

import (
	"cmp"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
)

func TestDuplicateIsReleasedAndResolvesToTheWinner(t *testing.T) {
	for name, wait := range map[string]time.Duration{"arrives before the unit is settled": 0, "arrives after the end": time.Minute} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.start()
				time.Sleep(time.Second) // the nodes' keys are known, whoever goes away now
				away := wait == 0
				w.f.mu.Lock()
				w.f.away = away
				w.f.mu.Unlock()
				k, session := w.bytes(), w.bytes()
				first, _ := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_ok"})
				second, _ := w.redeem(w.nodes[1], sale{k: k, session: session, reference: "tp_ok"})
				w.present(first)
				time.Sleep(wait)
				w.present(second)
				if away {
					time.Sleep(20 * time.Second)
					if free, leased, _ := w.f.count(w.drop); free != 0 || leased != 2 {
						t.Errorf("a unit moved before the winner had one: %d free, %d leased", free, leased)
					}
					w.f.mu.Lock()
					w.f.away = false
					w.f.mu.Unlock()
				}
				time.Sleep(time.Minute)
				a, b := w.get(first), w.get(second)
				want(t, a, delivered, noReason)
				if !proto.Equal(a, b) {
					t.Errorf("the two receipts show two purchases: %v and %v", a, b)
				}
				if free, leased, sold := w.f.count(w.drop); free != 1 || leased != 0 || sold != 1 {
					t.Errorf("%d free, %d leased, %d sold; want the duplicate's unit free", free, leased, sold)
				}
				if n := w.charges(a.GetPurchaseId()); n != 1 {
					t.Errorf("%d charges", n)
				}
				if d := w.audit().GetDrops()[0]; d.GetDuplicates() != 1 || d.GetReceived() != 1 {
					t.Errorf("the audit counts %d purchases and %d duplicates", d.GetReceived(), d.GetDuplicates())
				}
				w.checkBooks()
			})
		})
	}
}

func TestSpareIsPromotedWhenTheWinnerIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		k, session := w.bytes(), w.bytes()
		first, _ := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_decline", unleased: true})
		second, _ := w.redeem(w.nodes[1], sale{k: k, session: session, reference: "tp_ok", price: 799})
		w.submit(w.nodes[0], 0, first, second) // one batch: both are there before the unit is asked for
		time.Sleep(time.Minute)
		p := w.get(first)
		want(t, p, delivered, noReason)
		if p.GetPrice().GetMinorUnits() != 799 {
			t.Errorf("the price is %d, want the promoted token's", p.GetPrice().GetMinorUnits())
		}
		if free, leased, sold := w.f.count(w.drop); free != 0 || leased != 0 || sold != 1 {
			t.Errorf("%d free, %d leased, %d sold", free, leased, sold)
		}
		w.checkBooks()
	})
}

func TestRedemptionsThatEndWithoutMoney(t *testing.T) {
	for _, c := range []struct {
		name   string
		sale   sale
		state  offerv1.PurchaseState
		reason string
	}{
		{"unit that fulfillment denies", sale{unleased: true}, voucher, "REASON_UNIT_DENIED"},
		{"accepted after the token's end and the grace", sale{late: 2*time.Second + time.Microsecond}, refusedState, "REASON_TOKEN_EXPIRED"},
		{"accepted within the grace", sale{late: 2 * time.Second}, delivered, noReason},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.start()
				c.sale.reference = "tp_ok"
				receipt, _ := w.redeem(w.nodes[0], c.sale)
				w.present(receipt)
				time.Sleep(time.Minute)
				p := w.get(receipt)
				want(t, p, c.state, c.reason)
				if (p.GetVoucher() != nil) != (c.state == voucher) {
					t.Errorf("voucher %v in %v", p.GetVoucher(), c.state)
				}
				if n := w.charges(p.GetPurchaseId()); (n > 0) != (c.state == delivered) {
					t.Errorf("%d charges in %v", n, c.state)
				}
				if _, leased, _ := w.f.count(w.drop); leased != 0 {
					t.Errorf("%d units still leased", leased)
				}
			})
		})
	}
}

// An offer that was made after the drop's planned close counts by fulfillment's word, within the cap, and by no other.
func TestOffersInExtraTimeAreHeldToFulfillmentsWord(t *testing.T) {
	for rule, c := range map[string]struct {
		extra, closed time.Duration // given back, and how long ago the later close was when the offer was made
		forged        bool
		drop          string
		state         offerv1.PurchaseState
		reason        string
	}{
		"in time":                            {extra: 5 * time.Second, closed: -time.Second, state: delivered, reason: noReason},
		"after the later close, too":         {extra: 5 * time.Second, closed: time.Microsecond, state: refusedState, reason: "REASON_TOKEN_EXPIRED"},
		"by more than a quarter of the plan": {extra: 23 * time.Second, closed: -time.Second, state: refusedState, reason: "REASON_TOKEN_EXPIRED"},
		"by a word that was changed":         {extra: 5 * time.Second, closed: -time.Second, forged: true, state: refusedState, reason: "REASON_TOKEN_EXPIRED"},
		"by a word about another drop":       {extra: 5 * time.Second, closed: -time.Second, drop: "0198c5b2-0000-7000-8000-000000000001", state: refusedState, reason: "REASON_TOKEN_EXPIRED"},
	} {
		t.Run(rule, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				signer, err := token.NewSigner(make([]byte, 32), offerv1.KeyOwner_KEY_OWNER_FULFILLMENT, "", "")
				check(t, err)
				w.f.mu.Lock()
				w.f.keys = append(w.f.keys, signer.Public())
				w.f.mu.Unlock()
				w.start()
				drop, err := ids.Bytes(cmp.Or(c.drop, w.drop))
				check(t, err)
				closes := time.Now().Add(-c.closed)
				word, err := timeback.Sign(signer, drop, timeback.Window{Open: closes.Add(-c.extra - 90*time.Second), Planned: closes.Add(-c.extra), Close: closes})
				check(t, err)
				if c.forged {
					raw := []byte(word)
					raw[len(raw)-3] ^= 1
					word = string(raw)
				}
				receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", timeBack: word})
				w.present(receipt)
				time.Sleep(time.Minute)
				want(t, w.get(receipt), c.state, c.reason)
				if _, leased, _ := w.f.count(w.drop); leased != 0 {
					t.Errorf("%d units still leased", leased)
				}
			})
		})
	}
}

func TestViewerLimitIsExact(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		drop, session := w.newDrop(2), w.bytes()
		var receipts []string
		for i, reference := range []string{"tp_decline", "tp_ok", "tp_ok", "tp_ok", "tp_ok"} {
			r, _ := w.redeem(w.nodes[i%3], sale{drop: drop, session: session, reference: reference})
			receipts = append(receipts, r)
		}
		w.submit(w.nodes[0], 0, receipts[0])
		time.Sleep(time.Minute) // the first one failed: it does not count
		w.submit(w.nodes[1], 0, receipts[1:]...)
		time.Sleep(time.Minute)
		states := map[offerv1.PurchaseState]int{}
		for _, r := range receipts {
			states[w.get(r).GetState()]++
		}
		if states[delivered] != 2 || states[refusedState] != 2 || states[voucher] != 1 {
			t.Errorf("states %v, want 2 delivered, 2 refused, 1 voucher", states)
		}
		want(t, w.get(receipts[4]), refusedState, "REASON_VIEWER_LIMIT")
		if free, leased, sold := w.f.count(drop); free != 3 || leased != 0 || sold != 2 {
			t.Errorf("%d free, %d leased, %d sold", free, leased, sold)
		}
		w.checkBooks()
	})
}

func TestReplaysHaveTheSameAnswer(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		ok, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		declined, _ := w.redeem(w.nodes[0], sale{reference: "tp_decline"})
		w.submit(w.nodes[0], 0, ok, declined)
		time.Sleep(time.Minute)
		before := []*offerv1.Purchase{w.get(ok), w.get(declined)}
		for range 3 {
			w.submit(w.nodes[0], 0, ok, declined)
			w.present(ok)
			w.present(declined)
			time.Sleep(time.Minute)
			w.stop()
			w.start()
		}
		for i, after := range []*offerv1.Purchase{w.get(ok), w.get(declined)} {
			if !proto.Equal(before[i], after) {
				t.Errorf("a replay changed the answer from %v to %v", before[i], after)
			}
		}
		if n := w.charges(before[0].GetPurchaseId()); n != 1 {
			t.Errorf("%d charges", n)
		}
		w.f.mu.Lock()
		if w.f.watchedFrom != 1 {
			t.Errorf("orders were followed from cursor %d, want 1: the delivery was used before the restart", w.f.watchedFrom)
		}
		w.f.mu.Unlock()
		keys := &token.Keys{}
		r, err := w.verifier().ListKeys(t.Context(), &verifierv1.ListKeysRequest{PageSize: 1})
		check(t, err)
		for keys.Add(r.GetKeys()...); r.GetNextPageToken() != ""; keys.Add(r.GetKeys()...) {
			r, err = w.verifier().ListKeys(t.Context(), &verifierv1.ListKeysRequest{PageSize: 1, PageToken: r.GetNextPageToken()})
			check(t, err)
		}
		outcome, err := keys.OpenOutcome(before[1].GetOutcome())
		check(t, err)
		if text := before[1].GetVoucher().GetText(); text == "" {
			t.Error("the buyer cannot hand the voucher to anybody")
		} else if _, err := keys.OpenVoucher(text); err != nil {
			t.Errorf("the voucher's text: %v", err)
		}
		before[1].Voucher.Text = "" // a secret: not in what is signed for others to read
		if outcome.GetPurchaseId() != before[1].GetPurchaseId() || !proto.Equal(outcome.GetVoucher(), before[1].GetVoucher()) {
			t.Errorf("the outcome %v is not the purchase's %v", outcome, before[1])
		}
	})
}

func TestForgedAndMalformedEntriesAreKeptAsideAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		k := w.bytes()
		good, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", k: k})
		forged := []byte(good)
		forged[len(forged)-1] ^= 1                                         // another last character may be no base64 at all: both are rejected
		foreign, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", k: k}) // another session under the same token id
		noSerial, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", edit: func(r *offerv1.Receipt) { r.Serial = 0 }})
		noTime, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", edit: func(r *offerv1.Receipt) { r.AcceptTime = nil }})
		badTime, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", edit: func(r *offerv1.Receipt) {
			r.AcceptTime = &timestamppb.Timestamp{Nanos: -5}
		}})
		badLease, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", edit: func(r *offerv1.Receipt) { r.LeaseId = "x" }})
		impostor, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", edit: func(r *offerv1.Receipt) { r.NodeId = w.nodes[1].id }})
		last, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		ack := w.submit(w.nodes[0], 0, good, string(forged), foreign, noSerial, noTime, badTime, badLease, impostor, "%%", last)
		if got := ack.GetRejectedSequences(); len(got) != 8 || got[0] != 2 || got[7] != 9 || ack.GetSequence() != 10 {
			t.Errorf("rejected %v up to %d, want 2 to 9 of 10", got, ack.GetSequence())
		}
		time.Sleep(time.Minute)
		want(t, w.get(good), delivered, noReason)
		want(t, w.get(last), delivered, noReason)
		if d := w.audit().GetDrops(); d[0].GetReceived() != 2 {
			t.Errorf("%d purchases, want 2", d[0].GetReceived())
		}
		for text, reason := range map[string]errorsv1.Reason{
			string(forged): errorsv1.Reason_REASON_TOKEN_INVALID, "%%": errorsv1.Reason_REASON_TOKEN_INVALID,
			noSerial: errorsv1.Reason_REASON_TOKEN_INVALID, foreign: errorsv1.Reason_REASON_TOKEN_MISMATCH,
		} {
			_, err := w.verifier().PresentReceipt(t.Context(), &verifierv1.PresentReceiptRequest{Receipt: text})
			if status.Code(err) != codes.InvalidArgument || rpcerr.Reason(err) != reason {
				t.Errorf("presenting it: %v, want %v", err, reason)
			}
		}
	})
}

func TestReceiptUnderAnUnknownKeyIsNotRejected(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		time.Sleep(time.Second)
		late := w.newNode()
		w.f.mu.Lock()
		keys := w.f.keys
		w.f.keys = keys[:len(keys)-1]
		w.f.mu.Unlock()
		receipt, offer := w.redeem(late, sale{reference: "tp_ok"})
		st := w.open(late, 0)
		st.send(1, receipt)
		if err := st.end(); status.Code(err) != codes.Unavailable || rpcerr.Reason(err) != errorsv1.Reason_REASON_KEY_UNKNOWN {
			t.Fatalf("the stream ended with %v, want UNAVAILABLE KEY_UNKNOWN", err)
		}
		_, err := w.verifier().GetPurchase(t.Context(), &verifierv1.GetPurchaseRequest{Credential: &verifierv1.GetPurchaseRequest_OfferToken{OfferToken: offer}})
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_KEY_UNKNOWN {
			t.Errorf("reading by token: %v", err)
		}
		time.Sleep(2 * time.Second)
		w.f.mu.Lock()
		w.f.keys = keys
		w.f.mu.Unlock()
		if ack := w.submit(late, 0, receipt); len(ack.GetRejectedSequences()) != 0 {
			t.Errorf("rejected %v", ack.GetRejectedSequences())
		}
		time.Sleep(time.Minute)
		want(t, w.get(receipt), delivered, noReason)
	})
}

func TestSameUnitFromAnotherNodeIsNotReleased(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		k, session := w.bytes(), w.bytes()
		first, _ := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_ok", serial: 7})
		second, _ := w.redeem(w.nodes[1], sale{k: k, session: session, reference: "tp_ok", serial: 7, unleased: true,
			edit: func(r *offerv1.Receipt) { r.LeaseId = w.nodes[0].lease }})
		w.submit(w.nodes[0], 0, first, second)
		time.Sleep(time.Minute)
		w.present(second)
		time.Sleep(time.Minute)
		want(t, w.get(second), delivered, noReason)
		if free, leased, sold := w.f.count(w.drop); free != 0 || leased != 0 || sold != 1 {
			t.Errorf("%d free, %d leased, %d sold; the winner's own unit must stay sold", free, leased, sold)
		}
		w.checkBooks()
	})
}

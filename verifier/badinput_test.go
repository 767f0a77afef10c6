package verifier_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
)

// credentialCalls are the calls that a receipt or an offer token opens.
func (w *world) credentialCalls() map[string]func(receipt, offer string) error {
	v := w.verifier()
	return map[string]func(receipt, offer string) error{
		"GetPurchase": func(receipt, offer string) error {
			r := &verifierv1.GetPurchaseRequest{Credential: &verifierv1.GetPurchaseRequest_OfferToken{OfferToken: offer}}
			if receipt != "" {
				r.Credential = &verifierv1.GetPurchaseRequest_Receipt{Receipt: receipt}
			}
			_, err := v.GetPurchase(w.t.Context(), r)
			return err
		},
		"WatchPurchase": func(receipt, offer string) error {
			r := &verifierv1.WatchPurchaseRequest{Credential: &verifierv1.WatchPurchaseRequest_OfferToken{OfferToken: offer}}
			if receipt != "" {
				r.Credential = &verifierv1.WatchPurchaseRequest_Receipt{Receipt: receipt}
			}
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
			defer cancel()
			return v.WatchPurchase(r, &watcher[verifierv1.WatchPurchaseResponse]{ctx: ctx})
		},
		"ChooseMakeGood": func(receipt, offer string) error {
			r := &verifierv1.ChooseMakeGoodRequest{Choice: wantMoney, Credential: &verifierv1.ChooseMakeGoodRequest_OfferToken{OfferToken: offer}}
			if receipt != "" {
				r.Credential = &verifierv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt}
			}
			_, err := v.ChooseMakeGood(w.t.Context(), r)
			return err
		},
	}
}

// Whoever shows a text that gives no access hears why, whichever call it is, and nothing of the text is logged.
func TestTextsThatOpenNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var log bytes.Buffer
		w.log = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
		w.start()
		k, session := w.bytes(), w.bytes()
		receipt, offer := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_ok"})
		w.present(receipt)
		time.Sleep(time.Minute)
		outcome := w.get(receipt).GetOutcome()
		otherSession, _ := w.redeem(w.nodes[0], sale{k: k, reference: "tp_ok"})
		otherDrop, _ := w.redeem(w.nodes[0], sale{k: k, session: session, drop: w.newDrop(1), reference: "tp_ok"})
		_, unsold := w.redeem(w.nodes[0], sale{})
		time.Sleep(time.Hour) // both tokens are long over: a purchase is still its buyer's to see
		stranger := w.newNode()
		w.f.mu.Lock()
		w.f.keys = w.f.keys[:len(w.f.keys)-1] // it has not joined
		w.f.mu.Unlock()
		strange, strangeOffer := w.redeem(stranger, sale{})
		flipped := func(text string) string {
			b := []byte(text)
			if b[len(b)/2]++; b[len(b)/2] > 'z' || b[len(b)/2] == '[' {
				b[len(b)/2] = 'A'
			}
			return string(b)
		}
		none := codes.OK
		for rule, c := range map[string]struct {
			receipt, offer string
			code           codes.Code
			reason         errorsv1.Reason
		}{
			"the receipt, an hour later":      {receipt, "", none, 0},
			"the offer token, an hour later":  {"", offer, none, 0},
			"a receipt with a character else": {flipped(receipt), "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a token with a character else":   {"", flipped(offer), codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a receipt cut short":             {receipt[:len(receipt)-8], "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a token cut short":               {"", offer[:len(offer)-8], codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"the head of a receipt":           {receipt[:8], "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a receipt with more behind it":   {receipt + "AAAA", "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"an offer token as a receipt":     {offer, "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a receipt as an offer token":     {"", receipt, codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"an outcome as a receipt":         {outcome, "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a zero byte":                     {"\x00", "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_INVALID},
			"a stranger's receipt":            {strange, "", codes.Unavailable, errorsv1.Reason_REASON_KEY_UNKNOWN},
			"a stranger's offer token":        {"", strangeOffer, codes.Unavailable, errorsv1.Reason_REASON_KEY_UNKNOWN},
			"the token id in another session": {otherSession, "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_MISMATCH},
			"the token id in another drop":    {otherDrop, "", codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_MISMATCH},
			"a token that nobody redeemed":    {"", unsold, codes.NotFound, errorsv1.Reason_REASON_PURCHASE_NOT_FOUND},
			"nothing":                         {"", "", codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
		} {
			calls := w.credentialCalls()
			if c.offer == "" && c.receipt != "" {
				calls["PresentReceipt"] = func(receipt, _ string) error {
					_, err := w.verifier().PresentReceipt(t.Context(), &verifierv1.PresentReceiptRequest{Receipt: receipt})
					return err
				}
			}
			for method, call := range calls {
				err := call(c.receipt, c.offer)
				code, reason := c.code, c.reason
				if code == none && method == "ChooseMakeGood" { // delivered: there is nothing to choose
					code, reason = codes.FailedPrecondition, errorsv1.Reason_REASON_NO_CHOICE_PENDING
				}
				if status.Code(err) != code || rpcerr.Reason(err) != reason {
					t.Errorf("%s of %s: got %v, want %v %v", method, rule, err, code, reason)
				}
			}
		}
		if lines := log.String(); strings.Contains(lines, receipt[20:60]) || strings.Contains(lines, strange[20:60]) || strings.Contains(lines, "a call failed") {
			t.Errorf("the log says %s", lines)
		}
	})
}

// PostgreSQL keeps no zero byte in a text: that is the caller's mistake, and nobody else waits for it.
func TestTextsThatNoStoreKeeps(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		ack := w.submit(w.nodes[0], 0, "a\x00b", receipt)
		if got := ack.GetRejectedSequences(); len(got) != 1 || ack.GetSequence() != 2 {
			t.Errorf("rejected %v of %d", got, ack.GetSequence())
		}
		time.Sleep(time.Minute)
		want(t, w.get(receipt), delivered, noReason)
		var offer offerv1.Receipt
		check(t, token.DecodeTrusted(receipt, &offer))
		_, refund := w.refund("zero", offer.GetPurchaseId(), 1, func(r *verifierv1.RefundPurchaseRequest) { r.Reason = "a\x00b" })
		_, request := w.refund("zero\x00", offer.GetPurchaseId(), 1)
		_, found := w.support().FindPurchases(t.Context(), &verifierv1.FindPurchasesRequest{PurchaseIdPrefix: "\x00"})
		for what, err := range map[string]error{
			"a reason": refund, "a request id": request, "a prefix": found, "an intent": w.complete("pi_\x00", false),
		} {
			if code := status.Code(err); code != codes.OK && code != codes.InvalidArgument && code != codes.FailedPrecondition || err != nil && rpcerr.Reason(err) == 0 {
				t.Errorf("%s with a zero byte: %v", what, err)
			}
		}
	})
}

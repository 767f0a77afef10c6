package region_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

func TestChoiceIsPassedOnToTheVerifier(t *testing.T) {
	inOpenDrop(t, 100, 100, func(t *testing.T, w *world) {
		token := w.mustOffer(1)
		receipt := w.mustRedeem(1, token).GetReceipt()
		choose := func(edit func(*offerv1.ChooseMakeGoodRequest)) (*offerv1.ChooseMakeGoodResponse, error) {
			r := &offerv1.ChooseMakeGoodRequest{
				Choice: offerv1.MakeGood_MAKE_GOOD_MONEY, Credential: &offerv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt},
			}
			edit(r)
			return w.node.ChooseMakeGood(t.Context(), r)
		}
		m, err := choose(func(*offerv1.ChooseMakeGoodRequest) {})
		if err != nil || m.GetPurchase().GetState() != offerv1.PurchaseState_PURCHASE_STATE_REFUNDING {
			t.Errorf("got %v, %v", m, err)
		}
		_, err = choose(func(r *offerv1.ChooseMakeGoodRequest) {
			r.Credential = &offerv1.ChooseMakeGoodRequest_OfferToken{OfferToken: token}
		})
		wantReason(t, err, "NO_CHOICE_PENDING")
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("got %v", err)
		}
		_, err = choose(func(r *offerv1.ChooseMakeGoodRequest) {
			r.Credential = &offerv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt[:len(receipt)-2] + "AA"}
		})
		wantReason(t, err, "TOKEN_INVALID")
		w.verifier.cut()
		_, err = choose(func(*offerv1.ChooseMakeGoodRequest) {})
		wantReason(t, err, "UPSTREAM_UNREACHABLE")
	})
}

func TestVoucherIsVerifiedAtTheEdgeAndFrozenInTheReceipt(t *testing.T) {
	inOpenDrop(t, 100, 100, func(t *testing.T, w *world) {
		time.Sleep(time.Second) // the verifier's key is known
		text, err := w.verifier.signer.Voucher(&offerv1.SignedVoucher{VoucherId: bytes.Repeat([]byte{7}, 16)})
		if err != nil {
			t.Fatal(err)
		}
		redeem := func(i int, token, voucher string) (*offerv1.RedeemOfferResponse, error) {
			r := w.redeemRequest(i, token)
			r.Voucher = voucher
			return w.node.RedeemOffer(t.Context(), r)
		}
		token := w.mustOffer(1)
		_, err = redeem(1, token, strings.Repeat("A", len(text)))
		wantReason(t, err, "KEY_UNKNOWN")
		_, err = redeem(1, token, text[:len(text)-4]+"AAAA")
		wantReason(t, err, "TOKEN_INVALID")
		_, err = redeem(1, token, token)
		wantReason(t, err, "TOKEN_INVALID")
		first, err := redeem(1, token, text)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := decodeReceipt(first.GetReceipt()); err != nil || r.GetVoucher() != text {
			t.Errorf("the receipt carries %q, %v", r.GetVoucher(), err)
		}
		again, err := redeem(1, token, text)
		if err != nil || again.GetReceipt() != first.GetReceipt() {
			t.Errorf("the same again: %v", err)
		}
		_, err = redeem(1, token, "")
		wantReason(t, err, "REQUEST_REPLAYED")
	})
}

package region_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
)

// Whoever shows a text that gives no access hears why, whichever call it is, and the verifier is not asked.
func TestTextsThatOpenNothing(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		offer := w.mustOffer(1)
		receipt := w.mustRedeem(1, offer).GetReceipt()
		stranger, err := token.NewSigner(make([]byte, 32), offerv1.KeyOwner_KEY_OWNER_NODE, "stranger", "far")
		if err != nil {
			t.Fatal(err)
		}
		strange, err := stranger.Receipt(&offerv1.Receipt{OfferToken: offer})
		if err != nil {
			t.Fatal(err)
		}
		calls := map[string]func(receipt, offer string) error{
			"GetPurchase": func(receipt, offer string) error {
				r := &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: offer}}
				if receipt != "" {
					r.Credential = &offerv1.GetPurchaseRequest_Receipt{Receipt: receipt}
				}
				_, err := w.node.GetPurchase(t.Context(), r)
				return err
			},
			"WatchPurchase": func(receipt, offer string) error {
				r := &offerv1.WatchPurchaseRequest{Credential: &offerv1.WatchPurchaseRequest_OfferToken{OfferToken: offer}}
				if receipt != "" {
					r.Credential = &offerv1.WatchPurchaseRequest_Receipt{Receipt: receipt}
				}
				return w.node.WatchPurchase(r, newWatcher[offerv1.WatchPurchaseResponse](t.Context()))
			},
			"ChooseMakeGood": func(receipt, offer string) error {
				r := &offerv1.ChooseMakeGoodRequest{
					Choice: offerv1.MakeGood_MAKE_GOOD_MONEY, Credential: &offerv1.ChooseMakeGoodRequest_OfferToken{OfferToken: offer},
				}
				if receipt != "" {
					r.Credential = &offerv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt}
				}
				_, err := w.node.ChooseMakeGood(t.Context(), r)
				return err
			},
			"RedeemOffer": func(receipt, offer string) error {
				r := w.redeemRequest(2, offer+receipt) // one of them is empty
				_, err := w.node.RedeemOffer(t.Context(), r)
				return err
			},
		}
		for rule, c := range map[string]struct {
			receipt, offer string
			code           codes.Code
			reason         string
		}{
			"a receipt cut short":         {receipt[:len(receipt)-8], "", codes.InvalidArgument, "TOKEN_INVALID"},
			"a token cut short":           {"", offer[:len(offer)-8], codes.InvalidArgument, "TOKEN_INVALID"},
			"the head of a receipt":       {receipt[:8], "", codes.InvalidArgument, "TOKEN_INVALID"},
			"a receipt with more behind":  {receipt + "AAAA", "", codes.InvalidArgument, "TOKEN_INVALID"},
			"an offer token as a receipt": {offer, "", codes.InvalidArgument, "TOKEN_INVALID"},
			"a receipt as an offer token": {"", receipt, codes.InvalidArgument, "TOKEN_INVALID"},
			"a zero byte":                 {"\x00", "", codes.InvalidArgument, "TOKEN_INVALID"},
			"nothing":                     {"", "", codes.InvalidArgument, "TOKEN_INVALID"},
			"a stranger's receipt":        {strange, "", codes.Unavailable, "KEY_UNKNOWN"},
		} {
			for method, call := range calls {
				reason := c.reason
				if method == "RedeemOffer" && c.receipt == offer { // there it is an offer token, somebody else's
					reason = "TOKEN_MISMATCH"
				}
				err := call(c.receipt, c.offer)
				if status.Code(err) != c.code || rpcerr.Reason(err).String() != "REASON_"+reason {
					t.Errorf("%s of %s: got %v, want %v %s", method, rule, err, c.code, reason)
				}
			}
		}
	})
}

// A no of the verifier's about what the viewer shows ends a watch: it would be the same for ever.
func TestAWatchThatTheVerifierRefusesEnds(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		offer := w.mustOffer(1)
		stream := newWatcher[offerv1.WatchPurchaseResponse](t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- w.node.WatchPurchase(&offerv1.WatchPurchaseRequest{Credential: &offerv1.WatchPurchaseRequest_OfferToken{OfferToken: offer}}, stream)
		}()
		<-stream.seen
		w.verifier.hangUp <- rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_TOKEN_MISMATCH, "it belongs to another session")
		select {
		case err := <-ended:
			wantReason(t, err, "TOKEN_MISMATCH")
		case <-stream.seen:
			t.Error("the verifier was asked again")
		case <-time.After(time.Minute):
			t.Error("the stream goes on")
		}
	})
}

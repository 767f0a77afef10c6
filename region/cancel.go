package region

import (
	"context"
	"crypto/sha256"
	"errors"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
)

// isSoldOut tells the definite no that soldOutFor has to make true.
func isSoldOut(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.reason == errorsv1.Reason_REASON_SOLD_OUT
}

// mostCancels bounds the questions of one node that are at the verifier at a time. At half, a burst of late viewers hears
// "not here" more often than "sold out"; at double, a drop that everybody wants after its end takes twice as much of the
// verifier.
const mostCancels = 64

// wanted is what a viewer is about to be told a definite no about.
type wanted struct {
	tokenID []byte
	drop    string
	session [16]byte
	price   *offerv1.Money
	body    [sha256.Size]byte
}

// soldOutFor says "sold out" once it is true whatever happened elsewhere: another node may have accepted this very token,
// and its answer been lost. So the verifier cancels the token first (docs/settlement.md 3.2), and where a redemption was
// there before, that is the answer. While the verifier cannot be asked the no is not definite.
//
// It is the one question to the centre on a viewer's path, and only for those who get nothing.
func (n *Node) soldOutFor(ctx context.Context, w wanted) (accepted, error) {
	k := tokenID(w.tokenID)
	t := n.till
	t.mu.Lock()
	known := t.cancelled[w.drop][k]
	t.mu.Unlock()
	if known {
		return accepted{}, soldOut(w.drop)
	}
	notNow := refuse(errorsv1.Reason_REASON_NO_UNIT_HERE, "this node holds no unit of the drop now; another region may",
		"drop_id", w.drop).retry(noUnitRetry)
	select {
	case n.cancels <- struct{}{}:
		defer func() { <-n.cancels }()
	default:
		return accepted{}, notNow
	}
	call, cancel := n.callContext(ctx)
	defer cancel()
	answer, err := n.deps.Verifier.CancelRedemption(call, &verifierv1.CancelRedemptionRequest{
		TokenId: w.tokenID, DropId: w.drop, ViewerSessionId: w.session[:], Price: w.price,
	})
	if err != nil {
		n.log.Info("a token could not be cancelled", "drop_id", w.drop, "error", err)
		return accepted{}, firstOf(ctx, notNow)
	}
	if answer.GetReceipt() == "" {
		n.till.cancel(w.drop, k)
		n.metrics.redemptions.WithLabelValues("cancelled").Inc()
		return accepted{}, soldOut(w.drop)
	}
	return n.acceptedElsewhere(answer.GetReceipt(), w)
}

// acceptedElsewhere answers with another node's receipt, as that node would have.
func (n *Node) acceptedElsewhere(text string, w wanted) (accepted, error) {
	r, _, err := n.keys.OpenReceipt(text)
	if err != nil {
		return accepted{}, n.wantKeys(err)
	}
	if bodyOf(r.GetPaymentReference(), r.GetVoucher(), r.GetDeliveryDetails()) != w.body {
		return accepted{}, refuse(errorsv1.Reason_REASON_REQUEST_REPLAYED,
			"this offer was redeemed before with another payment reference or other delivery details; the first stands")
	}
	n.metrics.redemptions.WithLabelValues("repeated").Inc()
	return accepted{
		sale: &sale{purchaseID: r.GetPurchaseId(), drop: w.drop, acceptTime: r.GetAcceptTime().AsTime()}, receipt: text, region: r.GetRegion(),
	}, nil
}

// cancel remembers a definite no, so that it stays one here should a unit come back.
func (t *till) cancel(drop string, k tokenID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancelled[drop] == nil {
		t.cancelled[drop] = map[tokenID]bool{}
	}
	t.cancelled[drop][k] = true
}

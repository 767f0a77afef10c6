package world

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// repeat redeems the same token at the region that accepted it.
func (v *viewer) repeat(ctx context.Context, token string, first bought) {
	err := v.try(ctx, first.region, func(call context.Context, region string) error {
		answer, err := v.at(region).RedeemOffer(call, v.order(token))
		switch {
		case err == nil && answer.GetReceipt() != first.receipt: // of another disk; I8 judges it
			v.keep(ctx, boughtAt(region, answer), 0, false, 1)
		case err == nil:
			v.w.watch.answer(Answer{Viewer: v.Number, Region: boughtAt(region, answer).region, PurchaseID: answer.GetPurchaseId(), Receipt: answer.GetReceipt()})
		}
		return err
	})
	if err != nil && !elsewhere(err) {
		v.leave(ctx, "a repeated RedeemOffer", err)
	}
}

// vanish redeems and is gone before an answer can come, for good.
func (v *viewer) vanish(ctx context.Context, token string) {
	ctx, cancel := context.WithTimeout(ctx, lastMile+time.Duration(v.draws.Int64N(int64(200*time.Millisecond))))
	defer cancel()
	if answer, err := v.at(v.Regions[0]).RedeemOffer(ctx, v.order(token)); err == nil {
		// It came sooner than that, and the viewer keeps it without ever looking again.
		v.w.watch.refusal("RedeemOffer answered to a viewer who went away: " + answer.GetRegion())
	}
}

// doubleTap redeems at two regions at once: each gives a unit away, and one of them comes back.
func (v *viewer) doubleTap(ctx context.Context, token string) {
	tapped := time.Since(v.w.start)
	var taps sync.WaitGroup
	for i, region := range v.Regions[:min(2, len(v.Regions))] {
		taps.Go(func() {
			err := v.try(ctx, region, func(call context.Context, region string) error {
				answer, err := v.at(region).RedeemOffer(call, v.order(token))
				if err == nil {
					v.keep(ctx, boughtAt(region, answer), tapped, i == 0, 1)
				}
				return err
			})
			if err != nil {
				v.leave(ctx, "a double RedeemOffer", err)
				v.heardNo(err)
			}
		})
	}
	taps.Wait()
}

// present shows a receipt in another region: it counts there like a forwarded entry.
func (v *viewer) present(ctx context.Context, b bought) {
	if v.route = v.others(b.region); len(v.route) == 0 {
		return
	}
	_, err := v.roam(ctx, func(ctx context.Context, region string) error {
		answer, err := v.at(region).GetPurchase(ctx, &offerv1.GetPurchaseRequest{
			Hints: v.hints(), Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: b.receipt},
		})
		if err == nil && answer.GetPurchase().GetPurchaseId() != b.purchaseID {
			v.w.watch.surprise("a receipt of purchase %s gave purchase %s", b.purchaseID, answer.GetPurchase().GetPurchaseId())
		}
		return err
	})
	if err != nil && !elsewhere(err) {
		v.leave(ctx, "GetPurchase", err)
	}
}

// others are the regions but one, nearest first.
func (v *viewer) others(region string) []string {
	return slices.DeleteFunc(slices.Clone(v.Regions), func(r string) bool { return r == region })
}

// changeOrder repeats a redemption with another payment: the first stands.
func (v *viewer) changeOrder(ctx context.Context, token string, first bought) {
	v.mustFail(ctx, first.region, "a RedeemOffer with another payment", errorsv1.Reason_REASON_REQUEST_REPLAYED,
		func(order *offerv1.RedeemOfferRequest) { order.PaymentReference += "-other" }, token)
}

// steal redeems under another session.
func (v *viewer) steal(ctx context.Context, token string) {
	v.mustFail(ctx, v.Regions[0], "a RedeemOffer of a stolen token", errorsv1.Reason_REASON_TOKEN_MISMATCH,
		func(order *offerv1.RedeemOfferRequest) {
			order.ViewerSessionId = slices.Clone(order.ViewerSessionId)
			order.ViewerSessionId[15] ^= 1
		}, token)
}

func (v *viewer) mustFail(ctx context.Context, region, what string, reason errorsv1.Reason, change func(*offerv1.RedeemOfferRequest), token string) {
	order := v.order(token)
	change(order)
	err := v.try(ctx, region, func(call context.Context, region string) error {
		answer, err := v.at(region).RedeemOffer(call, order)
		if err == nil && v.w.disks(region) > 1 { // another disk knows nothing of the first
			v.keep(ctx, boughtAt(region, answer), 0, false, 1)
			return status.Error(codes.Unavailable, "the node lost its disk")
		}
		return err
	})
	if rpcerr.Reason(err) != reason && !elsewhere(err) && ctx.Err() == nil {
		v.w.watch.surprise("%s ended in %v %v, want %v", what, status.Code(err), rpcerr.Reason(err), reason)
	}
}

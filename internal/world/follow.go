package world

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// follow keeps a receipt until it has the final outcome: over streams at the region that accepted, and elsewhere when
// they break.
func (v *viewer) follow(ctx context.Context, b bought) {
	draws := v.w.cfg.draws("follow "+b.region, v.Number)
	regions := append([]string{b.region}, v.others(b.region)...)
	var did deeds
	over := make(chan struct{})
	defer close(over)
	for i := 0; ; i++ {
		final, err := v.followOnce(ctx, b, regions[i%len(regions)], &did, over)
		if final || ctx.Err() != nil {
			return
		}
		if !elsewhere(err) && !errors.Is(err, io.EOF) {
			v.w.watch.surprise("WatchPurchase: %v %v", status.Code(err), rpcerr.Reason(err))
			return
		}
		unknown := rpcerr.Reason(err) == errorsv1.Reason_REASON_KEY_UNKNOWN
		if unknown && v.w.cfg.losesKeys(b.region) && time.Since(v.w.start) > v.w.plan.over+newsOfKeys {
			return
		}
		if !sleep(ctx, 100*time.Millisecond+time.Duration(draws.Int64N(int64(time.Second)))) {
			return
		}
	}
}

// deeds are what was done about a receipt, once.
type deeds struct{ answered, chose, refunded bool }

func (v *viewer) followOnce(ctx context.Context, b bought, region string, did *deeds, over <-chan struct{}) (final bool, err error) {
	life := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v.at(region).WatchPurchase(ctx, &offerv1.WatchPurchaseRequest{
		Hints: v.hints(), Credential: &offerv1.WatchPurchaseRequest_Receipt{Receipt: b.receipt},
	})
	if err != nil {
		return false, err
	}
	told := Told{PurchaseID: b.purchaseID, Region: region}
	var last *offerv1.Purchase
	defer func() { v.w.watch.tell(told) }()
	for {
		m, err := stream.Recv()
		if err != nil {
			return false, err
		}
		p := m.GetPurchase()
		if last.GetState() != p.GetState() || proto.Equal(last, p) { // else something else of it changed: what is charged
			told.States = append(told.States, int(p.GetState()))
		}
		last = p
		if p.GetState() == offerv1.PurchaseState_PURCHASE_STATE_ACTION_REQUIRED && v.Payment.Confirms && !did.answered {
			did.answered = v.confirm(ctx, p.GetPaymentIntentId())
		}
		if p.GetState() == offerv1.PurchaseState_PURCHASE_STATE_CHOICE_REQUIRED && !did.chose {
			did.chose = true
			v.follows.Go(func() { v.choose(life, b, p.GetChoiceDeadline().AsTime()) })
		}
		if early := v.refund == refundsEarly; v.refund != noRefund && !did.refunded && (early || p.GetOrderId() != "" && buyer.Final(p.GetState())) {
			did.refunded = true
			v.follows.Go(func() { v.refundAs(life, b.purchaseID, p.GetCharged().GetMinorUnits(), over) })
		}
		if buyer.Final(p.GetState()) {
			v.w.watch.ending(Ending{
				Viewer: v.Number, Receipt: b.receipt, PurchaseID: p.GetPurchaseId(), State: p.GetState().String(),
				Reason: p.GetReason().String(), Outcome: p.GetOutcome(), LicenceKey: p.GetLicenceKey(), Voucher: p.GetVoucher().GetText(),
			})
			if text := p.GetVoucher().GetText(); text != "" {
				v.spend(life, p.GetPurchaseId(), text)
			}
			return true, nil
		}
	}
}

// confirm answers at the provider's page, a few seconds later.
func (v *viewer) confirm(ctx context.Context, intentID string) bool {
	page := verifierv1.NewTestPaymentServiceClient(v.w.net.Conn(viewerHost(v.viewerPlan), "verifier"))
	sleep(ctx, 3*time.Second)
	for range 10 {
		err := v.try(ctx, "", func(ctx context.Context, _ string) error {
			_, err := page.CompleteAction(ctx, &verifierv1.CompleteActionRequest{PaymentIntentId: intentID, Decline: v.Payment.Declines})
			return err
		})
		if err == nil || rpcerr.Reason(err) == errorsv1.Reason_REASON_NO_ACTION_PENDING {
			return true
		}
		if !elsewhere(err) && ctx.Err() == nil {
			v.w.watch.surprise("CompleteAction: %v %v", status.Code(err), rpcerr.Reason(err))
			return true
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
	return false
}

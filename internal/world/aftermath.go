package world

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What viewers and finance do about money is drawn apart from the rest, so that the audience is the same without it.

// aftermath is what one viewer's purchases lead to.
type aftermath struct {
	choice choosing
	after  time.Duration // how long the viewer thinks about it
	refund refunding
	spends int // how many purchases want the viewer's voucher at once
}

// choosing is how a viewer answers when goods cannot come.
type choosing int

const (
	wantsMoney choosing = iota
	wantsVoucher
	choosesNothing
	choosesLate // when the time is over
	wavers      // both at once, in two regions
	choosings
)

// refunding is what finance does about a purchase.
type refunding int

const (
	noRefund refunding = iota
	refundsAll
	refundsPart
	refundsAgain    // the same request three times, two of them at once
	refundsTogether // three requests at once, of more than was paid
	refundsEarly    // asks before the goods are delivered, until they are
	refundings
)

func (c Config) newAftermath(viewer int) aftermath {
	r := c.draws("aftermath", viewer)
	a := aftermath{choice: choosing(r.IntN(int(choosings))), after: time.Duration(r.Int64N(int64(10 * time.Second))), spends: 1 + 2*r.IntN(2)}
	if kind := refunding(1 + r.IntN(int(refundings)-1)); r.Float64() < c.Refunds {
		a.refund = kind
	}
	return a
}

// Choice is a viewer's word about what makes its purchase good, as it was taken.
type Choice struct {
	Viewer     int
	PurchaseID string
	Choice     offerv1.MakeGood
}

// choose answers whatever the viewer's plan says.
func (v *viewer) choose(ctx context.Context, b bought, deadline time.Time) {
	say := func(choice offerv1.MakeGood, route []string, draws *rand.Rand) {
		_, err := v.insist(ctx, draws, route, func(ctx context.Context, region string) error {
			_, err := v.at(region).ChooseMakeGood(ctx, &offerv1.ChooseMakeGoodRequest{
				Hints: v.hints(), Credential: &offerv1.ChooseMakeGoodRequest_Receipt{Receipt: b.receipt}, Choice: choice,
			})
			return err
		})
		switch {
		case err == nil:
			v.w.watch.choice(Choice{v.Number, b.purchaseID, choice})
		case rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING && !elsewhere(err) && ctx.Err() == nil:
			v.w.watch.surprise("ChooseMakeGood: %v %v", status.Code(err), rpcerr.Reason(err))
		}
	}
	draws := func(n int) *rand.Rand { return v.w.cfg.draws("choose "+b.region, 2*v.Number+n) }
	const money, voucher = offerv1.MakeGood_MAKE_GOOD_MONEY, offerv1.MakeGood_MAKE_GOOD_VOUCHER
	if v.choice == choosesLate {
		sleep(ctx, time.Until(deadline))
	}
	if v.choice == choosesNothing || !sleep(ctx, v.after) {
		return
	}
	switch v.choice {
	case wantsMoney:
		say(money, v.Regions, draws(0))
	case wavers:
		v.follows.Go(func() { say(money, v.Regions, draws(0)) })
		back := slices.Clone(v.Regions)
		slices.Reverse(back)
		say(voucher, back, draws(1))
	default:
		say(voucher, v.Regions, draws(0))
	}
}

// RefundAnswer is a refund that finance was told of: it must happen.
type RefundAnswer struct {
	Request, PurchaseID, RefundID string
	MinorUnits                    int64
}

// refundAs lets finance act on a purchase as planned. over is closed when the purchase is final, and paid known from then on.
func (v *viewer) refundAs(ctx context.Context, purchaseID string, paid int64, over <-chan struct{}) {
	ask := func(name string, amount int64) {
		v.follows.Go(func() { v.askRefund(ctx, fmt.Sprintf("refund-%s-%s", purchaseID, name), purchaseID, amount, over) })
	}
	some := max(1, paid*int64(1+v.Number%3)/4)
	switch v.refund {
	case refundsAll:
		ask("all", 0)
	case refundsPart:
		ask("part", some)
	case refundsAgain:
		ask("again", some)
		ask("again", some)
		if sleep(ctx, 20*time.Second) {
			ask("again", some)
		}
	case refundsTogether:
		for i := range 3 {
			ask(fmt.Sprint(i), max(1, paid/2))
		}
	case refundsEarly:
		ask("early", int64(1+v.Number%700))
	}
}

// askRefund repeats one request until it has an answer.
func (v *viewer) askRefund(ctx context.Context, request, purchaseID string, amount int64, over <-chan struct{}) {
	support := verifierv1.NewSupportServiceClient(v.w.net.Conn("finance", "verifier"))
	r := &verifierv1.RefundPurchaseRequest{RequestId: request, PurchaseId: purchaseID, Reason: "broken on arrival"}
	if amount != 0 {
		r.Amount = v.w.cfg.Drops[v.Drop].price(amount)
	}
	for ctx.Err() == nil {
		final := false
		select {
		case <-over:
			final = true
		default:
		}
		var answer *verifierv1.RefundPurchaseResponse
		err := v.try(ctx, "", func(ctx context.Context, _ string) (err error) {
			answer, err = support.RefundPurchase(ctx, r)
			return err
		})
		reason := rpcerr.Reason(err)
		early := !final && (reason == errorsv1.Reason_REASON_NOT_REFUNDABLE || reason == errorsv1.Reason_REASON_PURCHASE_NOT_FOUND)
		switch {
		case err == nil:
			v.w.watch.refund(RefundAnswer{request, purchaseID, answer.GetRefund().GetRefundId(), answer.GetRefund().GetAmount().GetMinorUnits()})
			return
		case early:
			sleep(ctx, 3*time.Second)
		case elsewhere(err):
			sleep(ctx, time.Second)
		case reason == errorsv1.Reason_REASON_NOT_REFUNDABLE || ctx.Err() != nil:
			return
		default:
			v.w.watch.surprise("RefundPurchase: %v %v", status.Code(err), reason)
			return
		}
	}
}

// spend takes the voucher of a purchase to the next drop of the same title, in as many purchases at once as planned, each
// under a session of its own and in another region first: whoever has the text may spend it.
func (v *viewer) spend(ctx context.Context, purchaseID, text string) {
	encore := v.w.cfg.encore(v.Drop)
	if encore < 0 || v.voucher != "" || !v.w.watch.first("voucher of "+purchaseID) { // one voucher leads to no other
		return
	}
	d := v.w.cfg.Drops[encore]
	for i := range v.spends {
		r := v.w.cfg.draws("spend "+purchaseID, i)
		p := *v.viewerPlan
		p.Number, p.Drop, p.Habit, p.voucher, p.refund = spenders*(i+1)+v.Number, encore, Plain, text, noRefund
		p.RequestID = fmt.Sprintf("spend-%s-%d", purchaseID, i)
		p.Payment = pick(r, v.w.cfg.Payments)
		p.Regions = slices.Concat(v.Regions[i%len(v.Regions):], v.Regions[:i%len(v.Regions)])
		for j := len(canary) + 2; j < len(p.Session); j++ {
			p.Session[j] = byte(r.Uint32())
		}
		if p.Details = ""; d.Physical {
			p.address()
		}
		s := v.w.newViewer(&p, r)
		v.follows.Go(func() {
			defer s.follows.Wait()
			if !v.w.sleepUntil(ctx, d.Opens+v.after/2) || time.Since(v.w.start) > d.Opens+d.Lasts {
				return
			}
			if token, ok := s.ask(ctx, s.RequestID); ok {
				s.redeem(ctx, token, true)
			}
		})
	}
}

// spenders is more than there are viewers: those who spend a viewer's voucher have its number plus a multiple.
const spenders = 100_000

// encore is the place of the next drop in which a voucher of a drop can be spent; -1: none.
func (c Config) encore(drop int) int {
	from := c.Drops[drop]
	for i, d := range c.Drops {
		if i > drop && d.Title == from.Title && d.Opens > from.Opens {
			return i
		}
	}
	return -1
}

// price is an amount in the drop's currency.
func (d Drop) price(minorUnits int64) *offerv1.Money {
	return &offerv1.Money{CurrencyCode: d.Currency, MinorUnits: minorUnits}
}

// failOnPurpose buys what it cannot pay for, over and over: only so many price locks come of it.
func (v *viewer) failOnPurpose(ctx context.Context) {
	for i := range failures {
		token, ok := v.ask(ctx, fmt.Sprintf("%s-%d", v.RequestID, i))
		if !ok {
			return
		}
		b, ok := v.redeem(ctx, token, false)
		if !ok {
			return
		}
		if !v.awaitEnd(ctx, b) {
			return
		}
	}
}

// failures is how often they try: more often than there are price locks.
const failures = priceLocks + 2

// awaitEnd returns when a purchase is final.
func (v *viewer) awaitEnd(ctx context.Context, b bought) bool {
	for range 60 {
		var answer *offerv1.GetPurchaseResponse
		_, err := v.roam(ctx, func(ctx context.Context, region string) (err error) {
			answer, err = v.at(region).GetPurchase(ctx, &offerv1.GetPurchaseRequest{Hints: v.hints(), Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: b.receipt}})
			return err
		})
		if err == nil && answer.GetPurchase().GetOutcome() != "" {
			return true
		}
		if err != nil && !elsewhere(err) && ctx.Err() == nil && status.Code(err) != codes.NotFound {
			v.w.watch.surprise("GetPurchase: %v %v", status.Code(err), rpcerr.Reason(err))
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
	return false
}

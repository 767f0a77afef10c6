package world

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
)

const (
	// tryTimeout is when a call that nothing answers is made elsewhere: three of the matrix's longest round trips.
	tryTimeout = time.Second
	// patience is how long a viewer stays who finds no unit or no region.
	patience = 30 * time.Second
	// pause is the mean wait after every region said no for the first time: what fulfillment needs to move a unit between
	// nodes. It doubles up to longestPause.
	pause, longestPause = time.Second, 4 * time.Second
)

// viewer walks through one plan. Its goroutine alone uses it.
type viewer struct {
	*viewerPlan
	w     *world
	draws *rand.Rand
	route []string // where calls go, in this order; begins as Regions
	calls atomic.Int64

	// envelopes are the viewer's details sealed for each token that it holds: whoever redeems one again sends the same.
	envelopes map[string][]byte

	follows sync.WaitGroup
}

// bought is a receipt, and which of Config.Regions gave it.
type bought struct{ region, purchaseID, receipt string }

// boughtAt is what the node that was asked answered with: its own receipt, or that of another region's that had accepted
// the offer before.
func boughtAt(asked string, a interface {
	GetRegion() string
	GetPurchaseId() string
	GetReceipt() string
}) bought {
	if a.GetRegion() != site(asked) {
		asked = a.GetRegion()
	}
	return bought{asked, a.GetPurchaseId(), a.GetReceipt()}
}

func (w *world) admitViewers(ctx context.Context) {
	var audience sync.WaitGroup
	defer audience.Wait()
	for i := range w.plan.viewers {
		p := &w.plan.viewers[i]
		audience.Go(func() {
			if !w.sleepUntil(ctx, p.Arrives) {
				return
			}
			v := w.newViewer(p, w.cfg.draws("visit", p.Number))
			defer v.follows.Wait()
			v.visit(ctx)
		})
	}
}

// at is a node of a region.
func (v *viewer) at(region string) offerv1.OfferServiceClient {
	turn := v.Number + int(v.calls.Add(1))
	return offerv1.NewOfferServiceClient(v.w.net.Conn(viewerHost(v.viewerPlan), v.w.reach(region, turn)))
}

func (v *viewer) hints() *offerv1.RoutingHints {
	return &offerv1.RoutingHints{DropId: v.w.drops[v.Drop], RequestId: v.RequestID}
}

// wish is the purchase that the viewer's first request may become.
func (v *viewer) wish() string {
	drop, err := ids.Bytes(v.w.drops[v.Drop])
	if err != nil {
		panic("world: " + err.Error()) // fulfillment made it
	}
	return token.PurchaseID(token.DeriveTokenID(v.Session[:], drop, v.RequestID))
}

func (v *viewer) consent() *offerv1.Consent {
	if v.Details == "" {
		return nil
	}
	return &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}}
}

// visit is the whole of it. Receipts are followed on their own.
func (v *viewer) visit(ctx context.Context) {
	if v.Habit == Claims || v.Habit == ClaimsTwice {
		v.claim(ctx)
		return
	}
	if v.Habit == Fails && !v.Abandons {
		v.failOnPurpose(ctx)
		return
	}
	token, ok := v.ask(ctx, v.RequestID)
	if !ok || !sleep(ctx, v.Think) || v.Abandons {
		return
	}
	switch v.Habit {
	case DoubleTaps:
		v.doubleTap(ctx, token)
		return
	case Steals:
		v.steal(ctx, token)
		return
	case Vanishes:
		v.vanish(ctx, token)
		return
	}
	first, ok := v.redeem(ctx, token, true)
	if !ok {
		return
	}
	switch v.Habit {
	case Replays:
		for range 3 {
			v.repeat(ctx, token, first)
		}
	case Presents:
		v.present(ctx, first)
	case PresentsLate:
		d := v.w.cfg.Drops[v.Drop]
		if v.w.sleepUntil(ctx, d.Opens+d.Lasts+v.Think) {
			v.present(ctx, first)
		}
	case ChangesOrder:
		v.changeOrder(ctx, token, first)
	case BuysTwice: // another region's cap does not know the first purchase: the verifier's does
		v.route = append(slices.Clone(v.route[1:]), v.route[0])
		if second, ok := v.ask(ctx, v.RequestID+"-again"); ok {
			v.redeem(ctx, second, false)
		}
	}
}

// roam makes one call as a router would: at the nearest region, and elsewhere when that cannot serve it now. After a
// round of all it waits a little, until patience ends.
func (v *viewer) roam(ctx context.Context, call func(context.Context, string) error) (tries int, err error) {
	return v.insist(ctx, v.draws, v.route, call)
}

// insist is roam along a route, for calls beside the viewer's visit.
func (v *viewer) insist(ctx context.Context, draws *rand.Rand, route []string, call func(context.Context, string) error) (tries int, err error) {
	end := time.Now().Add(patience)
	for mean := pause; ; mean = min(2*mean, longestPause) {
		for _, region := range route {
			tries++
			if err = v.try(ctx, region, call); !elsewhere(err) || ctx.Err() != nil {
				return tries, err
			}
		}
		if wait := mean/2 + time.Duration(draws.Int64N(int64(mean))); time.Now().After(end) || !sleep(ctx, wait) {
			return tries, err
		}
	}
}

func (v *viewer) try(ctx context.Context, region string, call func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return call(ctx, region)
}

// elsewhere tells answers that another region, or the same a little later, may better.
func elsewhere(err error) bool {
	switch rpcerr.Reason(err) {
	case errorsv1.Reason_REASON_NO_UNIT_HERE:
		return !mutant.On(mutant.NoUnitIsFinal)
	case errorsv1.Reason_REASON_OVERLOADED, errorsv1.Reason_REASON_JOURNAL_FULL, errorsv1.Reason_REASON_NO_DEPOT:
		return true
	}
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.DeadlineExceeded
}

// refusals that a viewer may meet and that end its wish.
var refusals = []errorsv1.Reason{
	errorsv1.Reason_REASON_SOLD_OUT, errorsv1.Reason_REASON_NO_UNIT_HERE, errorsv1.Reason_REASON_DROP_NOT_OPEN,
	errorsv1.Reason_REASON_VIEWER_LIMIT, errorsv1.Reason_REASON_TOKEN_EXPIRED,
}

// leave notes why a wish ended, and what should not have ended it.
func (v *viewer) leave(ctx context.Context, method string, err error) {
	reason := rpcerr.Reason(err)
	switch {
	case ctx.Err() != nil:
	case slices.Contains(refusals, reason):
		v.w.watch.refusal(method + " " + reason.String())
	case elsewhere(err):
		v.w.watch.refusal(method + " " + status.Code(err).String())
	default:
		v.w.watch.surprise("%s of a viewer who is %q: %v", method, v.Habit, status.Code(err).String()+" "+reason.String())
	}
}

// ask gets an offer token.
func (v *viewer) ask(ctx context.Context, requestID string) (token string, ok bool) {
	hints := v.hints()
	hints.RequestId = requestID
	var answer *offerv1.RequestOfferResponse
	_, err := v.roam(ctx, func(ctx context.Context, region string) (err error) {
		answer, err = v.at(region).RequestOffer(ctx, &offerv1.RequestOfferRequest{
			Hints: hints, ViewerSessionId: v.Session[:], Consent: v.consent(),
		})
		return err
	})
	switch {
	case err != nil:
		v.leave(ctx, "RequestOffer", err)
		return "", false
	case answer.GetGranted() == nil:
		v.w.watch.refusal("RequestOffer refused " + answer.GetRefused().GetReason().String())
		return "", false
	}
	token = answer.GetGranted().GetOfferToken()
	v.envelopes[token] = v.seal(requestID, answer.GetGranted().GetOffer().GetDeliveryKeys())
	return token, true
}

func (v *viewer) order(token string) *offerv1.RedeemOfferRequest {
	return &offerv1.RedeemOfferRequest{
		Hints: v.hints(), OfferToken: token, ViewerSessionId: v.Session[:],
		PaymentReference: v.reference(), DeliveryDetails: v.envelopes[token], Consent: v.consent(),
		Voucher: v.voucher,
	}
}

// redeem buys, and follows what came of it.
func (v *viewer) redeem(ctx context.Context, token string, first bool) (bought, bool) {
	tapped := time.Since(v.w.start)
	var answer *offerv1.RedeemOfferResponse
	var node string
	tries, err := v.roam(ctx, func(ctx context.Context, region string) (err error) {
		node = region
		answer, err = v.at(region).RedeemOffer(ctx, v.order(token))
		return err
	})
	if err != nil {
		v.leave(ctx, "RedeemOffer", err)
		if first {
			v.heardNo(err)
		}
		return bought{}, false
	}
	b := boughtAt(node, answer)
	v.keep(ctx, b, tapped, first, tries)
	return b, true
}

// heardNo notes a no for good to the viewer's first wish.
func (v *viewer) heardNo(err error) {
	switch rpcerr.Reason(err) {
	case errorsv1.Reason_REASON_SOLD_OUT:
	case errorsv1.Reason_REASON_NO_UNIT_HERE:
		if !mutant.On(mutant.NoUnitIsFinal) {
			return
		}
	default:
		return
	}
	v.w.watch.no(No{v.Number, v.wish()})
}

// keep notes a receipt and follows it.
func (v *viewer) keep(ctx context.Context, b bought, tapped time.Duration, first bool, tries int) {
	v.w.watch.answer(Answer{
		Viewer: v.Number, Region: b.region, PurchaseID: b.purchaseID, Receipt: b.receipt,
		Tapped: tapped, Arrived: time.Since(v.w.start), First: first, Tries: tries,
	})
	v.follows.Go(func() {
		if d := v.w.cfg.Drops[v.Drop]; v.Habit == Forgets { // some come when nobody waits for receipts any more
			v.w.sleepUntil(ctx, d.Opens+d.Lasts+tokenTTL+5*v.Think)
		}
		v.follow(ctx, b)
	})
}

// claim asks and buys in one call; who claims twice makes the same call at the next region too.
func (v *viewer) claim(ctx context.Context) {
	if !sleep(ctx, v.Think) || v.Abandons {
		return
	}
	keys, ok := v.watchKeys(ctx)
	if !ok {
		return
	}
	request := &offerv1.ClaimOfferRequest{
		Hints: v.hints(), ViewerSessionId: v.Session[:], Consent: v.consent(), PaymentReference: v.reference(),
		DeliveryDetails: v.seal(v.RequestID, keys), MaxPrice: v.w.cfg.Drops[v.Drop].price(v.w.cfg.Drops[v.Drop].Price),
	}
	for round := range 2 {
		tapped := time.Since(v.w.start)
		var answer *offerv1.ClaimOfferResponse
		var node string
		tries, err := v.roam(ctx, func(ctx context.Context, region string) (err error) {
			node = region
			answer, err = v.at(region).ClaimOffer(ctx, request)
			return err
		})
		accepted := answer.GetAccepted()
		switch {
		case err != nil:
			v.leave(ctx, "ClaimOffer", err)
			v.heardNo(err)
			return
		case accepted == nil:
			v.w.watch.refusal("ClaimOffer refused " + answer.GetRefused().GetReason().String())
			return
		}
		v.keep(ctx, boughtAt(node, accepted), tapped, round == 0, tries)
		if v.Habit != ClaimsTwice {
			return
		}
		v.route = append(slices.Clone(v.route[1:]), v.route[0])
	}
}

package region

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/cardnumber"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/decide"
)

// wish is what RequestOffer and ClaimOffer have in common.
type wish struct {
	drop    string
	dropID  []byte // the same, 16 bytes
	session [16]byte
	tokenID []byte // K of this intention: docs/decisions/0002
	consent decide.Consent
}

func readWish(hints *offerv1.RoutingHints, session []byte, consent *offerv1.Consent) (wish, error) {
	dropID, err := ids.Bytes(hints.GetDropId())
	if err != nil {
		return wish{}, invalid("hints.drop_id", "must be a UUID")
	}
	if hints.GetRequestId() == "" {
		return wish{}, invalid("hints.request_id", "is required")
	}
	if len(session) != 16 {
		return wish{}, invalid("viewer_session_id", "must have 16 bytes")
	}
	return wish{
		drop: hints.GetDropId(), dropID: dropID, session: [16]byte(session), consent: readConsent(consent),
		tokenID: token.DeriveTokenID(session, dropID, hints.GetRequestId()),
	}, nil
}

func readConsent(m *offerv1.Consent) decide.Consent {
	var c decide.Consent
	for _, p := range m.GetGrantedPurposes() {
		switch p {
		case offerv1.Purpose_PURPOSE_PERSONALISATION:
			c.Personalisation = true
		case offerv1.Purpose_PURPOSE_DELIVERY:
			c.Delivery = true
		case offerv1.Purpose_PURPOSE_MEASUREMENT:
			c.Measurement = true
		}
	}
	return c.Restrict(m.GetSecGpc(), m.GetTcfString() != "" || m.GetGppString() != "")
}

// made is an offer with its token.
type made struct {
	offer *offerv1.Offer
	token *offerv1.OfferToken
	text  string
}

// decide makes an offer or refuses it, from memory alone: neither the disk nor the centre is asked. One of the three
// answers is set.
func (n *Node) decide(ctx context.Context, w wish) (*made, *offerv1.OfferRefused, error) {
	_, span := telemetry.Start(ctx, "region.decide")
	defer span.End()
	if n.Mode() != regionv1.RegionMode_REGION_MODE_SERVING || n.epoch() == 0 {
		return nil, nil, errDraining()
	}
	if n.room.full.Load() {
		return nil, nil, errJournalFull()
	}
	d, ok := n.findDrop(w.drop)
	if !ok {
		return nil, nil, n.noDrop(w.drop)
	}
	now, terms := n.deps.Now(), n.terms(d)
	bought, gone := n.till.viewer(w.drop, w.session)
	if bought > 0 && n.till.knows(token.PurchaseID(w.tokenID)) {
		bought-- // the question that led to this purchase comes again, and gets its answer again
	}
	decision := decide.Decide(terms, decide.Viewer{Session: w.session, Consent: w.consent, Bought: bought}, gone, now)
	n.metrics.offers.WithLabelValues(decision.Verdict.String()).Inc()
	span.Set("rimlight.verdict", decision.Verdict.String())
	switch decision.Verdict {
	case decide.NotOpen:
		return nil, nil, dropNotOpen(w.drop, terms, decision.State)
	case decide.SoldOut:
		return nil, nil, soldOut(w.drop)
	case decide.ViewerLimit:
		return nil, &offerv1.OfferRefused{
			Reason: errorsv1.Reason_REASON_VIEWER_LIMIT, Message: "This session has its share of the drop already.",
		}, nil
	}
	if d.physical() && !d.sentFrom(n.cfg.Region) {
		return nil, nil, noDepot(w.drop)
	}
	m, err := n.sign(w, d, decision, now)
	return m, nil, err
}

func (n *Node) sign(w wish, d *knownDrop, decision decide.Decision, now time.Time) (*made, error) {
	drop, expire := d.msg.GetDrop(), now.Add(decision.TTL).UTC().Truncate(time.Microsecond)
	m := &made{
		token: &offerv1.OfferToken{
			TokenId: w.tokenID, DropId: w.dropID, OfferVersion: drop.GetRevision(), Price: drop.GetPrice(),
			ViewerSessionId: w.session[:], Arm: decision.Arm, IssueTimeUs: now.UnixMicro(), ExpireTimeUs: expire.UnixMicro(),
		},
		offer: &offerv1.Offer{
			DropId: w.drop, OfferVersion: drop.GetRevision(), Title: drop.GetTitle(), Price: drop.GetPrice(),
			ExpireTime: timestamppb.New(expire), Arm: decision.Arm, Personalised: decision.Personalised, Region: n.cfg.Region,
			DeliveryKeys: d.deliveryKeys(n.cfg.Region),
		},
	}
	if decision.ExtraTime && !mutant.On(mutant.TimeBackUnproven) {
		m.token.TimeBack = drop.GetTimeBack()
	}
	var err error
	if m.text, err = n.keys.Sign(n.signer, m.token); err == nil {
		n.offers.count(w.drop, time.Now())
	}
	return m, err
}

// offerOf is the offer that a token was made of, for a claim that comes again. Whether it was personalised is not in a
// token, and is left out.
func (n *Node) offerOf(t *offerv1.OfferToken) *offerv1.Offer {
	drop := dropText(t)
	o := &offerv1.Offer{
		DropId: drop, OfferVersion: t.GetOfferVersion(), Price: t.GetPrice(), Arm: t.GetArm(),
		ExpireTime: timestamppb.New(time.UnixMicro(t.GetExpireTimeUs())), Region: n.cfg.Region,
	}
	if d, ok := n.findDrop(drop); ok {
		o.Title = d.msg.GetDrop().GetTitle()
	}
	return o
}

// checkDetails refuses what must never enter: card numbers, delivery details that this platform could read, and any without
// consent to use them. It returns the ids of the keys that the details are sealed to.
func checkDetails(paymentReference string, details []byte, consent decide.Consent) (recipients [][]byte, err error) {
	if cardnumber.In(paymentReference) {
		return nil, refuse(errorsv1.Reason_REASON_CARD_NUMBER_REFUSED, "payment_reference looks like a card number", "field", "payment_reference")
	}
	if len(details) == 0 {
		return nil, nil
	}
	if !consent.Delivery {
		return nil, refuse(errorsv1.Reason_REASON_CONSENT_REQUIRED, "delivery details need consent for delivery")
	}
	if recipients, err = sealed.Recipients(details); err != nil && !mutant.On(mutant.AddressInClear) {
		return nil, refuse(errorsv1.Reason_REASON_DETAILS_NOT_SEALED, "delivery_details must be sealed to the drop's delivery_keys", "field", "delivery_details")
	}
	return recipients, nil
}

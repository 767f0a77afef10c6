package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// apply moves a purchase along inside tx: the new state, everything that the saga commands, and the event. It is the
// only place where a purchase changes its state. saga.ErrIllegal when the event does not fit any more.
func (s *Service) apply(ctx context.Context, tx *store.Tx, p *store.Purchase, e saga.Event) error {
	var candidates []store.Candidate
	if p.State == saga.Received { // later ones have no spares
		var err error
		if candidates, err = tx.Candidates(ctx, p.TokenID); err != nil {
			return err
		}
	}
	return s.applyTo(ctx, tx, p, candidates, e)
}

// applyTo is apply where the redemptions of a purchase that is only received were read already.
func (s *Service) applyTo(ctx context.Context, tx *store.Tx, p *store.Purchase, candidates []store.Candidate, e saga.Event) error {
	old := *p
	var spares []store.Candidate
	for _, c := range candidates {
		if c.State == store.Spare {
			spares = append(spares, c)
		}
	}
	now := s.deps.Now()
	view := saga.Purchase{
		State: p.State, Reason: p.Reason, Attempt: p.Attempt, Spares: len(spares),
		NothingTaken: p.Charged == 0, Free: p.MinorUnits == 0,
	}
	var terms store.DropTerms
	if mayIssue(e) {
		var err error
		if terms, view.NoPriceLock, err = s.budget(ctx, tx, p, now); err != nil {
			return err
		}
	}
	next, commands, err := saga.Next(view, e, s.cfg.PaymentAttempts)
	if err != nil {
		return err
	}
	p.State, p.Reason, p.Attempt, p.StateTime = next.State, next.Reason, next.Attempt, now.UnixMicro()
	switch e {
	case saga.Settled:
		err = tx.MarkSettled(ctx, p.TokenID)
	case saga.Denied, saga.DeniedPaid:
		err = tx.SetCandidate(ctx, p.TokenID, p.Serial, p.LeaseID, store.Denied)
	}
	if err != nil {
		return err
	}
	if e == saga.DeclinedForNow && mutant.On(mutant.ReleaseBeforeLeave) {
		commands = append(commands, saga.ReleaseWinner)
	}
	for _, c := range commands {
		if err := s.obey(ctx, tx, p, c, spares, terms, now); err != nil {
			return err
		}
	}
	if err := tx.UpdatePurchase(ctx, &old, p); err != nil {
		return err
	}
	tx.Announce(p)
	return nil
}

// mayIssue tells the events that can end in a voucher.
func mayIssue(e saga.Event) bool {
	switch e {
	case saga.Denied, saga.DeniedPaid, saga.DeclinedForNow, saga.DeclinedForGood, saga.WindowOver, saga.ChoseVoucher, saga.RefundFailed:
		return true
	}
	return false
}

// budget reads the terms of the purchase's drop, and whether its viewer has had all the price locks that the channel
// gives. A drop that fulfillment never knew has no channel.
func (s *Service) budget(ctx context.Context, tx *store.Tx, p *store.Purchase, now time.Time) (store.DropTerms, bool, error) {
	terms, err := tx.DropTerms(ctx, p.DropID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return terms, false, err
	}
	had, err := tx.PriceLocks(ctx, p.ViewerSessionID, terms.ChannelID, now.Add(-s.cfg.PriceLockWindow).UnixMicro())
	return terms, had >= s.cfg.PriceLocks && !mutant.On(mutant.PriceLocksUncounted), err
}

// obey makes one command durable.
func (s *Service) obey(ctx context.Context, tx *store.Tx, p *store.Purchase, c saga.Command, spares []store.Candidate, terms store.DropTerms, now time.Time) error {
	due := now.UnixMicro()
	switch c {
	case saga.Settle:
		return tx.AddJob(ctx, store.Job{Kind: store.SettleJob, TokenID: p.TokenID}, due)
	case saga.Pay:
		p.IntentID = ""
		return tx.AddJob(ctx, store.Job{Kind: store.PayJob, TokenID: p.TokenID}, due)
	case saga.PlaceOrder:
		return tx.AddJob(ctx, store.Job{Kind: store.OrderJob, TokenID: p.TokenID}, due)
	case saga.PostCapture:
		fee := p.Fee
		if mutant.On(mutant.FeeUnposted) {
			fee = 0
		}
		t, err := ledger.Capture(p.PurchaseID.Hex(), p.CurrencyCode, p.Charged, p.StoredValue, fee)
		if err != nil {
			return err
		}
		if err := tx.Post(ctx, p, t, due); err != nil || !p.VoucherHeld {
			return err
		}
		return tx.SpendVoucher(ctx, p.TokenID)
	case saga.Promote:
		return s.promote(ctx, tx, p, spares[0])
	case saga.ReleaseWinner:
		return release(ctx, tx, p.TokenID, p.Serial, p.LeaseID, due)
	case saga.ReleaseSpares:
		if mutant.On(mutant.DuplicateLeaked) {
			return nil
		}
		for _, c := range spares {
			if err := release(ctx, tx, c.TokenID, c.Serial, c.LeaseID, due); err != nil {
				return err
			}
		}
		return nil
	case saga.IssueVoucher:
		p.Voucher = &store.Voucher{Kind: store.PriceLock, MinorUnits: p.MinorUnits, ExpireTime: now.Add(s.cfg.PriceLock).UnixMicro()}
		return s.issue(ctx, tx, p, terms, now)
	case saga.IssueStoredValue:
		p.Voucher = &store.Voucher{Kind: store.StoredValue, MinorUnits: p.Charged}
		t, err := ledger.Voucher(p.PurchaseID.Hex(), p.CurrencyCode, p.Charged)
		if err != nil {
			return err
		}
		return errors.Join(tx.Post(ctx, p, t, due), s.issue(ctx, tx, p, terms, now))
	case saga.ReturnVoucher:
		return s.returnVoucher(ctx, tx, p, due)
	case saga.AskChoice:
		return tx.AddJob(ctx, store.Job{Kind: store.ChoiceJob, TokenID: p.TokenID}, s.choiceDeadline(p))
	case saga.StartRefund:
		id, err := s.newID(now)
		if err != nil {
			return err
		}
		return tx.InsertRefund(ctx, &store.Refund{
			RefundID: id, RequestID: "make-good/" + p.PurchaseID.Hex(), TokenID: p.TokenID, MinorUnits: p.Charged,
			Reason: "the order could not be delivered", MakeGood: true, CreateTime: due,
		})
	case saga.SignOutcome: // stored, so that every later answer has the same bytes
		m := purchaseProto(p)
		text, err := s.signer.Outcome(&offerv1.Outcome{
			PurchaseId: m.GetPurchaseId(), State: m.GetState(), Reason: m.GetReason(), Price: m.GetPrice(),
			Voucher: m.GetVoucher(), FinalTime: m.GetStateTime(),
		})
		p.Outcome = text
		return err
	}
	return fmt.Errorf("command %d is unknown", c)
}

// promote makes a spare redemption the winner: its unit, and the price and payment that its own token and receipt say.
func (s *Service) promote(ctx context.Context, tx *store.Tx, p *store.Purchase, spare store.Candidate) error {
	r, err := s.openReceipt(spare.Receipt)
	if err != nil {
		return fmt.Errorf("opening the receipt of a spare redemption: %w", err)
	}
	p.NodeID, p.Serial, p.LeaseID = r.purchase.NodeID, r.purchase.Serial, r.purchase.LeaseID
	p.AcceptTime, p.PaymentReference = r.purchase.AcceptTime, r.purchase.PaymentReference
	p.CurrencyCode, p.MinorUnits, p.Charged = r.purchase.CurrencyCode, r.purchase.MinorUnits, r.purchase.Charged
	p.PresentedVoucher = r.purchase.PresentedVoucher
	return tx.SetCandidate(ctx, p.TokenID, p.Serial, p.LeaseID, store.Winner)
}

// release adds the job that frees a unit. Whoever calls it has left, in this transaction, every path that could settle it.
func release(ctx context.Context, tx *store.Tx, tokenID store.ID, serial uint32, leaseID store.ID, due int64) error {
	if err := tx.SetCandidate(ctx, tokenID, serial, leaseID, store.ToRelease); err != nil {
		return err
	}
	return tx.AddJob(ctx, store.Job{Kind: store.ReleaseJob, TokenID: tokenID, Serial: serial, LeaseID: leaseID}, due)
}

// purchaseProto renders a purchase as its buyer sees it, without the licence key. Which fields are set follows from the
// state alone.
func purchaseProto(p *store.Purchase) *offerv1.Purchase {
	price := &offerv1.Money{CurrencyCode: p.CurrencyCode, MinorUnits: p.MinorUnits}
	m := &offerv1.Purchase{
		PurchaseId: p.PurchaseID.Hex(), DropId: p.DropID.UUID(),
		State: offerv1.PurchaseState(p.State), Reason: errorsv1.Reason(p.Reason),
		Price: price, StateTime: timestamppb.New(time.UnixMicro(p.StateTime)),
	}
	undecided := p.PresentedVoucher != (store.ID{}) && !p.VoucherHeld // what is charged follows from what the voucher covers
	if p.State.AwaitsMoney() && !undecided || p.State.Paid() || p.State.Earned() || p.Reason == saga.OrderFailed {
		m.Charged = &offerv1.Money{CurrencyCode: p.CurrencyCode, MinorUnits: p.Charged}
	}
	if p.Refunded > 0 {
		m.Refunded = &offerv1.Money{CurrencyCode: p.CurrencyCode, MinorUnits: p.Refunded}
	}
	switch p.State {
	case saga.ActionRequired:
		m.PaymentIntentId = p.IntentID
	case saga.Captured, saga.Ordered, saga.Delivered, saga.Shipped:
		m.OrderId = store.OrderID(p.PurchaseID).UUID()
	case saga.Voucher:
		if p.Voucher != nil {
			m.Voucher = makeGoodProto(p.Voucher, p.CurrencyCode)
		}
	}
	if p.State.Final() {
		m.Outcome = p.Outcome
	}
	return m
}

// makeGoodProto renders a voucher without its text.
func makeGoodProto(v *store.Voucher, currencyCode string) *offerv1.Voucher {
	m := &offerv1.Voucher{
		VoucherId: v.VoucherID.UUID(), Kind: offerv1.VoucherKind(v.Kind),
		Price: &offerv1.Money{CurrencyCode: currencyCode, MinorUnits: v.MinorUnits},
	}
	if v.ExpireTime != 0 {
		m.ExpireTime = timestamppb.New(time.UnixMicro(v.ExpireTime))
	}
	return m
}

// forBuyer adds what only the buyer may see, and what depends on how long this verifier lets viewers choose.
func (s *Service) forBuyer(p *store.Purchase) (*offerv1.Purchase, error) {
	m := purchaseProto(p)
	switch {
	case p.State == saga.Delivered:
		m.LicenceKey = p.LicenceKey
	case p.State == saga.ChoiceRequired:
		m.ChoiceDeadline = timestamppb.New(time.UnixMicro(s.choiceDeadline(p)))
	case m.GetVoucher() != nil:
		text, err := s.signer.Voucher(&offerv1.SignedVoucher{VoucherId: p.Voucher.VoucherID[:]})
		if err != nil {
			return nil, err
		}
		m.Voucher.Text = text
	}
	return m, nil
}

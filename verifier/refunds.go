package verifier

import (
	"context"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// notRefundableError: the purchase was not paid and delivered, or has less left than is to be refunded.
type notRefundableError struct {
	state        saga.State
	refundable   int64
	currencyCode string
}

// Error implements error.
func (e *notRefundableError) Error() string {
	return fmt.Sprintf("verifier: a purchase in %v with %d minor units of %s left to refund", e.state, e.refundable, e.currencyCode)
}

// errReplayed: the request id came before with another body.
var errReplayed = errors.New("verifier: request id used for another refund")

// refundRequest is what finance asks for. minorUnits 0: all that is left.
type refundRequest struct {
	requestID    string
	purchaseID   store.ID
	currencyCode string // empty: the purchase's
	minorUnits   int64
	reason       string
	dryRun       bool
}

// refundAnswer is the refund with what is left afterwards.
type refundAnswer struct {
	refund               store.Refund
	captured, refundable int64
}

// errDryRun ends a transaction that must change nothing.
var errDryRun = errors.New("verifier: dry run")

// startRefund stores a refund by the shop, with the job that drives it. Pending refunds count as money gone, so all
// refunds of a purchase together never exceed what the provider took.
func (s *Service) startRefund(ctx context.Context, r refundRequest) (refundAnswer, error) {
	var a refundAnswer
	if s.recovering.Load() { // the purchase may have another winner, or none, when every journal is read
		return a, errRecovering
	}
	err := s.store.Write(ctx, func(tx *store.Tx) error {
		p, err := tx.PurchaseByPublicID(ctx, r.purchaseID) // holds it: requests about one purchase take turns
		if err != nil {
			return err
		}
		gone, err := tx.RefundedOrPending(ctx, p.TokenID)
		if err != nil {
			return err
		}
		if mutant.On(mutant.RefundsUncounted) {
			gone = 0
		}
		a = refundAnswer{captured: p.Charged, refundable: p.Charged - gone}
		before, err := tx.RefundByRequest(ctx, r.requestID)
		if err == nil {
			if a.refund = before; !r.same(&before) {
				return errReplayed
			}
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		amount := r.minorUnits
		if amount == 0 {
			amount = a.refundable
		}
		if !p.State.Earned() || amount <= 0 || amount > a.refundable || r.currencyCode != "" && r.currencyCode != p.CurrencyCode {
			return &notRefundableError{p.State, a.refundable, p.CurrencyCode}
		}
		now := s.deps.Now()
		a.refundable -= amount
		a.refund = store.Refund{
			RequestID: r.requestID, TokenID: p.TokenID, MinorUnits: amount, Reason: r.reason, State: store.RefundPending,
			CreateTime: now.UnixMicro(), StateTime: now.UnixMicro(), PurchaseID: p.PurchaseID, CurrencyCode: p.CurrencyCode,
		}
		if r.dryRun {
			return errDryRun
		}
		if a.refund.RefundID, err = s.newID(now); err != nil {
			return err
		}
		return tx.InsertRefund(ctx, &a.refund)
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	return a, err
}

// same tells whether a stored refund is what the request asks for. "All that is left" is whatever it was then.
func (r *refundRequest) same(stored *store.Refund) bool {
	return stored.PurchaseID == r.purchaseID && stored.Reason == r.reason && !stored.MakeGood &&
		(r.minorUnits == 0 || r.minorUnits == stored.MinorUnits) && (r.currencyCode == "" || r.currencyCode == stored.CurrencyCode)
}

// refund moves one refund along; it answers when to go on, 0 for never.
//
// The provider's list of the intent's refunds is read first, always: a refund that is on it under our id was made,
// whatever became of the answer, and is never made again. Only if it is not there the provider is asked, under a key that
// stays the same.
func (s *Service) refund(ctx context.Context, j store.Job) (later int64, err error) {
	r, err := s.store.Read().RefundByID(ctx, j.LeaseID)
	if err != nil {
		return 0, err
	}
	if r.State != store.RefundPending {
		return 0, s.store.WriteShared(ctx, func(tx *store.Tx) error { return tx.Finish(ctx, j) })
	}
	p, err := s.store.Read().Purchase(ctx, r.TokenID)
	if err != nil {
		return 0, err
	}
	at, err := s.refundAtProvider(ctx, &r, &p)
	if err != nil {
		return 0, err
	}
	switch at.State {
	case payment.RefundSucceeded:
		return 0, s.endRefund(ctx, j, &r, store.RefundDone)
	case payment.RefundFailed:
		return 0, s.endRefund(ctx, j, &r, store.RefundFailed)
	case payment.RefundPending:
		return s.after(s.cfg.RefundPoll), nil
	}
	return 0, fmt.Errorf("a refund in state %d", at.State)
}

// refundAtProvider finds our refund at the provider, or makes it.
func (s *Service) refundAtProvider(ctx context.Context, r *store.Refund, p *store.Purchase) (payment.Refund, error) {
	id := r.RefundID.Hex()
	list, err := s.readRefunds(ctx, p.IntentID)
	if err != nil {
		return payment.Refund{}, err
	}
	for _, at := range list {
		sameMoney := r.MakeGood && s.ofBefore(p) && at.State != payment.RefundFailed && at.MinorUnits == r.MinorUnits // of before a restore
		if (at.RefundID == id || sameMoney) && !mutant.On(mutant.RefundListUnread) {
			return at, nil
		}
	}
	return freshKeys("refund/"+id, func(key string) (payment.Refund, error) {
		return provider(ctx, s, "refund", func(ctx context.Context) (payment.Refund, error) {
			return s.deps.Payment.Refund(ctx, key, payment.RefundRequest{RefundID: id, IntentID: p.IntentID, MinorUnits: r.MinorUnits})
		})
	})
}

func (s *Service) readRefunds(ctx context.Context, intentID string) ([]payment.Refund, error) {
	return provider(ctx, s, "refunds", func(ctx context.Context) ([]payment.Refund, error) { return s.deps.Payment.Refunds(ctx, intentID) })
}

// endRefund stores the end of a refund with everything that follows from it, once.
func (s *Service) endRefund(ctx context.Context, j store.Job, r *store.Refund, state store.RefundState) error {
	return s.store.WriteShared(ctx, func(tx *store.Tx) error {
		if err := tx.Finish(ctx, j); err != nil {
			return err
		}
		now := s.deps.Now().UnixMicro()
		if err := tx.EndRefund(ctx, r.RefundID, state, now); err != nil {
			if errors.Is(err, store.ErrConflict) { // another holder of this job was faster
				return nil
			}
			return err
		}
		p, err := tx.Purchase(ctx, r.TokenID)
		if err != nil {
			return err
		}
		event := saga.RefundFailed
		if state == store.RefundDone {
			event = saga.RefundDone
			t, err := ledger.Refund(r.PurchaseID.Hex(), r.RefundID.Hex(), r.CurrencyCode, r.MinorUnits)
			if err != nil {
				return err
			}
			if err := tx.Post(ctx, &p, t, now); err != nil {
				return err
			}
		}
		if !r.MakeGood {
			tx.Announce(&p) // its state is the same, what was refunded is not
			return nil
		}
		return s.apply(ctx, tx, &p, event)
	})
}

// takeHints is the inbox of the provider's hints.
func (s *Service) takeHints(ctx context.Context, hints []payment.Hint) error {
	now := s.deps.Now()
	return s.store.WriteShared(ctx, func(tx *store.Tx) error {
		for _, h := range hints {
			first, err := tx.AddHint(ctx, h.ID, now.UnixMicro())
			if err != nil {
				return err
			}
			if !first {
				continue
			}
			id, err := tx.TokenOfIntent(ctx, h.IntentID)
			if errors.Is(err, store.ErrNotFound) { // of an earlier attempt, or of nobody
				continue
			}
			if err != nil {
				return err
			}
			for _, kind := range []store.Kind{store.PayJob, store.RefundJob} {
				if err := tx.Hurry(ctx, kind, id, now.UnixMicro()); err != nil {
					return err
				}
			}
		}
		return tx.ForgetHints(ctx, now.Add(-s.cfg.HintMemory).UnixMicro())
	})
}

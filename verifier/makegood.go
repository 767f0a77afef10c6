package verifier

import (
	"context"
	"errors"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// errNoChoice: the purchase does not wait for the viewer, or the other choice was made.
var errNoChoice = errors.New("verifier: no choice is pending")

// choiceDeadline is until when the viewer of a purchase in CHOICE_REQUIRED may choose, in microseconds.
func (s *Service) choiceDeadline(p *store.Purchase) int64 {
	return p.StateTime + s.cfg.ChoiceWindow.Microseconds()
}

// choose is the viewer's word. The same word again is the same answer. With a word after the deadline, the deadline's comes
// first, though its job has not run.
func (s *Service) choose(ctx context.Context, id store.ID, choice offerv1.MakeGood) (store.Purchase, error) {
	event := saga.ChoseMoney
	if choice == offerv1.MakeGood_MAKE_GOOD_VOUCHER {
		event = saga.ChoseVoucher
	}
	var p store.Purchase
	if s.recovering.Load() { // the purchase may have another winner, or none, when every journal is read
		return p, errRecovering
	}
	refunded, err := s.refundedBefore(ctx, id, event)
	if err != nil {
		return p, err
	}
	err = s.store.Write(ctx, func(tx *store.Tx) (err error) {
		if p, err = tx.Purchase(ctx, id); err != nil || chose(&p, event) {
			return err
		}
		if err := takeChoiceBack(ctx, tx, &p); err != nil {
			return err
		}
		if p.State != saga.ChoiceRequired {
			return errNoChoice
		}
		if refunded || s.deps.Now().UnixMicro() >= s.choiceDeadline(&p) {
			return s.leaveChoice(ctx, tx, &p, saga.ChoseMoney)
		}
		return s.leaveChoice(ctx, tx, &p, event)
	})
	if err == nil && !chose(&p, event) {
		err = errNoChoice
	}
	return p, err
}

// chose tells whether a purchase is where a choice leads. Where a refund failed, the viewer has a voucher: then nobody
// chose money any more.
func chose(p *store.Purchase, event saga.Event) bool {
	if p.Reason != saga.OrderFailed {
		return false
	}
	if event == saga.ChoseVoucher {
		return p.State == saga.Voucher
	}
	return p.State == saga.Refunding || p.State == saga.Refunded
}

// leaveChoice applies the choice and takes the deadline's job away.
func (s *Service) leaveChoice(ctx context.Context, tx *store.Tx, p *store.Purchase, event saga.Event) error {
	if err := tx.Finish(ctx, store.Job{Kind: store.ChoiceJob, TokenID: p.TokenID}); err != nil {
		return err
	}
	return s.apply(ctx, tx, p, event)
}

// endChoices gives the money back to viewers who did not choose in time.
func (s *Service) endChoices(ctx context.Context, jobs []store.Job) error {
	return s.store.Write(ctx, func(tx *store.Tx) error {
		for _, j := range jobs {
			p, err := tx.Purchase(ctx, j.TokenID)
			if err != nil {
				return err
			}
			if p.State != saga.ChoiceRequired { // the viewer was faster
				err = tx.Finish(ctx, j)
			} else {
				err = s.leaveChoice(ctx, tx, &p, saga.ChoseMoney)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// runHints uses the provider's hints until ctx ends. A hint says where to look and nothing else: the jobs of its purchase
// are due at once, and read. One that came before does nothing.
func (s *Service) runHints(ctx context.Context) {
	hinter, ok := s.deps.Payment.(payment.Hinter)
	if !ok {
		return
	}
	if err := hinter.Hints(ctx, s.takeHints); err != nil && ctx.Err() == nil {
		s.deps.Log.Error("the provider's hints ended; payments are polled", "error", err)
	}
}

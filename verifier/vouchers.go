package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// notAVoucher stands for a text that this verifier never signed. No voucher has this id: it is no UUIDv7.
var notAVoucher = store.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// presentedVoucher reads the voucher that came with a redemption. A text that is none does not spoil the receipt, which
// is genuine: the purchase will end with VOUCHER_UNUSABLE.
func (s *Service) presentedVoucher(text string) store.ID {
	if text == "" {
		return store.ID{}
	}
	m, err := s.keys.OpenVoucher(text)
	if err != nil {
		return notAVoucher
	}
	return store.ID(m.GetVoucherId())
}

// holdVoucher takes the presented voucher for this purchase, once: from now on it can pay no other, until the payment
// fails. over: the job is finished, because the voucher covers everything or cannot be used.
//
// One transaction reads and changes the voucher's remainder, so however many purchases want it at the same time, the
// remainder goes to those that commit first.
func (s *Service) holdVoucher(ctx context.Context, j store.Job, p *store.Purchase) (over bool, err error) {
	err = s.store.WriteShared(ctx, func(tx *store.Tx) error {
		over = true
		now, err := tx.Purchase(ctx, p.TokenID)
		if err != nil {
			return err
		}
		if *p = now; !p.State.AwaitsMoney() { // another holder of this job was faster
			return tx.Finish(ctx, j)
		}
		if p.VoucherHeld {
			over = false
			return nil
		}
		event, err := s.takeVoucher(ctx, tx, p)
		if err != nil {
			return err
		}
		if event == 0 {
			over = false
			return nil
		}
		if err := tx.Finish(ctx, j); err != nil {
			return err
		}
		return s.apply(ctx, tx, p, event)
	})
	return over, err
}

// takeVoucher decides what a voucher does for a purchase and holds it. The event is what follows at once; 0: what is left
// must be charged.
func (s *Service) takeVoucher(ctx context.Context, tx *store.Tx, p *store.Purchase) (saga.Event, error) {
	v, err := tx.VoucherByID(ctx, p.PresentedVoucher)
	if errors.Is(err, store.ErrNotFound) {
		return saga.VoucherRefused, nil
	}
	if err != nil {
		return 0, err
	}
	terms, err := tx.DropTerms(ctx, p.DropID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	// The viewer brought it in time if the redemption was accepted in time, however late it is looked at.
	late := v.ExpireTime != 0 && p.AcceptTime > v.ExpireTime
	if late || v.Remaining == 0 || v.CurrencyCode != p.CurrencyCode || v.ChannelID == "" || v.ChannelID != terms.ChannelID {
		return saga.VoucherRefused, nil
	}
	take := v.Remaining
	switch v.Kind {
	case store.PriceLock:
		if v.Title != terms.Title { // see docs/decisions: what a price lock is for
			return saga.VoucherRefused, nil
		}
		p.Charged = min(p.MinorUnits, v.MinorUnits)
	case store.StoredValue:
		take = min(v.Remaining, p.MinorUnits)
		p.StoredValue, p.Charged = take, p.MinorUnits-take
	default:
		return 0, fmt.Errorf("a voucher of kind %d", v.Kind)
	}
	if err := tx.HoldVoucher(ctx, v.VoucherID, p.TokenID, take); err != nil {
		return 0, err
	}
	if err := tx.SetCharged(ctx, p); err != nil {
		return 0, err
	}
	if p.VoucherHeld = true; p.Charged == 0 {
		return saga.MoneyTaken, nil
	}
	return 0, nil
}

// returnVoucher puts what a voucher did for a purchase back on it. Stored value that was posted as earned is owed again.
func (s *Service) returnVoucher(ctx context.Context, tx *store.Tx, p *store.Purchase, now int64) error {
	if !p.VoucherHeld || mutant.On(mutant.VoucherNotReturned) {
		return nil
	}
	if err := tx.ReturnVoucher(ctx, p.TokenID); err != nil {
		return err
	}
	if p.StoredValue == 0 || p.Reason != saga.OrderFailed { // before the capture nothing was posted
		return nil
	}
	t, err := ledger.VoucherReturn(p.PurchaseID.Hex(), p.CurrencyCode, p.StoredValue)
	if err != nil {
		return err
	}
	return tx.Post(ctx, p, t, now)
}

// issue names and stores p.Voucher.
func (s *Service) issue(ctx context.Context, tx *store.Tx, p *store.Purchase, terms store.DropTerms, now time.Time) (err error) {
	if p.Voucher.VoucherID, err = s.newID(now); err != nil {
		return err
	}
	return tx.InsertVoucher(ctx, p, terms.ChannelID, now.UnixMicro())
}

func (s *Service) newID(now time.Time) (store.ID, error) {
	return store.ParseUUID(ids.NewV7(now, s.random))
}

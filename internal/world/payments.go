package world

import (
	"context"
	"database/sql"
	"time"

	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// moody is the provider with its outages: while one lasts a call is refused, or meets silence before or after its
// effect. Some customers whose payment is declined go on at the provider: an intent that is left open takes their money
// later.
type moody struct {
	*testpsp.Provider
	w *world
}

func (m *moody) call(ctx context.Context, do func() (payment.Intent, error)) (payment.Intent, error) {
	return inMood(ctx, m, do)
}

func inMood[T any](ctx context.Context, m *moody, do func() (T, error)) (none T, err error) {
	if !m.w.weather.paymentsFail() {
		return do()
	}
	switch m.draw(3) {
	case 0:
		return none, payment.ErrRetryable
	case 1:
		if answer, err := do(); err != nil {
			return answer, err
		}
	}
	<-ctx.Done()
	return none, payment.ErrUnknownOutcome
}

func (m *moody) draw(n byte) byte {
	var b [1]byte
	if _, err := m.w.moods.Read(b[:]); err != nil {
		panic("world: drawing: " + err.Error()) // ChaCha8 never fails
	}
	return b[0] % n
}

// laterMoney lets a declined customer succeed at the provider's own page after a while, unless the intent is cancelled by
// then. The provider does that in its own books: testpsp knows no such customer.
func (w *world) laterMoney(intentID string, after time.Duration) {
	w.background.Go(func() {
		if !sleep(w.life, after) {
			return
		}
		err := w.centre.paymentDB.Write(w.life, func(tx *sql.Tx) error {
			r, err := tx.ExecContext(w.life, `UPDATE psp_intents SET state = $1 WHERE intent_id = $2 AND state = $3`,
				payment.Succeeded, intentID, payment.Declined)
			if err != nil {
				return err
			}
			if n, err := r.RowsAffected(); err != nil || n == 0 {
				return err
			}
			_, err = tx.ExecContext(w.life, `INSERT INTO psp_charges (intent_id, purchase_id, currency_code, minor_units, charge_time)
				SELECT intent_id, purchase_id, currency_code, minor_units, $1 FROM psp_intents WHERE intent_id = $2`,
				time.Now().UnixMicro(), intentID)
			return err
		})
		if err != nil && w.life.Err() == nil {
			w.watch.surprise("a late payment: %v", err)
		}
	})
}

// CreateIntent implements payment.Provider.
func (m *moody) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.CreateIntent(ctx, key, r) })
}

// GetIntent implements payment.Provider.
func (m *moody) GetIntent(ctx context.Context, id string) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.GetIntent(ctx, id) })
}

// Confirm implements payment.Provider.
func (m *moody) Confirm(ctx context.Context, id string) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) {
		in, err := m.Provider.Confirm(ctx, id)
		if err == nil && in.State == payment.Declined && m.draw(2) == 0 {
			m.w.laterMoney(id, time.Duration(m.draw(100))*100*time.Millisecond)
		}
		return in, err
	})
}

// Capture implements payment.Provider.
func (m *moody) Capture(ctx context.Context, id string) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.Capture(ctx, id) })
}

// Cancel implements payment.Provider.
func (m *moody) Cancel(ctx context.Context, id string) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.Cancel(ctx, id) })
}

// Refund implements payment.Provider.
func (m *moody) Refund(ctx context.Context, key string, r payment.RefundRequest) (payment.Refund, error) {
	return inMood(ctx, m, func() (payment.Refund, error) { return m.Provider.Refund(ctx, key, r) })
}

// Refunds implements payment.Provider.
func (m *moody) Refunds(ctx context.Context, intentID string) ([]payment.Refund, error) {
	return inMood(ctx, m, func() ([]payment.Refund, error) { return m.Provider.Refunds(ctx, intentID) })
}

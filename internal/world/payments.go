package world

import (
	"context"

	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// moody is the provider with its outages: while one lasts a call is refused, or meets silence before or after its
// effect.
type moody struct {
	*testpsp.Provider
	w *world
}

func (m *moody) call(ctx context.Context, do func() (payment.Intent, error)) (payment.Intent, error) {
	if !m.w.weather.paymentsFail() {
		return do()
	}
	var draw [1]byte
	if _, err := m.w.moods.Read(draw[:]); err != nil {
		return payment.Intent{}, err
	}
	switch draw[0] % 3 {
	case 0:
		return payment.Intent{}, payment.ErrRetryable
	case 1:
		if in, err := do(); err != nil {
			return in, err
		}
	}
	<-ctx.Done()
	return payment.Intent{}, payment.ErrUnknownOutcome
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
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.Confirm(ctx, id) })
}

// Capture implements payment.Provider.
func (m *moody) Capture(ctx context.Context, id string) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.Capture(ctx, id) })
}

// Cancel implements payment.Provider.
func (m *moody) Cancel(ctx context.Context, id string) (payment.Intent, error) {
	return m.call(ctx, func() (payment.Intent, error) { return m.Provider.Cancel(ctx, id) })
}

package verifier_test

import (
	"context"
	"testing"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// The verifier was down when the viewer's time ended, and hears the viewer before it has looked at the time.
func TestAChoiceAfterItsDeadlineIsTheMoney(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.patient()
		w.start()
		early, late := w.failedOrder(sale{reference: "tp_ok"}), w.failedOrder(sale{reference: "tp_ok"})
		w.stop()
		w.make() // no loop looks at the time
		time.Sleep(time.Hour - 3*time.Minute)
		p, err := w.choose(early, wantVoucher)
		check(t, err)
		want(t, p, voucher, orderFailed)
		time.Sleep(3 * time.Minute)
		for range 2 {
			if _, err := w.choose(late, wantVoucher); rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING {
				t.Errorf("a choice after its time: %v", err)
			}
			want(t, w.get(late), refunding, orderFailed)
		}
		p, err = w.choose(late, wantMoney) // which it is
		check(t, err)
		want(t, p, refunding, orderFailed)
		w.start()
		time.Sleep(time.Minute)
		want(t, w.get(late), refunded, orderFailed)
		want(t, w.get(early), voucher, orderFailed)
		w.checkBooks()
	})
}

// stuck is a provider that answers nothing until it is let go.
type stuck struct {
	*testpsp.Provider
	free chan struct{}
}

func (s *stuck) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	select {
	case <-s.free:
		return s.Provider.CreateIntent(ctx, key, r)
	case <-ctx.Done():
		return payment.Intent{}, payment.ErrUnknownOutcome
	}
}

func TestWhatIsChargedIsToldWhenTheVoucherIsTaken(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.patient()
		provider := &stuck{w.psp, make(chan struct{})}
		w.payment, w.cfg.PaymentParallelism = provider, 1
		w.cfg.CallTimeout, w.cfg.JobLease = time.Minute, 3*time.Minute
		w.start()
		close(provider.free)
		failed := w.failedOrder(sale{reference: "tp_ok", price: 200})
		p, err := w.choose(failed, wantVoucher)
		check(t, err)
		text := p.GetVoucher().GetText()

		provider.free = make(chan struct{})
		busy, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.present(busy) // and its payment holds the only place
		time.Sleep(time.Second)
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", price: 500, voucher: text})
		w.present(receipt)
		time.Sleep(time.Second)
		if p := w.get(receipt); p.GetState().String() != "PURCHASE_STATE_UNIT_SETTLED" || p.GetCharged() != nil {
			t.Errorf("before the voucher is taken the purchase is %v, charged %v", p.GetState(), p.GetCharged())
		}
		if p := w.get(busy); p.GetCharged().GetMinorUnits() != 499 {
			t.Errorf("without a voucher %v is to be charged", p.GetCharged())
		}
		close(provider.free)
		time.Sleep(time.Minute)
		p = w.get(receipt)
		want(t, p, delivered, noReason)
		if p.GetCharged().GetMinorUnits() != 300 {
			t.Errorf("charged %v of 500 with a voucher of 200", p.GetCharged())
		}
		w.checkBooks()
	})
}

package verifier_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment"
)

func TestCustomerActs(t *testing.T) {
	for _, c := range []struct {
		name    string
		after   time.Duration
		decline bool
		err     errorsv1.Reason
		state   offerv1.PurchaseState
		reason  string
	}{
		{"confirms in time", 80 * time.Second, false, 0, delivered, noReason},
		{"declines", 10 * time.Second, true, 0, voucher, "REASON_PAYMENT_DECLINED"},
		{"comes too late", 95 * time.Second, false, errorsv1.Reason_REASON_NO_ACTION_PENDING, voucher, "REASON_PAYMENT_WINDOW_OVER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.start()
				receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_action_required"})
				w.present(receipt)
				time.Sleep(5 * time.Second)
				p := w.get(receipt)
				want(t, p, actionRequired, noReason)
				time.Sleep(c.after - 5*time.Second)
				if err := w.complete(p.GetPaymentIntentId(), c.decline); rpcerr.Reason(err) != c.err {
					t.Errorf("CompleteAction: %v", err)
				}
				time.Sleep(time.Second)
				p = w.get(receipt)
				want(t, p, c.state, c.reason)
				if p.GetPaymentIntentId() != "" {
					t.Error("a purchase that is over names an intent")
				}
				w.checkBooks()
			})
		})
	}
}

func TestCompleteActionOfUnknownIntent(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		if err := w.complete("nothing", false); status.Code(err) != codes.FailedPrecondition || rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_ACTION_PENDING {
			t.Errorf("CompleteAction: %v", err)
		}
	})
}

// lateCustomer lets the customer confirm, and another process capture, between the decision to cancel and the cancelling.
type lateCustomer struct {
	payment.Provider
	act func(id string)
}

func (l *lateCustomer) Cancel(ctx context.Context, id string) (payment.Intent, error) {
	l.act(id)
	return l.Provider.Cancel(ctx, id)
}

func TestIntentReadAsSucceededIsAPurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.payment = &lateCustomer{Provider: w.psp, act: func(id string) {
			_, err := w.psp.CompleteAction(t.Context(), id, false)
			check(t, err)
			_, err = w.psp.Capture(t.Context(), id)
			check(t, err)
		}}
		w.start()
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_action_required"})
		w.present(receipt)
		time.Sleep(2 * time.Minute)
		want(t, w.get(receipt), delivered, noReason)
		w.checkBooks()
	})
}

func TestDropIsSettledWhenEverythingIsFinal(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		state := func(set ...offerv1.DropState) offerv1.DropState {
			w.f.mu.Lock()
			defer w.f.mu.Unlock()
			for _, s := range set {
				w.f.drops[w.drop].state = s
			}
			return w.f.drops[w.drop].state
		}
		waiting, _ := w.redeem(w.nodes[0], sale{reference: "tp_action_required"})
		unforwarded, _ := w.redeem(w.nodes[1], sale{reference: "tp_ok"})
		w.present(waiting)
		state(offerv1.DropState_DROP_STATE_CLOSED)
		time.Sleep(80 * time.Second)
		w.f.mu.Lock()
		calls := w.f.calls["SettleDrop"]
		w.f.mu.Unlock()
		if calls != 0 {
			t.Errorf("%d calls of SettleDrop while a purchase is open", calls)
		}
		time.Sleep(time.Minute)
		if state() != offerv1.DropState_DROP_STATE_CLOSED {
			t.Error("settled while a node still has a redemption")
		}
		w.present(unforwarded)
		time.Sleep(time.Minute)
		if state() != offerv1.DropState_DROP_STATE_SETTLED {
			t.Errorf("the drop is %v", state())
		}
	})
}

func TestDeliveryMayOvertakeTheAnswerOfPlaceOrders(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.f.mu.Lock()
		w.f.loseAnswers = true
		w.f.mu.Unlock()
		w.present(receipt)
		time.Sleep(10 * time.Second)
		want(t, w.get(receipt), delivered, noReason)
		if jobs := w.audit().GetJobsOpen(); jobs != 0 { // no answer is needed any more
			t.Errorf("%d jobs open", jobs)
		}
	})
}

func TestProductionRefusesATestProvider(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		deps := verifier.Deps{
			DB: w.db, Stock: w.f, Orders: w.f, Catalog: w.f, Payment: w.psp, Now: time.Now, Random: w.random, Log: slog.New(slog.DiscardHandler),
		}
		if _, err := verifier.New(verifier.Config{Profile: verifier.ProfileProduction}, deps); err == nil {
			t.Error("the test provider was accepted")
		}
		deps.Payment = struct{ payment.Provider }{w.psp} // a provider that plays no customer
		svc, err := verifier.New(verifier.Config{Profile: verifier.ProfileProduction}, deps)
		check(t, err)
		r := registrar{}
		svc.Register(r)
		if r["rimlight.verifier.v1.TestPaymentService"] != nil {
			t.Error("the test page is served without a test provider")
		}
	})
}

func TestConfigReportsAllProblems(t *testing.T) {
	err := verifier.Config{Profile: "x", PaymentAttempts: 9, JobLease: -1, Poll: -1}.Validate()
	for _, field := range []string{"Profile", "PaymentAttempts", "JobLease", "CallTimeout", "Poll"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("nothing about %s in: %v", field, err)
		}
	}
	if err := (verifier.Config{}).Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if _, err := verifier.New(verifier.Config{}, verifier.Deps{}); err == nil || !strings.Contains(err.Error(), "Deps.Stock") {
		t.Errorf("empty Deps: %v", err)
	}
}

func TestEveryMethodButListKeysNeedsTheServiceRole(t *testing.T) {
	rules := verifier.Rules()
	for _, m := range verifierv1.VerifierService_ServiceDesc.Methods {
		roles := rules["/"+verifierv1.VerifierService_ServiceDesc.ServiceName+"/"+m.MethodName]
		if open := m.MethodName == "ListKeys"; open != (len(roles) == 0) || !open && roles[0] != auth.Service {
			t.Errorf("%s: %v", m.MethodName, roles)
		}
	}
	for _, m := range verifierv1.VerifierService_ServiceDesc.Streams {
		if roles := rules["/"+verifierv1.VerifierService_ServiceDesc.ServiceName+"/"+m.StreamName]; len(roles) != 1 || roles[0] != auth.Service {
			t.Errorf("%s: %v", m.StreamName, roles)
		}
	}
}

func TestStoreFailureIsNotTheClientsFault(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start(func(s *verifier.Service) {
			s.SetFault(func(bool) error { return errors.New("secret detail of the disk") })
		})
		time.Sleep(time.Second)
		receipt, _ := w.redeem(w.nodes[0], sale{})
		_, err := w.verifier().PresentReceipt(t.Context(), &verifierv1.PresentReceiptRequest{Receipt: receipt})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("PresentReceipt: %v", err)
		}
	})
}

// FuzzOpenReceipt: whatever the text, the answer is one that toStatus knows.
func FuzzOpenReceipt(f *testing.F) {
	w := newWorld(f)
	svc := w.make()
	good, offer := w.redeem(w.nodes[0], sale{})
	for _, text := range []string{"", "AAAA", strings.Repeat("A", 200), good, offer} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := svc.OpenReceipt(text)
		if err != nil && !errors.Is(err, token.ErrMalformed) && !errors.Is(err, token.ErrForged) && !errors.Is(err, token.ErrUnknownKey) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// FuzzGenuineNonsense: a node with a good key signs anything; it is refused or taken in, never an internal error.
func FuzzGenuineNonsense(f *testing.F) {
	w := newWorld(f)
	w.make()
	f.Add(uint32(1), "", int64(0), int32(0), int64(1), "reference", []byte("details"))
	f.Add(uint32(0), "018f0000-0000-7000-8000-000000000000", int64(1)<<62, int32(-1), int64(-5), "", []byte(nil))
	f.Fuzz(func(t *testing.T, serial uint32, lease string, seconds int64, nanos int32, price int64, reference string, details []byte) {
		if !utf8.ValidString(lease) || !utf8.ValidString(reference) {
			return // no protobuf string: it cannot arrive
		}
		w.t = t
		defer func() { w.t = f }() // the cleanup is f's
		receipt, _ := w.redeem(w.nodes[0], sale{price: price, unleased: true, edit: func(r *offerv1.Receipt) {
			r.Serial, r.PaymentReference, r.DeliveryDetails = serial, reference, details
			r.AcceptTime = &timestamppb.Timestamp{Seconds: seconds, Nanos: nanos}
			if lease != "" {
				r.LeaseId = lease
			}
		}})
		_, err := w.verifier().PresentReceipt(t.Context(), &verifierv1.PresentReceiptRequest{Receipt: receipt})
		if code := status.Code(err); code != codes.OK && code != codes.InvalidArgument {
			t.Errorf("%v", err)
		}
	})
}

package testpsp_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/paymenttest"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

func newProvider(t *testing.T, latency time.Duration) *testpsp.Provider {
	t.Helper()
	return newProviderWith(t, sqldbtest.Memory(t), testpsp.Config{Latency: latency, Now: time.Now, Random: rand.Reader})
}

func newProviderWith(t *testing.T, db *sqldb.DB, cfg testpsp.Config) *testpsp.Provider {
	t.Helper()
	if err := testpsp.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	p, err := testpsp.New(db, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConformance(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *sqldb.DB{"memory": sqldbtest.Memory, "postgres": sqldbtest.Postgres} {
		t.Run(name, func(t *testing.T) { conforms(t, open) })
	}
}

func conforms(t *testing.T, open func(testing.TB) *sqldb.DB) {
	t.Helper()
	var later time.Duration // of the newest provider; subtests take turns
	paymenttest.Run(t, paymenttest.Harness{
		New: func(t *testing.T) payment.Provider {
			later = 0
			return newProviderWith(t, open(t), testpsp.Config{
				Now: func() time.Time { return time.Now().Add(later) }, Random: rand.Reader,
				HintDelay: time.Second, HintDuplicates: 0.2,
			})
		},
		Later: func(*testing.T, payment.Provider) { later += 25 * time.Hour },
		Act: func(t *testing.T, p payment.Provider, id string, decline bool) {
			if _, err := p.(payment.TestCustomer).CompleteAction(t.Context(), id, decline); err != nil {
				t.Fatal(err)
			}
		},
		SlowRefund: testpsp.RefRefundSlow, FailedRefund: testpsp.RefRefundFails, KeptErrors: testpsp.Ref500Kept,
		Charges: func(t *testing.T, p payment.Provider, purchaseID string) int {
			n, err := p.(*testpsp.Provider).Charges(t.Context(), purchaseID)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		OK: testpsp.RefOK + ":any suffix", Declined: testpsp.RefDecline, ActionRequired: testpsp.RefActionRequired,
		SameCard: [2]string{testpsp.RefCard + "A:one", testpsp.RefCard + "A"}, OtherCard: testpsp.RefCard + "B",
		Disturbed: []string{testpsp.RefTimeoutBefore, testpsp.RefTimeoutAfter, testpsp.Ref500Once},
	})
}

func confirm(t *testing.T, p *testpsp.Provider, key, reference string) payment.Intent {
	t.Helper()
	in, err := p.CreateIntent(t.Context(), key, payment.Request{PurchaseID: "p", CurrencyCode: "EUR", MinorUnits: 1, Reference: reference})
	if err == nil {
		in, err = p.Confirm(t.Context(), in.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestReferencesAndTheirFates(t *testing.T) {
	for reference, want := range map[string]payment.Intent{
		"tp_ok":                {State: payment.Authorised},
		"tp_card_A":            {State: payment.Authorised},
		"tp_ok:abc:def":        {State: payment.Authorised},
		"tp_decline":           {State: payment.Declined, DeclineCode: "card_declined", DeclineFinal: true},
		"tp_decline_once":      {State: payment.Declined, DeclineCode: "try_again"},
		"tp_action_required:x": {State: payment.RequiresAction},
		"tp_okay":              {State: payment.Declined, DeclineCode: "unknown_reference", DeclineFinal: true},
		"":                     {State: payment.Declined, DeclineCode: "unknown_reference", DeclineFinal: true},
	} {
		got := confirm(t, newProvider(t, 0), "k/1", reference)
		want.ID, want.Instrument, want.MinorUnits = got.ID, got.Instrument, got.MinorUnits
		if got != want {
			t.Errorf("%q: %+v, want %+v", reference, got, want)
		}
	}
}

func TestDeclineOnceDeclinesThePurchasesFirstIntentOnly(t *testing.T) {
	p := newProvider(t, 0)
	confirm(t, p, "k/1", testpsp.RefDeclineOnce)
	if in := confirm(t, p, "k/2", testpsp.RefDeclineOnce); in.State != payment.Authorised {
		t.Errorf("the second intent is %v", in.State)
	}
}

func TestCompleteAction(t *testing.T) {
	p := newProvider(t, 0)
	yes, no, late := confirm(t, p, "yes/1", "tp_action_required"), confirm(t, p, "no/1", "tp_action_required"), confirm(t, p, "late/1", "tp_action_required")
	if _, err := p.Cancel(t.Context(), late.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		id      string
		decline bool
		err     error
		state   payment.State
	}{
		{"the customer confirms", yes.ID, false, nil, payment.Authorised},
		{"and confirms again", yes.ID, false, nil, payment.Authorised},
		{"a confirmed intent cannot be declined", yes.ID, true, payment.ErrNoActionPending, payment.Authorised},
		{"the customer declines", no.ID, true, nil, payment.Declined},
		{"a declined intent cannot be confirmed", no.ID, false, payment.ErrNoActionPending, payment.Declined},
		{"the customer is late", late.ID, false, payment.ErrNoActionPending, payment.Cancelled},
		{"an intent that never waits", confirm(t, p, "ok/1", "tp_ok").ID, false, payment.ErrNoActionPending, payment.Authorised},
	} {
		if _, err := p.CompleteAction(t.Context(), c.id, c.decline); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if in, err := p.GetIntent(t.Context(), c.id); err != nil || in.State != c.state {
			t.Errorf("%s: %v, %v; want %v", c.name, in.State, err, c.state)
		}
	}
	if _, err := p.CompleteAction(t.Context(), "nothing", false); !errors.Is(err, payment.ErrNotFound) {
		t.Errorf("an unknown id: %v", err)
	}
}

func TestMixHasItsShares(t *testing.T) {
	p := newProvider(t, 0)
	const purchases = 2000
	states := map[payment.State]int{}
	for i := range purchases {
		in, err := p.CreateIntent(t.Context(), fmt.Sprint(i), payment.Request{PurchaseID: fmt.Sprint(i), CurrencyCode: "EUR", MinorUnits: 1, Reference: testpsp.RefMix})
		if err == nil {
			in, err = p.Confirm(t.Context(), in.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		states[in.State]++
	}
	for state, share := range map[payment.State]float64{
		payment.RequiresAction: testpsp.MixAction, payment.Declined: testpsp.MixDecline, payment.Authorised: 1 - testpsp.MixAction - testpsp.MixDecline,
	} {
		if got := float64(states[state]) / purchases; got < share-0.02 || got > share+0.02 {
			t.Errorf("%v: a share of %.3f, want %.3f", state, got, share)
		}
	}
}

func TestBooksSubtractRefunds(t *testing.T) {
	p := newProvider(t, 0)
	in := confirm(t, p, "k/1", "tp_ok")
	if _, err := p.Capture(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Refund(t.Context(), "r", payment.RefundRequest{RefundID: "r", IntentID: in.ID, MinorUnits: 1}); err != nil {
		t.Fatal(err)
	}
	if b, err := p.Books(t.Context()); err != nil || b.CapturedMinorUnits["EUR"] != 0 {
		t.Errorf("%+v, %v after everything was refunded", b, err)
	}
}

func TestLatencyIsDrawnAroundItsMedian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testpsp.Realistic()
		cfg.Now, cfg.Random = time.Now, rand.Reader
		p := newProviderWith(t, sqldbtest.Memory(t), cfg)
		in := confirm(t, p, "k/1", "tp_ok")
		faster := 0
		const reads = 1000
		for range reads {
			begin := time.Now()
			if _, err := p.GetIntent(t.Context(), in.ID); err != nil {
				t.Fatal(err)
			}
			if time.Since(begin) < cfg.Latency {
				faster++
			}
		}
		if faster < reads*4/10 || faster > reads*6/10 {
			t.Errorf("%d of %d answers were faster than the median", faster, reads)
		}
	})
}

func TestSettingsOutOfRangeAreRefused(t *testing.T) {
	for _, cfg := range []testpsp.Config{{Latency: -1}, {LatencySigma: 2}, {KeyTTL: -1}, {HintDelay: -1}, {HintDuplicates: 1.5}} {
		cfg.Now, cfg.Random = time.Now, rand.Reader
		if _, err := testpsp.New(&sqldb.DB{}, cfg); err == nil {
			t.Errorf("accepted: %+v", cfg)
		}
	}
}

func TestLatencyAndPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(t, 300*time.Millisecond)
		begin := time.Now()
		confirm(t, p, "k/1", "tp_ok")
		if took := time.Since(begin); took != 600*time.Millisecond {
			t.Errorf("two calls took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.CreateIntent(ctx, "k/2", payment.Request{Reference: "tp_ok"}); !errors.Is(err, payment.ErrUnknownOutcome) {
			t.Errorf("an impatient caller got %v", err)
		}
	})
}

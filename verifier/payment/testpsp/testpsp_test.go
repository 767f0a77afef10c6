package testpsp_test

import (
	"context"
	"crypto/rand"
	"errors"
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
	return providerOn(t, sqldbtest.Memory(t), latency)
}

func providerOn(t *testing.T, db *sqldb.DB, latency time.Duration) *testpsp.Provider {
	t.Helper()
	if err := testpsp.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	p, err := testpsp.New(db, testpsp.Config{Latency: latency, Now: time.Now, Random: rand.Reader})
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
	paymenttest.Run(t, paymenttest.Harness{
		New: func(t *testing.T) payment.Provider { return providerOn(t, open(t), 0) },
		Charges: func(t *testing.T, p payment.Provider, purchaseID string) int {
			n, err := p.(*testpsp.Provider).Charges(t.Context(), purchaseID)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		OK: testpsp.RefOK + ":any suffix", Declined: testpsp.RefDecline, ActionRequired: testpsp.RefActionRequired,
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
		"tp_ok:abc:def":        {State: payment.Authorised},
		"tp_decline":           {State: payment.Declined, DeclineCode: "card_declined", DeclineFinal: true},
		"tp_decline_once":      {State: payment.Declined, DeclineCode: "try_again"},
		"tp_action_required:x": {State: payment.RequiresAction},
		"tp_okay":              {State: payment.Declined, DeclineCode: "unknown_reference", DeclineFinal: true},
		"":                     {State: payment.Declined, DeclineCode: "unknown_reference", DeclineFinal: true},
	} {
		got := confirm(t, newProvider(t, 0), "k/1", reference)
		want.ID = got.ID
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

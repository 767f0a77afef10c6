// Package paymenttest is the conformance suite of payment providers: what an engine must do to sit behind the saga.
//
// An engine's test gives it a fresh provider and the references that provoke each behaviour. The suite does not measure,
// and does not check the engine's own books beyond the number of captures of a purchase.
package paymenttest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/rimlight/rimlight/verifier/payment"
)

// Harness is an engine under test.
type Harness struct {
	// New makes an empty provider.
	New func(t *testing.T) payment.Provider
	// Charges counts the captures of a purchase in the provider's books.
	Charges func(t *testing.T, p payment.Provider, purchaseID string) int
	// OK, Declined and ActionRequired are references with that fate.
	OK, Declined, ActionRequired string
	// SameCard are two references that succeed and that one instrument pays; OtherCard is another instrument's.
	SameCard  [2]string
	OtherCard string
	// SlowRefund and FailedRefund are references with that fate.
	SlowRefund, FailedRefund string
	// KeptErrors is a reference whose first creation and first refund fail, with the error kept under their keys.
	KeptErrors string
	// Later lets the provider's time pass: refunds that are slow end, and keys are forgotten.
	Later func(t *testing.T, p payment.Provider)
	// Act lets the customer answer at the provider's page.
	Act func(t *testing.T, p payment.Provider, intentID string, decline bool)
	// Disturbed are references whose calls fail now and then with ErrUnknownOutcome or ErrRetryable, and succeed in the
	// end.
	Disturbed []string
}

// Run checks everything.
func Run(t *testing.T, h Harness) {
	t.Run("confirm and capture take the money once", h.once)
	t.Run("the same key is the same intent, another body is refused", h.keys)
	t.Run("two keys are two charges", h.twoKeys)
	t.Run("a declined intent stays open until it is cancelled, and tells why afterwards", h.declined)
	t.Run("an intent that needs the customer is not captured", h.action)
	t.Run("a cancelled intent takes no money", h.cancelled)
	t.Run("an intent that succeeded cannot be cancelled", h.succeeded)
	t.Run("an unknown id is not found", h.unknown)
	t.Run("what was taken has a fee, and keeps it when it is refunded", h.fees)
	t.Run("who pays with the same card has the same instrument, and nobody else", h.instruments)
	for _, reference := range h.Disturbed {
		t.Run("reading by id leads through "+reference, func(t *testing.T) { h.disturbed(t, reference) })
		t.Run("reading leads a refund through "+reference, func(t *testing.T) { h.disturbedRefund(t, reference) })
	}
	t.Run("the customer's answer moves the intent, once", h.acts)
	t.Run("a key that was forgotten makes another intent, and the first stays under its id", h.keysExpire)
	t.Run("an error kept under a key comes again, a fresh key works", h.keptErrors)
	t.Run("refunds in parts never exceed what was captured", h.refunds)
	t.Run("the same refund key is the same refund, another body is refused", h.refundKeys)
	t.Run("a refund whose key was forgotten is found by its own id", h.refundKeysExpire)
	t.Run("what did not succeed is not refunded", h.notRefundable)
	t.Run("a slow refund is pending and then succeeds", h.slowRefund)
	t.Run("a refund that failed leaves the money refundable", h.failedRefund)
	t.Run("hints come late, twice and in any order, and none is lost", h.hints)
}

func request(reference string) payment.Request {
	return payment.Request{PurchaseID: "00112233445566778899aabbccddeeff", CurrencyCode: "EUR", MinorUnits: 499, Reference: reference}
}

func (h Harness) create(t *testing.T, p payment.Provider, key, reference string) payment.Intent {
	t.Helper()
	in, err := p.CreateIntent(t.Context(), key, request(reference))
	if err != nil || in.ID == "" || in.State != payment.RequiresConfirmation || in.MinorUnits != request(reference).MinorUnits {
		t.Fatalf("CreateIntent: %+v, %v", in, err)
	}
	return in
}

// expect makes a call and checks the answer, and that reading gives the same.
func expect(t *testing.T, p payment.Provider, call func(context.Context, string) (payment.Intent, error), id string, want payment.State) payment.Intent {
	t.Helper()
	in, err := call(t.Context(), id)
	if err != nil || in.ID != id || in.State != want {
		t.Fatalf("got %+v, %v; want %v", in, err, want)
	}
	if read, err := p.GetIntent(t.Context(), id); err != nil || read != in {
		t.Fatalf("the call answered %+v, reading %+v, %v", in, read, err)
	}
	return in
}

func (h Harness) charged(t *testing.T, p payment.Provider, want int) {
	t.Helper()
	if n := h.Charges(t, p, request("").PurchaseID); n != want {
		t.Fatalf("%d charges, want %d", n, want)
	}
}

func (h Harness) once(t *testing.T) {
	p := h.New(t)
	id := h.create(t, p, "k/1", h.OK).ID
	expect(t, p, p.Capture, id, payment.RequiresConfirmation) // not yet
	expect(t, p, p.Confirm, id, payment.Authorised)
	expect(t, p, p.Confirm, id, payment.Authorised)
	h.charged(t, p, 0)
	for range 3 {
		expect(t, p, p.Capture, id, payment.Succeeded)
	}
	expect(t, p, p.Confirm, id, payment.Succeeded)
	h.charged(t, p, 1)
}

func (h Harness) keys(t *testing.T) {
	p := h.New(t)
	a, b := h.create(t, p, "k/1", h.OK), h.create(t, p, "k/1", h.OK)
	if a != b {
		t.Errorf("%+v and %+v", a, b)
	}
	other := request(h.OK)
	other.MinorUnits++
	if _, err := p.CreateIntent(t.Context(), "k/1", other); !errors.Is(err, payment.ErrKeyReused) {
		t.Errorf("another body: %v", err)
	}
}

func (h Harness) twoKeys(t *testing.T) {
	p := h.New(t)
	for _, key := range []string{"k/1", "k/2"} {
		id := h.create(t, p, key, h.OK).ID
		expect(t, p, p.Confirm, id, payment.Authorised)
		expect(t, p, p.Capture, id, payment.Succeeded)
	}
	h.charged(t, p, 2)
}

func (h Harness) declined(t *testing.T) {
	p := h.New(t)
	id := h.create(t, p, "k/1", h.Declined).ID
	if in := expect(t, p, p.Confirm, id, payment.Declined); in.DeclineCode == "" {
		t.Error("no decline code")
	}
	expect(t, p, p.Capture, id, payment.Declined)
	if in := expect(t, p, p.Cancel, id, payment.Cancelled); in.DeclineCode == "" || !in.DeclineFinal {
		t.Errorf("the cancelled intent forgot its decline: %+v", in)
	}
	h.charged(t, p, 0)
}

func (h Harness) action(t *testing.T) {
	p := h.New(t)
	id := h.create(t, p, "k/1", h.ActionRequired).ID
	expect(t, p, p.Confirm, id, payment.RequiresAction)
	expect(t, p, p.Capture, id, payment.RequiresAction)
	expect(t, p, p.Cancel, id, payment.Cancelled)
	h.charged(t, p, 0)
}

func (h Harness) cancelled(t *testing.T) {
	p := h.New(t)
	id := h.create(t, p, "k/1", h.OK).ID
	expect(t, p, p.Confirm, id, payment.Authorised)
	if in := expect(t, p, p.Cancel, id, payment.Cancelled); in.DeclineCode != "" {
		t.Errorf("cancelled, not declined: %+v", in)
	}
	expect(t, p, p.Cancel, id, payment.Cancelled)
	expect(t, p, p.Capture, id, payment.Cancelled)
	expect(t, p, p.Confirm, id, payment.Cancelled)
	h.charged(t, p, 0)
}

func (h Harness) succeeded(t *testing.T) {
	p := h.New(t)
	id := h.create(t, p, "k/1", h.OK).ID
	expect(t, p, p.Confirm, id, payment.Authorised)
	expect(t, p, p.Capture, id, payment.Succeeded)
	expect(t, p, p.Cancel, id, payment.Succeeded)
	h.charged(t, p, 1)
}

func (h Harness) unknown(t *testing.T) {
	p := h.New(t)
	for name, call := range map[string]func(context.Context, string) (payment.Intent, error){
		"GetIntent": p.GetIntent, "Confirm": p.Confirm, "Capture": p.Capture, "Cancel": p.Cancel,
	} {
		if _, err := call(t.Context(), "no such id"); !errors.Is(err, payment.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (h Harness) fees(t *testing.T) {
	p := h.New(t)
	id := h.create(t, p, "k/1", h.OK).ID
	if in := expect(t, p, p.Confirm, id, payment.Authorised); in.Fee != 0 {
		t.Errorf("a fee of %d before anything was taken", in.Fee)
	}
	taken := expect(t, p, p.Capture, id, payment.Succeeded)
	if taken.Fee <= 0 || taken.Fee > request("").MinorUnits {
		t.Errorf("a fee of %d of %d", taken.Fee, request("").MinorUnits)
	}
	cancelled := h.create(t, p, "k/2", h.OK).ID
	expect(t, p, p.Confirm, cancelled, payment.Authorised)
	if in := expect(t, p, p.Cancel, cancelled, payment.Cancelled); in.Fee != 0 {
		t.Errorf("a fee of %d of what was cancelled", in.Fee)
	}
	fees := func() int64 {
		t.Helper()
		keeper, keeps := p.(payment.Bookkeeper)
		if !keeps {
			return taken.Fee
		}
		b, err := keeper.Books(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b.FeesMinorUnits[request("").CurrencyCode]
	}
	if got := fees(); got != taken.Fee {
		t.Errorf("fees of %d in the books, want %d", got, taken.Fee)
	}
	if _, err := p.Refund(t.Context(), "r/1", payment.RefundRequest{RefundID: "r1", IntentID: id, MinorUnits: request("").MinorUnits}); err != nil {
		t.Fatal(err)
	}
	if in, err := p.GetIntent(t.Context(), id); err != nil || in.Fee != taken.Fee || fees() != taken.Fee {
		t.Errorf("after a refund the fee is %d, %d in the books, want %d: %v", in.Fee, fees(), taken.Fee, err)
	}
}

func (h Harness) instruments(t *testing.T) {
	p := h.New(t)
	of := func(purchase, reference string) string {
		t.Helper()
		r := request(reference)
		r.PurchaseID = purchase
		in, err := p.CreateIntent(t.Context(), purchase+"/1", r)
		if err != nil {
			t.Fatal(err)
		}
		authorised := expect(t, p, p.Confirm, in.ID, payment.Authorised)
		captured := expect(t, p, p.Capture, in.ID, payment.Succeeded)
		list, err := p.Intents(t.Context(), purchase)
		if err != nil || len(list) != 1 || list[0] != captured {
			t.Fatalf("Intents: %+v, %v; want %+v", list, err, captured)
		}
		if name := captured.Instrument; name == "" || name != authorised.Instrument || len(name) > 128 || strings.Contains(name, reference) {
			t.Fatalf("instrument %q when authorised, %q when captured", authorised.Instrument, name)
		}
		return captured.Instrument
	}
	id := h.create(t, p, "k/0", h.SameCard[0]).ID
	authorised := expect(t, p, p.Confirm, id, payment.Authorised)
	if in := expect(t, p, p.Cancel, id, payment.Cancelled); in.Instrument != authorised.Instrument {
		t.Errorf("instrument %q when authorised, %q when cancelled", authorised.Instrument, in.Instrument)
	}
	if in := expect(t, p, p.Cancel, h.create(t, p, "k/-1", h.SameCard[0]).ID, payment.Cancelled); in.Instrument != "" {
		t.Errorf("instrument %q of an intent that nobody authorised", in.Instrument)
	}
	a, b, other := of("p1", h.SameCard[0]), of("p2", h.SameCard[1]), of("p3", h.OtherCard)
	if a != b || a == other {
		t.Errorf("instruments %q and %q of one card, %q of another", a, b, other)
	}
}

// disturbed repeats creating by key, and everything else after reading by id, as the saga does.
func (h Harness) disturbed(t *testing.T, reference string) {
	p := h.New(t)
	failures := 0
	expected := func(err error) {
		t.Helper()
		if failures++; failures > 20 {
			t.Fatal("it does not get through")
		}
		if !errors.Is(err, payment.ErrUnknownOutcome) && !errors.Is(err, payment.ErrRetryable) {
			t.Fatal(err)
		}
	}
	in, err := p.CreateIntent(t.Context(), "k/1", request(reference))
	for err != nil {
		expected(err)
		in, err = p.CreateIntent(t.Context(), "k/1", request(reference))
	}
	for in.State != payment.Succeeded {
		call := p.Confirm
		if in.State == payment.Authorised {
			call = p.Capture
		}
		if _, err := call(t.Context(), in.ID); err != nil {
			expected(err)
		}
		if in, err = p.GetIntent(t.Context(), in.ID); err != nil {
			t.Fatal(err)
		}
	}
	if failures == 0 {
		t.Error("nothing was disturbed")
	}
	h.charged(t, p, 1)
}

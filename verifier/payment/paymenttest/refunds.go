package paymenttest

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/verifier/payment"
)

func (h Harness) captured(t *testing.T, p payment.Provider, key, reference string) string {
	t.Helper()
	id := h.create(t, p, key, reference).ID
	expect(t, p, p.Confirm, id, payment.Authorised)
	expect(t, p, p.Capture, id, payment.Succeeded)
	return id
}

func refund(t *testing.T, p payment.Provider, key string, r payment.RefundRequest, want payment.RefundState) {
	t.Helper()
	got, err := p.Refund(t.Context(), key, r)
	if err != nil || got.RefundRequest != r || got.State != want {
		t.Fatalf("Refund: %+v, %v; want state %d", got, err, want)
	}
}

func refundFails(t *testing.T, p payment.Provider, key string, r payment.RefundRequest, want error) {
	t.Helper()
	if got, err := p.Refund(t.Context(), key, r); !errors.Is(err, want) {
		t.Fatalf("Refund: %+v, %v; want %v", got, err, want)
	}
}

// refunded reads the refunds of an intent and checks their states by id.
func refunded(t *testing.T, p payment.Provider, intentID string, want map[string]payment.RefundState) {
	t.Helper()
	list, err := p.Refunds(t.Context(), intentID)
	got := map[string]payment.RefundState{}
	for _, r := range list {
		got[r.RefundID] = r.State
	}
	if err != nil || len(got) != len(list) || !maps.Equal(got, want) {
		t.Fatalf("Refunds: %+v, %v; want %v", list, err, want)
	}
}

func (h Harness) acts(t *testing.T) {
	p := h.New(t)
	yes, no := h.create(t, p, "yes/1", h.ActionRequired).ID, h.create(t, p, "no/1", h.ActionRequired).ID
	for id, decline := range map[string]bool{yes: false, no: true} {
		expect(t, p, p.Confirm, id, payment.RequiresAction)
		h.Act(t, p, id, decline)
	}
	expect(t, p, p.Capture, yes, payment.Succeeded)
	expect(t, p, p.Capture, no, payment.Declined)
	h.charged(t, p, 1)
}

func (h Harness) keysExpire(t *testing.T) {
	p := h.New(t)
	first := h.create(t, p, "k/1", h.OK).ID
	h.Later(t, p)
	second := h.create(t, p, "k/1", h.OK).ID
	if first == second {
		t.Fatal("the key is remembered for ever: this engine cannot show what its callers must live with")
	}
	expect(t, p, p.Cancel, second, payment.Cancelled)
	expect(t, p, p.Confirm, first, payment.Authorised)
	expect(t, p, p.Capture, first, payment.Succeeded)
	h.charged(t, p, 1)
}

func (h Harness) keptErrors(t *testing.T) {
	p := h.New(t)
	if _, err := p.CreateIntent(t.Context(), "k/1", request(h.KeptErrors)); !errors.Is(err, payment.ErrRetryable) {
		t.Fatalf("the first creation: %v", err)
	}
	for range 2 {
		if _, err := p.CreateIntent(t.Context(), "k/1", request(h.KeptErrors)); !errors.Is(err, payment.ErrReplayed) {
			t.Fatalf("the same key again: %v", err)
		}
	}
	id := h.captured(t, p, "k/1/2", h.KeptErrors)
	r := payment.RefundRequest{RefundID: "r", IntentID: id, MinorUnits: 499}
	refundFails(t, p, "r", r, payment.ErrRetryable)
	refundFails(t, p, "r", r, payment.ErrReplayed)
	refunded(t, p, id, map[string]payment.RefundState{})
	refund(t, p, "r/2", r, payment.RefundSucceeded)
	h.Later(t, p)
	h.create(t, p, "k/1", h.OK) // forgotten at last
}

func (h Harness) refunds(t *testing.T) {
	p := h.New(t)
	id := h.captured(t, p, "k/1", h.OK)
	refund(t, p, "a", payment.RefundRequest{RefundID: "a", IntentID: id, MinorUnits: 200}, payment.RefundSucceeded)
	for _, amount := range []int64{300, 0, -1} {
		refundFails(t, p, "b", payment.RefundRequest{RefundID: "b", IntentID: id, MinorUnits: amount}, payment.ErrNotRefundable)
	}
	refund(t, p, "c", payment.RefundRequest{RefundID: "c", IntentID: id, MinorUnits: 299}, payment.RefundSucceeded)
	refundFails(t, p, "d", payment.RefundRequest{RefundID: "d", IntentID: id, MinorUnits: 1}, payment.ErrNotRefundable)
	refunded(t, p, id, map[string]payment.RefundState{"a": payment.RefundSucceeded, "c": payment.RefundSucceeded})
}

func (h Harness) refundKeys(t *testing.T) {
	p := h.New(t)
	r := payment.RefundRequest{RefundID: "a", IntentID: h.captured(t, p, "k/1", h.OK), MinorUnits: 100}
	for range 3 {
		refund(t, p, "a", r, payment.RefundSucceeded)
	}
	r.MinorUnits++
	refundFails(t, p, "a", r, payment.ErrKeyReused)
	refunded(t, p, r.IntentID, map[string]payment.RefundState{"a": payment.RefundSucceeded})
}

func (h Harness) refundKeysExpire(t *testing.T) {
	p := h.New(t)
	r := payment.RefundRequest{RefundID: "a", IntentID: h.captured(t, p, "k/1", h.OK), MinorUnits: 100}
	refund(t, p, "a", r, payment.RefundSucceeded)
	h.Later(t, p)
	refunded(t, p, r.IntentID, map[string]payment.RefundState{"a": payment.RefundSucceeded})
	refund(t, p, "a", r, payment.RefundSucceeded)
	if list, err := p.Refunds(t.Context(), r.IntentID); err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v: the key is remembered for ever", list, err)
	}
}

func (h Harness) notRefundable(t *testing.T) {
	p := h.New(t)
	r := payment.RefundRequest{RefundID: "a", IntentID: h.create(t, p, "k/1", h.OK).ID, MinorUnits: 1}
	refundFails(t, p, "a", r, payment.ErrNotRefundable)
	expect(t, p, p.Confirm, r.IntentID, payment.Authorised)
	refundFails(t, p, "a", r, payment.ErrNotRefundable)
	refunded(t, p, r.IntentID, map[string]payment.RefundState{})
	r.IntentID = "no such id"
	refundFails(t, p, "a", r, payment.ErrNotFound)
	if _, err := p.Refunds(t.Context(), r.IntentID); !errors.Is(err, payment.ErrNotFound) {
		t.Fatalf("reading refunds of no intent: %v", err)
	}
}

func (h Harness) slowRefund(t *testing.T) {
	p := h.New(t)
	r := payment.RefundRequest{RefundID: "a", IntentID: h.captured(t, p, "k/1", h.SlowRefund), MinorUnits: 499}
	refund(t, p, "a", r, payment.RefundPending)
	refundFails(t, p, "b", payment.RefundRequest{RefundID: "b", IntentID: r.IntentID, MinorUnits: 1}, payment.ErrNotRefundable)
	h.Later(t, p)
	refunded(t, p, r.IntentID, map[string]payment.RefundState{"a": payment.RefundSucceeded})
}

func (h Harness) failedRefund(t *testing.T) {
	p := h.New(t)
	r := payment.RefundRequest{RefundID: "a", IntentID: h.captured(t, p, "k/1", h.FailedRefund), MinorUnits: 499}
	refund(t, p, "a", r, payment.RefundFailed)
	r.RefundID = "b"
	refund(t, p, "b", r, payment.RefundFailed) // and not ErrNotRefundable
}

// disturbedRefund reads before every try, as the saga does.
func (h Harness) disturbedRefund(t *testing.T, reference string) {
	p := h.New(t)
	in, err := p.CreateIntent(t.Context(), "k/1", request(reference))
	for tries := 0; in.State != payment.Succeeded; tries++ {
		if tries > 20 {
			t.Fatalf("it does not get through: %v", err)
		}
		switch {
		case in.ID == "":
			in, err = p.CreateIntent(t.Context(), "k/1", request(reference))
			continue
		case in.State == payment.Authorised:
			_, err = p.Capture(t.Context(), in.ID)
		default:
			_, err = p.Confirm(t.Context(), in.ID)
		}
		if read, rerr := p.GetIntent(t.Context(), in.ID); rerr == nil {
			in = read
		}
	}
	r := payment.RefundRequest{RefundID: "a", IntentID: in.ID, MinorUnits: 499}
	failures := 0
	for {
		list, err := p.Refunds(t.Context(), in.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 {
			break
		}
		if _, err := p.Refund(t.Context(), "a", r); err != nil {
			if failures++; failures > 5 || !errors.Is(err, payment.ErrUnknownOutcome) && !errors.Is(err, payment.ErrRetryable) {
				t.Fatal(err)
			}
		}
	}
	if failures == 0 {
		t.Error("nothing was disturbed")
	}
	refunded(t, p, in.ID, map[string]payment.RefundState{"a": payment.RefundSucceeded})
}

func (h Harness) hints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := h.New(t)
		hinter, ok := p.(payment.Hinter)
		if !ok {
			t.Skip("this engine sends no hints")
		}
		const intents = 100
		order := map[string]int{}
		for i := range intents {
			order[h.captured(t, p, string(rune('A'+i)), h.OK)] = i
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		var heard []payment.Hint
		refused := 0
		go func() {
			done <- hinter.Hints(ctx, func(_ context.Context, hints []payment.Hint) error {
				if refused++; refused%3 == 1 {
					return errors.New("not now")
				}
				heard = append(heard, hints...)
				return nil
			})
		}()
		time.Sleep(time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ids, about, last := map[string]string{}, map[string]bool{}, -1
		twice, early := 0, 0
		for _, hint := range heard {
			if other, again := ids[hint.ID]; again {
				twice++
				if other != hint.IntentID {
					t.Errorf("hint %s is about two intents", hint.ID)
				}
			}
			ids[hint.ID], about[hint.IntentID] = hint.IntentID, true
			if order[hint.IntentID] < last {
				early++
			}
			last = order[hint.IntentID]
		}
		if len(about) != intents || len(about) != len(order) {
			t.Errorf("hints about %d of %d intents", len(about), intents)
		}
		if twice == 0 || early == 0 {
			t.Errorf("%d hints came twice and %d out of order: this engine cannot show what its callers must live with", twice, early)
		}
	})
}

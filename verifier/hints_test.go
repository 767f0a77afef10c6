package verifier_test

import (
	"context"
	"sync"
	"testing"
	"time"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/payment"
)

// postman is the provider with its hints delivered by hand.
type postman struct {
	payment.Provider
	deliver chan func(context.Context, []payment.Hint) error // once

	mu    sync.Mutex // guards what is below
	made  []string   // intents, in their order
	reads int
}

func (p *postman) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	in, err := p.Provider.CreateIntent(ctx, key, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = append(p.made, in.ID)
	return in, err
}

func (p *postman) GetIntent(ctx context.Context, id string) (payment.Intent, error) {
	p.mu.Lock()
	p.reads++
	p.mu.Unlock()
	return p.Provider.GetIntent(ctx, id)
}

func (p *postman) Hints(ctx context.Context, deliver func(context.Context, []payment.Hint) error) error {
	p.deliver <- deliver
	<-ctx.Done()
	return nil
}

func TestHintIsReadOnceAndNeverBelieved(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.cfg.ActionPoll = time.Hour // only a hint can be faster than the window
		post := &postman{Provider: w.psp, deliver: make(chan func(context.Context, []payment.Hint) error, 1)}
		w.payment = post
		w.start()
		deliver := <-post.deliver
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_action_required"})
		w.present(receipt)
		time.Sleep(time.Second)
		post.mu.Lock()
		intent := post.made[0]
		post.mu.Unlock()
		hint := func(id, about string) int {
			t.Helper()
			post.mu.Lock()
			before := post.reads
			post.mu.Unlock()
			check(t, deliver(t.Context(), []payment.Hint{{ID: id, IntentID: about}, {ID: id, IntentID: about}}))
			time.Sleep(time.Second)
			post.mu.Lock()
			defer post.mu.Unlock()
			return post.reads - before
		}
		if n := hint("early", intent); n != 1 {
			t.Errorf("a hint that came twice made %d reads", n)
		}
		want(t, w.get(receipt), actionRequired, noReason) // nothing happened, whatever the hint was about
		if n := hint("early", intent); n != 0 {
			t.Errorf("a hint that came before made %d reads", n)
		}
		if n := hint("stray", "no intent of ours"); n != 0 {
			t.Errorf("a hint about nobody made %d reads", n)
		}
		if _, err := w.psp.CompleteAction(t.Context(), intent, false); err != nil {
			t.Fatal(err)
		}
		if hint("late", intent); w.get(receipt).GetState() != delivered {
			t.Errorf("after the hint the purchase is %v", w.get(receipt).GetState())
		}
		if n := hint("after the end", intent); n != 0 {
			t.Errorf("a hint about a purchase that is paid made %d reads", n)
		}
		w.checkBooks()
	})
}

func TestKeyThatExpiredMakesNoSecondCharge(t *testing.T) {
	for _, reference := range []string{"tp_timeout_after", "tp_500_kept"} {
		t.Run(reference, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *world) {
				w.patient()
				w.cfg.ActionWindow = time.Hour
				w.cfg.MinBackoff, w.cfg.MaxBackoff = 60*time.Hour, 60*time.Hour // every next try is under a forgotten key
				w.cfg.Poll = 10 * time.Minute
				w.start()
				receipt, _ := w.redeem(w.nodes[0], sale{reference: reference})
				id := w.present(receipt).GetPurchaseId()
				time.Sleep(10 * 24 * time.Hour)
				want(t, w.get(receipt), delivered, noReason)
				if n := w.charges(id); n != 1 {
					t.Errorf("%d charges", n)
				}
				w.checkBooks()
			})
		})
	}
}

func TestRefundWhoseKeyExpiredIsFoundByItsOwnID(t *testing.T) {
	inMemory(t, func(t *testing.T, w *world) {
		w.patient()
		w.cfg.ActionWindow, w.cfg.Poll = time.Hour, 10*time.Minute
		w.cfg.MinBackoff, w.cfg.MaxBackoff = 60*time.Hour, 60*time.Hour
		w.start()
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_timeout_after"})
		id := w.present(receipt).GetPurchaseId()
		time.Sleep(10 * 24 * time.Hour)
		_, err := w.refund("r", id, 200)
		check(t, err)
		time.Sleep(4 * 24 * time.Hour) // the answer of the first try is lost, and the next one is more than a day later
		if got := w.refunds(id); len(got) != 1 || got[0].GetState() != verifierv1.RefundState_REFUND_STATE_DONE || w.moneyAt() != 299 {
			t.Errorf("refunds %v, the provider keeps %d of 499", got, w.moneyAt())
		}
		w.checkBooks()
	})
}

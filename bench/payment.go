package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

const (
	// paymentRate is a third of what 32 payments at a time can do at this latency: queueing is another figure.
	paymentRate = 10
	// customerTakes is how long a customer who is asked needs to confirm.
	customerTakes = 5 * time.Second
)

// payments are the times from a receipt to the news that the money is taken.
type payments struct {
	mu            sync.Mutex
	alone, asked  []time.Duration // without and with the customer
	failed, other int
}

// measurePayments buys under a realistic mix of payments and follows each purchase until its money is taken.
func measurePayments(ctx context.Context, s settings) (section, error) {
	n := s.pick(400, 20)
	var got payments
	w := &world{settles: true, realistic: true}
	w.back.Store(true)
	err := w.in(ctx, s.dir, func(w *world) error {
		drop, err := w.openDrop(ctx, 10*n) // a lone node is given an eighth at a time
		if err != nil {
			return err
		}
		taps, err := w.taps(ctx, drop, n)
		if err != nil {
			return err
		}
		_, err = openLoop(ctx, paymentRate, n, func(ctx context.Context, i int) error {
			taps[i].PaymentReference = testpsp.RefMix
			return w.pay(ctx, taps[i], &got)
		})
		return err
	})
	t := table{header: []string{"accepted to captured, s", "purchases", "p50", "p90", "p99", "slowest"}}
	add := func(name string, times []time.Duration) {
		if len(times) > 0 {
			t.add(name, fmt.Sprint(len(times)), seconds(median(times)), seconds(quantile(times, 0.9)), seconds(quantile(times, 0.99)), seconds(quantile(times, 1)))
		}
	}
	add("all that were captured", append(append([]time.Duration{}, got.alone...), got.asked...))
	add("without the customer", got.alone)
	add(fmt.Sprintf("with a customer who takes %v", customerTakes), got.asked)
	return section{
		tables: []table{t},
		aim: fmt.Sprintf("%d purchases at %d/s: %d captured, %d of them with the customer, %d made good with a voucher, %d refused. A provider's answer takes 250 ms at "+
			"the median and a second in the slowest hundredth; a purchase needs three of them, one after the other: create, confirm, capture.",
			n, paymentRate, len(got.alone)+len(got.asked), len(got.asked), got.failed, got.other),
		cannot: "a real provider, or a network to it: the latencies are drawn, and the customer always confirms. Queueing is not in it: the verifier has 32 payments at a time in progress, " +
			"and a crowd that buys faster than those end waits for its turn. Everything shares this machine's cores.",
	}, err
}

// pay redeems, and follows the purchase until its money is taken or it failed.
func (w *world) pay(ctx context.Context, tap *offerv1.RedeemOfferRequest, got *payments) error {
	offers := offerv1.NewOfferServiceClient(w.conn)
	answer, err := offers.RedeemOffer(ctx, tap)
	if err != nil {
		return err
	}
	accepted := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := offers.WatchPurchase(ctx, &offerv1.WatchPurchaseRequest{
		Credential: &offerv1.WatchPurchaseRequest_Receipt{Receipt: answer.GetReceipt()},
	})
	if err != nil {
		return err
	}
	asked := false
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("following a purchase: %w", err)
		}
		switch p := m.GetPurchase(); p.GetState() {
		case offerv1.PurchaseState_PURCHASE_STATE_ACTION_REQUIRED:
			asked = true
			time.Sleep(customerTakes)
			if _, err := w.page.CompleteAction(ctx,
				&verifierv1.CompleteActionRequest{PaymentIntentId: p.GetPaymentIntentId()}); err != nil {
				return err
			}
		case offerv1.PurchaseState_PURCHASE_STATE_CAPTURED, offerv1.PurchaseState_PURCHASE_STATE_ORDERED, offerv1.PurchaseState_PURCHASE_STATE_DELIVERED:
			got.add(time.Since(accepted), asked)
			return nil
		case offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, offerv1.PurchaseState_PURCHASE_STATE_REFUSED:
			got.fail(p.GetVoucher() != nil)
			return nil
		}
	}
}

func (p *payments) add(took time.Duration, asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if asked {
		p.asked = append(p.asked, took)
	} else {
		p.alone = append(p.alone, took)
	}
}

func (p *payments) fail(voucher bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if voucher {
		p.failed++
	} else {
		p.other++
	}
}

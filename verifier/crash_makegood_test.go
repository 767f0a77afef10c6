package verifier_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/verifier"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
)

// TestCrashWhileMakingGood crashes the service once at each of its commits, before and after, while orders die, viewers
// choose, the shop refunds and vouchers pay; starts it again over the same stores, and looks at the world.
func TestCrashWhileMakingGood(t *testing.T) {
	for _, committed := range []bool{false, true} {
		atEveryCommit(t, 20, committed, 0, crashMakingGood)
	}
}

//rimlight:bubble its callers are bubbles
func crashMakingGood(t *testing.T, c *crash) bool {
	w := newWorld(t)
	w.patient()
	w.cfg.ChoiceWindow, w.cfg.JobLease = 2*time.Minute, time.Hour
	w.start()
	// What is paid with, and what is made good, exists before the machine is in danger.
	money, lock := w.storedValue(700), w.priceLock(300, "")
	refundable, refundableID := w.bought("tp_timeout_after")
	charged := w.moneyAt()
	w.stop()
	w.start(func(s *verifier.Service) { s.SetFault(c.fault) })

	w.setDead(true)
	var receipts []string
	for _, reference := range []string{"tp_ok", "tp_timeout_after", "tp_500_kept", "tp_refund_fails"} {
		r, _ := w.redeem(w.nodes[0], sale{reference: reference})
		receipts = append(receipts, r)
	}
	halfPaid, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok", price: 1000, voucher: money})
	receipts = append(receipts, halfPaid)
	settleAll(w, receipts)
	w.setDead(false)
	var later []string
	for _, text := range []string{money, money, lock, lock} { // the second of each may find it spent
		r, _ := w.redeem(w.nodes[1], sale{reference: "tp_ok", voucher: text})
		later = append(later, r)
	}
	act := func() { // as viewers and finance do: again and again until it is answered
		if _, err := w.choose(receipts[1], wantVoucher); err != nil && rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING && !c.happened() {
			t.Errorf("choosing: %v", err)
		}
		if _, err := w.refund("once", refundableID, 100); err != nil && !c.happened() {
			t.Errorf("refunding: %v", err)
		}
	}
	act()
	settleAll(w, later)
	hit := c.happened()
	w.stop()
	w.start()
	settleAll(w, receipts)
	settleAll(w, later)
	act()
	time.Sleep(20 * time.Minute)

	for _, r := range append(append(receipts, later...), refundable) {
		if p := w.get(r); p.GetOutcome() == "" {
			t.Errorf("a purchase is still %v", p.GetState())
		}
	}
	if got := len(w.refunds(refundableID)); got != 1 {
		t.Errorf("%d refunds under one request id", got)
	}
	// 499 stay for each delivery that nothing paid for, and for each voucher of stored value; the rest is checked by the
	// books, of which the provider's are independent.
	keeps := w.moneyAt() - charged + 100
	want := int64(0)
	for _, r := range append(receipts, later...) {
		switch p := w.get(r); {
		case p.GetState() == delivered:
			want += p.GetCharged().GetMinorUnits()
		case p.GetState() == voucher && p.GetReason() == errorsv1.Reason_REASON_ORDER_FAILED:
			want += p.GetVoucher().GetPrice().GetMinorUnits()
		}
	}
	if keeps != want {
		t.Errorf("the provider keeps %d, want %d", keeps, want)
	}
	used := map[string]int{}
	for _, v := range w.vouchers() {
		used[v.GetVoucher().GetKind().String()] += len(v.GetUsedBy())
	}
	if used["VOUCHER_KIND_PRICE_LOCK"] != 1 || used["VOUCHER_KIND_STORED_VALUE"] == 0 {
		t.Errorf("vouchers were used %v times", used)
	}
	for _, drop := range w.audit().GetDrops() {
		if drop.GetOpen() != 0 {
			t.Errorf("%d purchases open", drop.GetOpen())
		}
	}
	if a := w.audit(); a.GetJobsOpen() != 0 {
		t.Errorf("%d jobs open", a.GetJobsOpen())
	}
	w.checkBooks()
	return hit
}

// settleAll forwards receipts as a node does, and lets time pass.
//
//rimlight:bubble its callers are bubbles
func settleAll(w *world, receipts []string) {
	for i, r := range receipts {
		f := w.open(w.nodes[0], 1<<40)
		if f.ack() != nil {
			f.send(int64(i+1), r)
			f.ack()
		}
		f.cancel()
		<-f.err
	}
	time.Sleep(time.Minute)
}

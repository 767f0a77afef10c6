package verifier_test

import (
	"sync/atomic"
	"testing"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// A replica that stood still while it settled a unit goes on after its claim has ended. What another replica has found out
// since, and has begun, stays: here the denied winner's place was taken by its duplicate, whose unit is still to be settled.
func TestAReplicaThatStoodStillTakesNoJobAway(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		var asked atomic.Int32
		stopped, done := make(chan struct{}), make(chan struct{})
		w.f.mu.Lock()
		w.f.beforeSettle = func() {
			switch asked.Add(1) {
			case 1:
				<-stopped // the first replica, for longer than its claim
			case 3: // the other one settles the duplicate's unit, and fails at it
				close(stopped)
				time.Sleep(5 * time.Second)
				w.f.setAway(true)
				close(done)
			}
		}
		w.f.mu.Unlock()
		k, session := w.bytes(), w.bytes()
		first, _ := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_ok", unleased: true})
		second, _ := w.redeem(w.nodes[1], sale{k: k, session: session, reference: "tp_ok"})
		w.submit(w.nodes[0], 0, first, second)
		defer w.replica()()
		<-done
		w.f.setAway(false)
		time.Sleep(5 * time.Minute)
		want(t, w.get(first), delivered, noReason)
		w.checkBooks()
	})
}

// One replica was told which nodes are gone for good, and has ended the recovery; the other one then does not wait for them.
func TestARecoveryEndsForAllReplicas(t *testing.T) {
	inMemory(t, func(t *testing.T, w *world) {
		w.start()
		w.restoreOld()
		told := w.cfg
		told.RecoverWithout = []string{w.nodes[0].id, w.nodes[1].id, w.nodes[2].id}
		waiting := w.cfg
		w.cfg = told
		stop := w.replica()
		w.cfg = waiting
		time.Sleep(time.Minute)
		stop()
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.present(receipt)
		time.Sleep(5 * time.Minute)
		want(t, w.get(receipt), delivered, noReason)
	})
}

// A key that one replica learned is known to all: the others have work for receipts that only it has read.
func TestReplicasKnowEachOthersKeys(t *testing.T) {
	for _, c := range []struct {
		name string
		// work makes something for which a receipt of the new node must be opened.
		work func(*world, *node) (receipt string)
	}{
		{"a parcel goes where its receipt says", func(w *world, fresh *node) string {
			receipt, _ := w.redeem(fresh, sale{reference: "tp_ok"})
			w.present(receipt)
			return receipt
		}},
		{"a duplicate takes the denied winner's place", func(w *world, fresh *node) string {
			k, session := w.bytes(), w.bytes()
			first, _ := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_ok", unleased: true})
			second, _ := w.redeem(fresh, sale{k: k, session: session, reference: "tp_ok"})
			w.submit(w.nodes[0], 0, first, second)
			return first
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.cfg.KeyPoll = time.Hour
				w.f.mu.Lock()
				w.f.drops[w.drop].goods = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL
				w.f.mu.Unlock()
				defer w.replica()()
				time.Sleep(time.Minute) // it has asked for keys, and does not for an hour
				w.make()                // the other one answers calls, and works at nothing
				receipt := c.work(w, w.newNode())
				time.Sleep(5 * time.Minute)
				want(t, w.get(receipt), delivered, noReason)
			})
		})
	}
}

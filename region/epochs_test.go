package region_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

func TestEveryProcessLifeHasANumberAndAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 5)
		for range 3 {
			w.start()
			time.Sleep(time.Second)
			w.crash()
		}
		boots := map[string]bool{}
		for i, j := range w.stock.joins {
			if j.GetLife() != int64(i+1) {
				t.Errorf("join %d came with life %d", i, j.GetLife())
			}
			boots[j.GetBootId()] = true
		}
		if len(boots) != 3 {
			t.Errorf("got %d boot ids for 3 lives", len(boots))
		}
	})
}

func TestAnEpochIsJournaledBeforeAnythingIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 5)
		w.options.Fault = func(journal.Stage) error { return journal.ErrClosed } // a power cut at the first commit
		w.start()
		time.Sleep(21 * time.Second)
		if _, err := w.offer(1); err == nil {
			t.Error("an offer was made before the epoch was durable")
		}
		if len(w.stock.leases) > 0 {
			t.Error("stock was fetched before the epoch was durable")
		}
		w.crash()
	})
}

// A directory that moved to another machine may have been copied: what it holds is another disk's until it has joined.
func TestAnotherDisksEpochSellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 5)
		w.start()
		time.Sleep(21 * time.Second)
		token := w.mustOffer(1)
		w.crash()
		w.identity.DiskID = "the same directory elsewhere"
		w.stock.set(func() { w.stock.down = true })
		w.start()
		time.Sleep(time.Second)
		_, err := w.redeem(1, token)
		wantReason(t, err, "DRAINING")
		w.stock.set(func() { w.stock.down, w.stock.epoch = false, 2 })
		time.Sleep(10 * time.Second)
		r, err := decodeReceipt(w.mustRedeem(1, token).GetReceipt())
		if err != nil {
			t.Fatal(err)
		}
		if r.GetEpoch() != 2 || w.stock.leases[r.GetLeaseId()].GetEpoch() != 2 {
			t.Errorf("sold under epoch %d from a lease of epoch %d, want 2", r.GetEpoch(), w.stock.leases[r.GetLeaseId()].GetEpoch())
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestANodeThatLostItsDiskBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 4)
		w.start()
		time.Sleep(21 * time.Second)
		lost := serialOf(t, w.mustRedeem(1, w.mustOffer(1)).GetReceipt())
		w.crash()
		w.freshDisk()
		w.start()
		time.Sleep(3 * time.Second)
		if got := serialOf(t, w.mustRedeem(2, w.mustOffer(2)).GetReceipt()); got == lost {
			t.Errorf("serial %d, which the lost disk sold, was sold again", got)
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
		if names := w.verifier.journalNames(); len(names) != 2 {
			t.Errorf("the verifier was told of the journals %v, want one for each disk", names)
		}
	})
}

func TestARecallOfAnotherEpochIsIgnored(t *testing.T) {
	inOpenDrop(t, 9, 5, func(t *testing.T, w *world) {
		w.stock.set(func() {
			w.stock.epochAhead = 1
			w.stock.recalls = []*fulfillmentv1.Recall{{DropId: w.drop.Drop.DropId, Units: 5}}
		})
		time.Sleep(3 * time.Second)
		w.stock.set(func() {
			w.stock.epochAhead = 0
			if len(w.stock.returned) > 0 {
				t.Errorf("gave back %v", w.stock.returned)
			}
		})
	})
}

// wantEnd waits for a node that must end by itself, and says why it did.
func (w *world) wantEnd(why error) {
	w.t.Helper()
	select {
	case err := <-w.ended:
		if !errors.Is(err, why) {
			w.t.Errorf("Run ended with %v, want %v", err, why)
		}
	case <-time.After(time.Minute):
		w.t.Errorf("the node goes on, want %v", why)
	}
}

// Two processes on copies of one directory would sell the same serials: the older one stops, for ever.
func TestTheOlderOfTwoProcessesStops(t *testing.T) {
	superseded := rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_SUPERSEDED, "another process joined")
	for name, notice := range map[string]func(*fakeStock){
		"at its heartbeat": func(f *fakeStock) { f.beatErr = superseded },
		"at its Join": func(f *fakeStock) {
			f.joinErr = superseded
			f.beatErr = rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_EPOCH_STALE, "join again")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 9, 5)
				w.start()
				time.Sleep(21 * time.Second)
				w.verifier.mute(true)
				token := w.mustOffer(2)
				w.mustRedeem(1, w.mustOffer(1))
				w.verifier.mute(false)
				w.stock.set(func() { notice(w.stock) })
				w.wantEnd(region.ErrSuperseded)
				w.abandon()

				// A supervisor starts it again. What it sold is forwarded, under a name of its own, and nothing more is sold.
				w.stock.set(func() { w.stock.beatErr, w.stock.joinErr = nil, nil })
				joins := len(w.stock.joins)
				w.verifier.acked = 0
				w.start()
				if _, err := w.redeem(2, token); err == nil {
					t.Error("a fenced process sold")
				}
				w.wantEnd(region.ErrSuperseded)
				w.abandon()
				if len(w.stock.joins) != joins {
					t.Error("a fenced process joined again")
				}
				if receipts, _ := w.verifier.count(); receipts != 1 {
					t.Errorf("%d receipts were forwarded, want 1", receipts)
				}
				if names := w.verifier.journalNames(); len(names) != 2 || names[1] == names[0] {
					t.Errorf("the journals are called %v, want two names", names)
				}
			})
		})
	}
}

// A node on an empty disk has joined before it has read the catalogue: what it does not know then it sends elsewhere.
func TestAnUnreadCatalogueDeniesNoDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 5)
		first := <-w.catalog.messages // is late
		w.start()
		time.Sleep(time.Second)
		_, err := w.offer(1)
		wantReason(t, err, "DRAINING")
		w.catalog.messages <- first
		time.Sleep(time.Second)
		if _, err := w.offer(1); rpcerr.Reason(err) == errorsv1.Reason_REASON_DRAINING {
			t.Error("the node has read the catalogue and still sends viewers away")
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

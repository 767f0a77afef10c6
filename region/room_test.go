package region_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region/journal"
)

// onDisk is inOpenDrop with a disk that may be filled.
func onDisk(t *testing.T, units uint32, most int, test func(t *testing.T, w *world, full *atomic.Bool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, units, most)
		full := &atomic.Bool{}
		w.options.Fault = func(s journal.Stage) error {
			if full.Load() && s != journal.AfterCommit {
				return journal.ErrNoSpace
			}
			return nil
		}
		w.start()
		time.Sleep(21 * time.Second)
		defer func() {
			if err := w.end(); err != nil {
				t.Errorf("Run ended with %v", err)
			}
		}()
		test(t, w, full)
	})
}

func (w *world) probe() *regionv1.ProbeResponse {
	w.t.Helper()
	m, err := w.node.Probe(w.t.Context(), &regionv1.ProbeRequest{})
	if err != nil {
		w.t.Fatalf("Probe: %v", err)
	}
	return m
}

func wantFull(t *testing.T, err error) {
	t.Helper()
	wantReason(t, err, "JOURNAL_FULL")
	if _, ok := rpcerr.Retry(err); !ok || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want RESOURCE_EXHAUSTED with a pause", err)
	}
}

func TestANodeWithAFullDiskRefusesKeepsWhatItHasAndGoesOn(t *testing.T) {
	onDisk(t, 50, 50, func(t *testing.T, w *world, full *atomic.Bool) {
		w.verifier.cut()
		tokens, receipts := map[int]string{}, map[int]string{}
		for i := range 13 {
			tokens[i] = w.mustOffer(i)
		}
		for i := range 3 {
			receipts[i] = w.mustRedeem(i, tokens[i]).GetReceipt()
		}
		full.Store(true)
		var all sync.WaitGroup
		for i := 3; i < 13; i++ {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond) // some wait for the commit that fails, some come later
				_, err := w.redeem(i, tokens[i])
				wantFull(t, err)
			})
		}
		all.Wait()
		_, err := w.node.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{Hints: w.hints("later"), ViewerSessionId: session(99)})
		wantFull(t, err)
		_, err = w.claim(98)
		wantFull(t, err)
		if p := w.probe(); !p.GetJournalFull() || p.GetStock()[0].GetUntouched() != 47 {
			t.Errorf("the node says %v, want a full journal and 47 units", p)
		}

		w.verifier.heal()
		time.Sleep(20 * time.Second)
		for i := range 3 {
			if again := w.mustRedeem(i, tokens[i]).GetReceipt(); again != receipts[i] {
				t.Errorf("session %d got another receipt", i)
			}
			m, err := w.node.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: receipts[i]}})
			if err != nil || m.GetPurchase().GetState() != offerv1.PurchaseState_PURCHASE_STATE_DELIVERED {
				t.Errorf("purchase of session %d: %v, %v", i, m, err)
			}
		}
		if n, repeated := w.verifier.count(); n != 3 || repeated > 0 {
			t.Errorf("%d receipts were forwarded, %d of them again, want 3 and 0", n, repeated)
		}
		if !w.probe().GetJournalFull() {
			t.Error("the disk is full, and the node does not say so any more")
		}

		full.Store(false)
		time.Sleep(3 * time.Second)
		if w.probe().GetJournalFull() {
			t.Error("the disk has room, and the node does not go on")
		}
		serials := map[uint32]bool{}
		for i := range 13 {
			serials[serialOf(t, w.mustRedeem(i, tokens[i]).GetReceipt())] = true
		}
		if len(serials) != 13 {
			t.Errorf("13 viewers got %d units", len(serials))
		}
		checkChain(t, w)
		time.Sleep(3 * time.Second)
		outcomes := map[string]bool{}
		for _, r := range w.records() {
			outcomes[r.GetOutcome().GetPurchase().GetPurchaseId()] = true
		}
		delete(outcomes, "")
		if len(outcomes) != 13 {
			t.Errorf("the journal has the outcomes of %d purchases, want all 13: those that came while the disk was full, too", len(outcomes))
		}
		time.Sleep(3 * time.Minute) // the drop is over
		w.stock.set(func() {
			if got := len(w.stock.returned); got != 37 {
				t.Errorf("%d units came back, want 37", got)
			}
		})
	})
}

func TestAUnitIsNotSentBackBeforeThatIsWritten(t *testing.T) {
	onDisk(t, 10, 10, func(t *testing.T, w *world, full *atomic.Bool) {
		token := w.mustOffer(1)
		full.Store(true)
		w.stock.set(func() {
			w.stock.recalls = []*fulfillmentv1.Recall{{DropId: w.drop.Drop.DropId, Units: 10}}
			w.stock.onReturn = func(r *fulfillmentv1.ReturnUnitsRequest) {
				if full.Load() {
					t.Errorf("%d units went back, and the journal does not say so", len(r.GetSerials()))
				}
			}
		})
		time.Sleep(10 * time.Second)
		_, err := w.redeem(1, token)
		wantFull(t, err)
		w.stock.set(func() { w.stock.recalls = nil })
		full.Store(false)
		time.Sleep(3 * time.Second)
		w.mustRedeem(1, token)
		if n := w.probe().GetStock()[0].GetUntouched(); n != 9 {
			t.Errorf("%d units are left, want 9", n)
		}
	})
}

// lateAnswers is a journal whose Resume answers a while after there is room.
type lateAnswers struct {
	*journal.Memory
	after time.Duration
}

// Resume answers late.
//
//rimlight:bubble called in the bubble of TestNewsAfterSuchThatFoundNoRoomWaitForThem
func (l lateAnswers) Resume(ctx context.Context) error {
	err := l.Memory.Resume(ctx)
	if err == nil {
		time.Sleep(l.after)
	}
	return err
}

// The cursor says that the journal has all news before it: news which find room behind such that found none would make
// the node ask for what comes after both.
func TestNewsAfterSuchThatFoundNoRoomWaitForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, 10)
		var full atomic.Bool
		w.options.Fault = func(s journal.Stage) error {
			if full.Load() && s != journal.AfterCommit {
				return journal.ErrNoSpace
			}
			return nil
		}
		w.wrap = func(m *journal.Memory) journal.Journal { return lateAnswers{m, 300 * time.Millisecond} }
		w.verifier.holdNews()
		w.start()
		time.Sleep(21 * time.Second)
		w.mustRedeem(1, w.mustOffer(1))
		w.mustRedeem(2, w.mustOffer(2))
		full.Store(true)
		w.verifier.tellNext() // finds no room
		time.Sleep(500 * time.Millisecond)
		full.Store(false)
		time.Sleep(600 * time.Millisecond) // there is room since 100 ms, and the stream is still the same one
		w.verifier.tellNext()
		time.Sleep(10 * time.Second)
		told := map[string]bool{}
		for _, r := range w.records() {
			told[r.GetOutcome().GetPurchase().GetPurchaseId()] = true
		}
		delete(told, "")
		if len(told) != 2 {
			t.Errorf("the journal has the outcomes of %d purchases, want both", len(told))
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestModesWaitForRoom(t *testing.T) {
	onDisk(t, 10, 10, func(t *testing.T, w *world, full *atomic.Bool) {
		if _, err := w.node.SetMode(t.Context(), &regionv1.SetModeRequest{
			Mode: regionv1.RegionMode_REGION_MODE_CORDONED, ExpireAfter: durationpb.New(5 * time.Second),
		}); err != nil {
			t.Fatal(err)
		}
		full.Store(true)
		_, err := w.node.SetMode(t.Context(), &regionv1.SetModeRequest{Mode: regionv1.RegionMode_REGION_MODE_DRAINED})
		wantFull(t, err)
		time.Sleep(20 * time.Second)
		if m := w.probe().GetMode(); m != regionv1.RegionMode_REGION_MODE_CORDONED {
			t.Errorf("the mode is %v, and nothing else is written", m)
		}
		full.Store(false)
		time.Sleep(5 * time.Second)
		if m := w.probe().GetMode(); m != regionv1.RegionMode_REGION_MODE_SERVING {
			t.Errorf("the mode is %v, want the one before", m)
		}
	})
}

func TestANodeStartsOnAFullDiskAndJoinsWhenThereIsRoom(t *testing.T) {
	onDisk(t, 10, 10, func(t *testing.T, w *world, full *atomic.Bool) {
		token := w.mustOffer(1)
		if err := w.end(); err != nil {
			t.Error(err)
		}
		full.Store(true)
		w.start()
		time.Sleep(5 * time.Second)
		_, err := w.redeem(1, token)
		wantFull(t, err)
		full.Store(false)
		time.Sleep(5 * time.Second)
		w.mustRedeem(1, token)
	})
}

func TestABrokenDiskWhichWasFullStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 5)
		var full atomic.Bool
		w.options.Fault = func(s journal.Stage) error {
			switch {
			case !full.Load():
				return nil
			case s == journal.LookForRoom:
				return fmt.Errorf("fsync: input/output error")
			}
			return journal.ErrNoSpace
		}
		w.start()
		time.Sleep(21 * time.Second)
		token := w.mustOffer(1)
		full.Store(true)
		_, err := w.redeem(1, token)
		wantFull(t, err)
		select {
		case err := <-w.ended:
			if !errors.Is(err, journal.ErrBroken) {
				t.Errorf("Run ended with %v, want ErrBroken", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the node goes on")
		}
		w.abandon()
	})
}

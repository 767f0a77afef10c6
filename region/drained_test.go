package region_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

// drained is what a probe is told.
func (w *world) drained() bool {
	w.t.Helper()
	p, err := w.node.Probe(w.t.Context(), &regionv1.ProbeRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p.GetDrained()
}

func (w *world) setMode(mode regionv1.RegionMode) {
	w.t.Helper()
	if _, err := w.node.SetMode(w.t.Context(), &regionv1.SetModeRequest{Mode: mode, RequestId: "r"}); err != nil {
		w.t.Fatal(err)
	}
}

// Whoever turns a node off when it says "drained" leaves nothing behind: each thing that could be left is left in turn.
func TestANodeIsDrainedWhenNothingIsLeftInIt(t *testing.T) {
	const (
		serving = regionv1.RegionMode_REGION_MODE_SERVING
		drained = regionv1.RegionMode_REGION_MODE_DRAINED
	)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 2) // what goes back to the fake escrow is not lent again
		w.drills = true
		w.start()
		says := func(when string, want bool) {
			t.Helper()
			if got := w.drained(); got != want {
				t.Errorf("%s: it says %v, want %v", when, got, want)
			}
		}
		time.Sleep(21 * time.Second) // the drop is open, and the node holds units of it
		says("while it serves", false)

		w.stock.set(func() { w.stock.down = true })
		w.setMode(drained)
		time.Sleep(5 * time.Second)
		says("units are on their way back", false)
		w.stock.set(func() { w.stock.down = false })
		time.Sleep(10 * time.Second)
		says("they are back", true)

		w.setMode(serving)
		time.Sleep(5 * time.Second)
		says("it serves again", false)
		w.verifier.mute(true)
		w.mustRedeem(1, w.mustOffer(1))
		w.setMode(drained)
		time.Sleep(10 * time.Second)
		says("a redemption is not acknowledged", false)
		w.verifier.mute(false)
		time.Sleep(30 * time.Second)
		says("it is", true)

		brownout := &regionv1.SetFaultRequest{
			Kind: regionv1.FaultKind_FAULT_KIND_BROWNOUT, Duration: durationpb.New(time.Minute), AddedTime: durationpb.New(3 * time.Second),
		}
		if _, err := w.node.SetFault(t.Context(), brownout); err != nil {
			t.Fatal(err)
		}
		left := make(chan error, 1)
		go func() {
			_, err := w.viewerCall(t.Context(), offerv1.OfferService_GetPurchase_FullMethodName)
			left <- err
		}()
		synctest.Wait()
		says("a call is inside", false)
		if err := <-left; err != nil {
			t.Error(err)
		}
		says("the call has left", true)

		w.setMode(serving)
		w.stock.set(func() { w.stock.loseNext = true })
		time.Sleep(time.Millisecond) // it asks for units, and hears nothing
		w.setMode(drained)
		w.stock.set(func() {
			w.stock.onReturn = func(*fulfillmentv1.ReturnUnitsRequest) { says("units came after all", false) }
		})
		time.Sleep(10 * time.Second)
		says("they went back", true)
		w.stock.set(func() {
			if n := len(w.stock.returned); n < 5 {
				t.Errorf("%d units were returned", n)
			}
		})

		w.setMode(serving)
		w.setMode(drained)
		says("it was drained anew, and has not looked yet", false)
		time.Sleep(5 * time.Second)
		says("it looked", true)
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		w.start()
		time.Sleep(5 * time.Second)
		says("after a restart", true)
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestAProbeTellsOffersPerSecond(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		for i := range 100 {
			w.mustOffer(i)
			time.Sleep(100 * time.Millisecond)
		}
		p, err := w.node.Probe(t.Context(), &regionv1.ProbeRequest{})
		if err != nil || p.GetOffersPerSecond() < 8 || p.GetOffersPerSecond() > 10.5 {
			t.Errorf("got %v offers/s and %v after ten a second for ten seconds", p.GetOffersPerSecond(), err)
		}
		time.Sleep(time.Minute)
		if p, err = w.node.Probe(t.Context(), &regionv1.ProbeRequest{}); err != nil || p.GetOffersPerSecond() > 0.01 {
			t.Errorf("got %v offers/s and %v after a quiet minute", p.GetOffersPerSecond(), err)
		}
	})
}

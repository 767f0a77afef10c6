package region_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
)

// fulfillmentKey is fulfillment's, or somebody's who says so.
func fulfillmentKey(t *testing.T, w *world) *token.Signer {
	t.Helper()
	seed, err := token.NewSeed(w.random)
	if err != nil {
		t.Fatal(err)
	}
	s, err := token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_FULFILLMENT, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) rawDrop() []byte {
	w.t.Helper()
	raw, err := ids.Bytes(w.drop.Drop.DropId)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) window(extra time.Duration) timeback.Window {
	planned := w.drop.Drop.CloseTime.AsTime()
	return timeback.Window{Open: w.drop.Drop.OpenTime.AsTime(), Planned: planned, Close: planned.Add(extra)}
}

// signTimeBack is the word of whomever that the drop closes later.
func (w *world) signTimeBack(s *token.Signer, extra time.Duration) string {
	w.t.Helper()
	text, err := timeback.Sign(s, w.rawDrop(), w.window(extra))
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// send lets the catalogue say that the drop closes later, with a word for it.
//
//rimlight:bubble its callers are in one
func (w *world) send(word string, extra time.Duration) {
	later := proto.CloneOf(w.drop)
	later.Drop.PlannedCloseTime, later.Drop.CloseTime, later.Drop.TimeBack = later.Drop.CloseTime, timestamppb.New(w.window(extra).Close), word
	later.Drop.Revision = 2
	w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Revision: 2, Drops: []*fulfillmentv1.CatalogDrop{later}}
	time.Sleep(time.Second)
}

func (w *world) closeLater(s *token.Signer, extra time.Duration) timeback.Window {
	w.t.Helper()
	w.send(w.signTimeBack(s, extra), extra)
	return w.window(extra)
}

// shown is the drop's close as viewers see it, and whether it says that it was planned earlier.
func (w *world) shown() (closes time.Time, later bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	stream, ended := newWatcher[offerv1.WatchDropsResponse](ctx), make(chan error, 1)
	go func() { ended <- w.node.WatchDrops(&offerv1.WatchDropsRequest{}, stream) }()
	drops := (<-stream.seen).GetSnapshot().GetDrops()
	cancel()
	<-ended
	if len(drops) != 1 {
		w.t.Fatalf("%d drops are shown", len(drops))
	}
	return drops[0].GetCloseTime().AsTime(), drops[0].GetPlannedCloseTime() != nil && drops[0].GetTimeBack() != ""
}

func TestADropClosesLaterByFulfillmentsWord(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		own := fulfillmentKey(t, w)
		window := w.closeLater(own, 4*time.Second)
		if closes, later := w.shown(); !closes.Equal(window.Planned) || later {
			t.Errorf("before the key is known, viewers see that it closes %v after its plan", closes.Sub(window.Planned))
		}
		w.stock.set(func() { w.stock.keys = append(w.stock.keys, own.Public()) })
		time.Sleep(2 * time.Second)
		if closes, later := w.shown(); !closes.Equal(window.Close) || !later {
			t.Errorf("viewers see that it closes %v after its plan, want 4s", closes.Sub(window.Planned))
		}
		early := w.mustOffer(1)
		time.Sleep(time.Until(window.Planned))
		extra, last := w.mustOffer(2), w.mustOffer(3)
		for text, want := range map[string]bool{early: false, extra: true} {
			m := &offerv1.OfferToken{}
			if err := token.DecodeTrusted(text, m); err != nil || (m.GetTimeBack() != "") != want {
				t.Errorf("an offer carries the word for its time: %v, want %v (%v)", !want, want, err)
			}
		}
		w.mustRedeem(2, extra)
		time.Sleep(time.Until(window.Close) - 1)
		w.mustOffer(4)
		time.Sleep(time.Nanosecond)
		_, err := w.offer(5)
		wantReason(t, err, "DROP_NOT_OPEN")
		time.Sleep(time.Until(window.Planned.Add(time.Minute + 2*time.Second))) // as planned, it would be over
		w.mustRedeem(3, last)
	})
}

func TestALaterCloseThatFulfillmentDidNotSignIsNone(t *testing.T) {
	for rule, forge := range map[string]func(w *world, own, other *token.Signer){
		"a key that nobody knows": func(w *world, _, other *token.Signer) { w.closeLater(other, 4*time.Second) },
		"more than may be given":  func(w *world, own, _ *token.Signer) { w.closeLater(own, 23*time.Second) },
		"a word about another drop": func(w *world, own, _ *token.Signer) {
			id := w.drop.Drop.DropId
			w.drop.Drop.DropId = ids.NewV7(time.Now(), w.random)
			text := w.signTimeBack(own, 4*time.Second)
			w.drop.Drop.DropId = id
			w.send(text, 4*time.Second)
		},
		"a word about another plan": func(w *world, own, _ *token.Signer) {
			plan := w.drop.Drop.CloseTime
			w.drop.Drop.CloseTime = timestamppb.New(plan.AsTime().Add(time.Minute))
			text := w.signTimeBack(own, 4*time.Second)
			w.drop.Drop.CloseTime = plan
			w.send(text, 4*time.Second)
		},
	} {
		t.Run(rule, func(t *testing.T) {
			inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
				own, planned := fulfillmentKey(t, w), w.drop.Drop.CloseTime.AsTime()
				w.stock.set(func() { w.stock.keys = append(w.stock.keys, own.Public()) })
				time.Sleep(2 * time.Second)
				forge(w, own, fulfillmentKey(t, w))
				if closes, later := w.shown(); !closes.Equal(planned) || later {
					t.Errorf("viewers see that it closes %v after its plan", closes.Sub(planned))
				}
				w.mustOffer(1)
				time.Sleep(time.Until(planned))
				_, err := w.offer(2)
				wantReason(t, err, "DROP_NOT_OPEN")
			})
		})
	}
}

// The word travels with the offer: a node that has not heard of the later close takes it from there.
func TestAnOfferInExtraTimeIsGoodWhereNobodyHeardOfIt(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		own, other := fulfillmentKey(t, w), fulfillmentKey(t, w)
		planned := w.drop.Drop.CloseTime.AsTime()
		w.stock.set(func() { w.stock.keys = append(w.stock.keys, own.Public()) })
		elsewhere, err := token.NewSigner(make([]byte, 32), offerv1.KeyOwner_KEY_OWNER_NODE, ids.NewV7(time.Now(), w.random), "test-2")
		if err != nil {
			t.Fatal(err)
		}
		w.stock.set(func() { w.stock.keys = append(w.stock.keys, elsewhere.Public()) })
		time.Sleep(time.Until(planned.Add(3 * time.Second)))
		offer := func(i int, word string) string {
			text, err := elsewhere.OfferToken(&offerv1.OfferToken{
				TokenId: session(i)[:16], DropId: w.rawDrop(), Price: w.drop.Drop.Price, ViewerSessionId: session(i), TimeBack: word,
				IssueTimeUs: time.Now().UnixMicro(), ExpireTimeUs: time.Now().Add(time.Minute).UnixMicro(),
			})
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		good, forged, bare := offer(1, w.signTimeBack(own, 4*time.Second)), offer(2, w.signTimeBack(other, 4*time.Second)), offer(3, "")
		time.Sleep(time.Until(planned.Add(time.Minute + 4*time.Second))) // here it is over, and the stock is given back
		_, err = w.redeem(1, good)
		wantReason(t, err, "NO_UNIT_HERE") // not final: those who heard of it have some
		_, err = w.redeem(2, forged)
		wantReason(t, err, "KEY_UNKNOWN")
		_, err = w.redeem(3, bare)
		wantReason(t, err, "DROP_NOT_OPEN")
	})
}

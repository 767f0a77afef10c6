package region_test

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

// watcher is the server's end of a stream, with a reader of some pace.
type watcher[M any] struct {
	grpc.ServerStream
	ctx  context.Context
	seen chan *M
}

func newWatcher[M any](ctx context.Context) *watcher[M] {
	return &watcher[M]{ctx: ctx, seen: make(chan *M)}
}
func (w *watcher[M]) Context() context.Context { return w.ctx }
func (w *watcher[M]) Send(m *M) error {
	select {
	case w.seen <- m:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

func TestVerifierAwayForAMinute(t *testing.T) {
	inOpenDrop(t, 100, 100, func(t *testing.T, w *world) {
		healthy := w.redeemTime(1)
		time.Sleep(time.Second)
		w.verifier.cut()
		for i := range 30 {
			if got := w.redeemTime(10 + i); got != healthy {
				t.Fatalf("a redemption took %v with the verifier away, %v with it", got, healthy)
			}
			time.Sleep(2 * time.Second)
		}
		text := w.mustOffer(10) // the same question as before
		m, err := w.node.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: text}})
		if err != nil || m.GetPurchase().GetState() != offerv1.PurchaseState_PURCHASE_STATE_ACCEPTED {
			t.Errorf("with the verifier away a purchase of ours is %v, %v, want ACCEPTED", m, err)
		}
		_, err = w.node.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: w.mustOffer(99)}})
		wantReason(t, err, "UPSTREAM_UNREACHABLE")
		if p, _ := w.node.Probe(t.Context(), nil); p.GetJournalLag() != 30 {
			t.Errorf("got a lag of %d, want 30", p.GetJournalLag())
		}
		w.verifier.heal()
		time.Sleep(10 * time.Second)
		if receipts, repeated := w.verifier.count(); receipts != 31 || repeated != 0 {
			t.Errorf("the verifier got %d receipts, %d more than once; want 31, each once", receipts, repeated)
		}
		if p, _ := w.node.Probe(t.Context(), nil); p.GetJournalLag() != 0 {
			t.Errorf("got a lag of %d afterwards", p.GetJournalLag())
		}
	})
}

// redeemTime is how long session i's tap takes, offer and redemption.
func (w *world) redeemTime(i int) time.Duration {
	begin := time.Now()
	w.mustRedeem(i, w.mustOffer(i))
	return time.Since(begin)
}

func TestStopForwardsWhatItAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100, 100)
		w.start()
		time.Sleep(21 * time.Second)
		for i := range 20 {
			w.mustRedeem(i, w.mustOffer(i))
		}
		if err := w.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if receipts, _ := w.verifier.count(); receipts != 20 {
			t.Errorf("the verifier got %d receipts before the node ended, want 20", receipts)
		}
		_, err := w.offer(50)
		wantReason(t, err, "DRAINING")
	})
}

func TestPurchaseIsWatchedToItsEnd(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		w.verifier.cut()
		receipt := w.mustRedeem(1, w.mustOffer(1)).GetReceipt()
		stream := newWatcher[offerv1.WatchPurchaseResponse](t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- w.node.WatchPurchase(&offerv1.WatchPurchaseRequest{Credential: &offerv1.WatchPurchaseRequest_Receipt{Receipt: receipt}}, stream)
		}()
		if got := (<-stream.seen).GetPurchase().GetState(); got != offerv1.PurchaseState_PURCHASE_STATE_ACCEPTED {
			t.Errorf("first it is %v, want ACCEPTED", got)
		}
		w.verifier.heal()
		if got := (<-stream.seen).GetPurchase().GetState(); got != offerv1.PurchaseState_PURCHASE_STATE_DELIVERED {
			t.Errorf("then it is %v, want DELIVERED", got)
		}
		if err := <-ended; err != nil {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// WatchPurchase tells that a purchase was received, and then nothing until it hangs up.
func (f *fakeVerifier) WatchPurchase(ctx context.Context, _ *verifierv1.WatchPurchaseRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[verifierv1.WatchPurchaseResponse], error) {
	return &purchaseTold{ctx: ctx, hangUp: f.hangUp}, nil
}

type purchaseTold struct {
	grpc.ClientStream
	ctx    context.Context
	hangUp chan error
	told   bool
}

func (s *purchaseTold) Recv() (*verifierv1.WatchPurchaseResponse, error) {
	if !s.told {
		s.told = true
		return &verifierv1.WatchPurchaseResponse{Purchase: &offerv1.Purchase{State: offerv1.PurchaseState_PURCHASE_STATE_RECEIVED}}, nil
	}
	select {
	case err := <-s.hangUp:
		return nil, err
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func TestWatchedPurchaseDoesNotGoBackWhenItsTokenIsRedeemedHereToo(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		offer := w.mustOffer(1)
		ctx, cancel := context.WithCancel(t.Context())
		stream := newWatcher[offerv1.WatchPurchaseResponse](ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- w.node.WatchPurchase(&offerv1.WatchPurchaseRequest{Credential: &offerv1.WatchPurchaseRequest_OfferToken{OfferToken: offer}}, stream)
		}()
		if got := (<-stream.seen).GetPurchase().GetState(); got != offerv1.PurchaseState_PURCHASE_STATE_RECEIVED {
			t.Errorf("first it is %v, want RECEIVED", got)
		}
		w.verifier.cut()
		w.mustRedeem(1, offer)
		w.verifier.hangUp <- errors.New("the verifier restarts")
		time.Sleep(10 * time.Second)
		select {
		case m := <-stream.seen:
			t.Errorf("then it is %v, which was before", m.GetPurchase().GetState())
		default:
		}
		cancel()
		<-ended
		w.verifier.heal()
	})
}

func TestFailedPurchaseFreesTheViewersShare(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		w.verifier.final = offerv1.PurchaseState_PURCHASE_STATE_VOUCHER
		w.mustRedeem(1, w.mustOffer(1))
		time.Sleep(time.Second)
		m, err := w.node.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{Hints: w.hints("once more"), ViewerSessionId: session(1)})
		if err != nil || m.GetGranted() == nil {
			t.Errorf("after a failed purchase: got %v, %v, want another offer", m, err)
		}
	})
}

func TestLostGrantIsAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 5)
		w.stock.loseNext = true
		w.start()
		time.Sleep(25 * time.Second)
		for i := range 5 {
			w.mustRedeem(i, w.mustOffer(i))
		}
		if err := w.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestRecallIsDurableBeforeItIsSent(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		w.stock.set(func() {
			w.stock.down = true
			w.stock.onReturn = func(r *fulfillmentv1.ReturnUnitsRequest) {
				for _, record := range w.records() {
					if m := record.GetReturned(); m.GetLeaseId() == r.GetLeaseId() && len(m.GetSerials()) == len(r.GetSerials()) {
						return
					}
				}
				t.Error("a return was sent before it was durable")
			}
		})
		time.Sleep(10 * time.Second)
		w.stock.set(func() {
			w.stock.down = false
			w.stock.recalls = []*fulfillmentv1.Recall{{DropId: w.drop.Drop.DropId, Units: 30}}
		})
		for len(w.returned()) == 0 { // until the journal has it; the answer gets lost
			time.Sleep(100 * time.Millisecond)
			w.stock.set(func() { w.stock.down = len(w.stock.recalls) == 0 })
		}
		w.crash()
		w.stock.set(func() { w.stock.down = false; w.stock.onReturn = nil })
		w.start()
		time.Sleep(10 * time.Second)
		back := map[uint32]int{}
		w.stock.set(func() { maps.Copy(back, w.stock.returned) })
		if len(back) != 30 {
			t.Errorf("fulfillment got %d units back, want 30", len(back))
		}
		for i := range 20 {
			if serial := serialOf(t, w.mustRedeem(i, w.mustOffer(i)).GetReceipt()); back[serial] > 0 {
				t.Errorf("serial %d was sold after it went back", serial)
			}
		}
		if _, err := w.offer(21); err == nil { // the other 30 are on fulfillment's side, which says so
			t.Error("an offer after the last unit")
		}
	})
}

func (w *world) returned() (serials []uint32) {
	for _, r := range w.records() {
		serials = append(serials, r.GetReturned().GetSerials()...)
	}
	return serials
}

func TestClosedDropGivesItsStockBack(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		w.mustRedeem(1, w.mustOffer(1))
		time.Sleep(3 * time.Minute)
		w.stock.set(func() {
			if len(w.stock.returned) != 49 {
				t.Errorf("got %d units back after the drop, want 49", len(w.stock.returned))
			}
		})
	})
}

// A node that has heard nothing since a drop was planned sends its viewers elsewhere; one that has says that there is none.
func TestADropThatIsNewerThanTheNewsMayExist(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		known := w.drop.Drop.DropId
		w.drop.Drop.DropId = ids.NewV7(time.Now(), w.random)
		_, err := w.offer(1)
		wantReason(t, err, "DROP_NOT_HEARD_OF")
		if wait, again := rpcerr.Retry(err); status.Code(err) != codes.Unavailable || !again || wait == 0 {
			t.Errorf("got %v, want UNAVAILABLE and when to come back", err)
		}
		time.Sleep(30 * time.Second)
		_, err = w.offer(1)
		wantReason(t, err, "DROP_NOT_HEARD_OF") // still no news
		for range 2 {
			w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Revision: 1} // a proof of life
			time.Sleep(20 * time.Second)
		}
		_, err = w.offer(1)
		wantReason(t, err, "DROP_NOT_FOUND")
		w.drop.Drop.DropId = ids.NewV7(time.Now().Add(time.Minute), w.random)
		_, err = w.offer(1)
		wantReason(t, err, "DROP_NOT_FOUND") // nobody's clock is that far off
		w.drop.Drop.DropId = known
	})
}

func TestFrozenTermsStay(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		dear := proto.CloneOf(w.drop)
		dear.Drop.Price.MinorUnits, dear.Drop.Revision = 99999, 2
		w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Revision: 2, Drops: []*fulfillmentv1.CatalogDrop{dear}}
		time.Sleep(time.Second)
		o, err := w.offer(1)
		if err != nil || o.GetOffer().GetPrice().GetMinorUnits() != 1990 {
			t.Errorf("got %v, %v, want the price as it was when the drop was armed", o, err)
		}
		paused := proto.CloneOf(w.drop)
		paused.Drop.State, paused.Drop.Revision = offerv1.DropState_DROP_STATE_PAUSED, 3
		w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Revision: 3, Drops: []*fulfillmentv1.CatalogDrop{paused}}
		time.Sleep(time.Second)
		_, err = w.offer(2)
		wantReason(t, err, "DROP_NOT_OPEN")
		_, err = w.redeem(1, o.GetOfferToken())
		wantReason(t, err, "DROP_NOT_OPEN")
		if w.node.CatalogRevision() != 3 {
			t.Errorf("got revision %d, want 3", w.node.CatalogRevision())
		}
	})
}

func TestAnOpenDropIsClosedEarlyAndOffersStand(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		o, err := w.offer(1)
		if err != nil {
			t.Fatal(err)
		}
		closed := proto.CloneOf(w.drop)
		closed.Drop.CloseTime, closed.Drop.Revision = timestamppb.Now(), 2
		w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Revision: 2, Drops: []*fulfillmentv1.CatalogDrop{closed}}
		time.Sleep(time.Second)
		_, err = w.offer(2)
		wantReason(t, err, "DROP_NOT_OPEN")
		if _, err := w.redeem(1, o.GetOfferToken()); err != nil {
			t.Errorf("an offer from before: %v", err)
		}
	})
}

func TestBrokenJournalStopsTheNode(t *testing.T) {
	for name, write := range map[string]func(*world) error{
		"by a redemption": func(w *world) error {
			_, err := w.redeem(1, w.mustOffer(1))
			return err
		},
		"by any other record": func(w *world) error {
			_, err := w.node.SetMode(w.t.Context(), &regionv1.SetModeRequest{Mode: regionv1.RegionMode_REGION_MODE_CORDONED})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5, 5)
				w.start()
				time.Sleep(21 * time.Second)
				if err := w.end(); err != nil {
					t.Errorf("Run: %v", err)
				}
				var broken atomic.Bool
				w.options.Fault = func(s journal.Stage) error {
					if s == journal.BeforeCommit && broken.Load() {
						return errors.New("fsync: input/output error")
					}
					return nil
				}
				w.start()
				time.Sleep(time.Second) // it has journaled its start
				broken.Store(true)
				wantReason(t, write(w), "STORE_UNAVAILABLE")
				select {
				case err := <-w.ended:
					if !errors.Is(err, journal.ErrBroken) {
						t.Errorf("Run ended with %v, want ErrBroken", err)
					}
				case <-time.After(time.Second):
					t.Error("the node goes on")
				}
				w.abandon()
			})
		})
	}
}

func TestForeignDiskEndsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 5)
		w.stock.joinErr = rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_DISK_CHANGED, "the node joined from another disk")
		w.start()
		if err := <-w.ended; !errors.Is(err, region.ErrDiskChanged) {
			t.Errorf("Run ended with %v, want ErrDiskChanged", err)
		}
		w.abandon()
	})
}

// abandon cleans up after a node that ended by itself.
func (w *world) abandon() {
	w.memory.Crash()
	w.stop()
}

func TestOldCopyOfAJournalEndsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 5)
		w.verifier.acked = 1000
		w.start()
		if err := <-w.ended; !errors.Is(err, region.ErrJournalBehind) {
			t.Errorf("Run ended with %v, want ErrJournalBehind", err)
		}
		w.abandon()
	})
}

// An old copy grows while the verifier is away: then the record that the verifier acknowledged exists, but is another.
func TestOldCopyOfAJournalThatGrewEndsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 9)
		w.verifier.cut()
		w.verifier.acked = 1 // by the journal that this one is an old copy of
		w.start()
		time.Sleep(21 * time.Second) // the drop is open
		for i := range 5 {
			w.mustRedeem(i, w.mustOffer(i))
		}
		w.verifier.heal()
		select {
		case err := <-w.ended:
			if !errors.Is(err, region.ErrJournalBehind) {
				t.Errorf("Run ended with %v, want ErrJournalBehind", err)
			}
		case <-time.After(time.Minute):
			t.Error("the node goes on, and its redemptions are never forwarded")
		}
		w.abandon()
	})
}

func TestDropsAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.start()
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		stream := newWatcher[offerv1.WatchDropsResponse](ctx)
		ended := make(chan error, 1)
		watch := func(token string) {
			go func() { ended <- w.node.WatchDrops(&offerv1.WatchDropsRequest{ResumeToken: token}, stream) }()
		}
		watch("")
		m := <-stream.seen
		if got := m.GetSnapshot().GetDrops(); len(got) != 1 || got[0].GetState() != offerv1.DropState_DROP_STATE_PLANNED {
			t.Fatalf("first came %v, want a snapshot with one PLANNED drop", m)
		}
		for _, want := range []offerv1.DropState{offerv1.DropState_DROP_STATE_ARMED, offerv1.DropState_DROP_STATE_OPEN} {
			for m = <-stream.seen; m.GetChanged().GetState() != want; m = <-stream.seen { // signs of life in between
				if m.GetHeartbeat() == nil && m.GetChanged().GetAvailability() == 0 {
					t.Fatalf("got %v on the way to %v", m, want)
				}
			}
		}
		if at := m.GetServerTime().AsTime(); !at.Equal(w.drop.Drop.OpenTime.AsTime()) {
			t.Errorf("it opened at %v, want %v", at, w.drop.Drop.OpenTime.AsTime())
		}
		open := m.GetResumeToken()
		w.mustRedeem(1, w.mustOffer(1))
		for m = <-stream.seen; m.GetChanged().GetAvailability() != offerv1.Availability_AVAILABILITY_SOLD_OUT; m = <-stream.seen {
		}
		cancel()
		<-ended

		stream = newWatcher[offerv1.WatchDropsResponse](t.Context())
		watch(open)
		if m := <-stream.seen; m.GetChanged().GetAvailability() != offerv1.Availability_AVAILABILITY_SOLD_OUT {
			t.Errorf("resumed at the opening: got %v, want the change to SOLD_OUT", m)
		}
		begin := time.Now()
		if m := <-stream.seen; m.GetHeartbeat() == nil || time.Since(begin) > 15*time.Second {
			t.Errorf("got %v after %v of silence, want a heartbeat within 15 s", m, time.Since(begin))
		}
		other := newWatcher[offerv1.WatchDropsResponse](t.Context())
		go func() {
			ended <- w.node.WatchDrops(&offerv1.WatchDropsRequest{ResumeToken: "of another life.7"}, other)
		}()
		if m := <-other.seen; m.GetSnapshot() == nil {
			t.Errorf("an unknown token got %v, want a snapshot", m)
		}
		if err := w.end(); err != nil { // ends the streams too
			t.Errorf("Run: %v", err)
		}
		wantReason(t, <-ended, "DRAINING")
		wantReason(t, <-ended, "DRAINING")
	})
}

func TestProbeAndKeys(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		p, err := w.node.Probe(t.Context(), &regionv1.ProbeRequest{})
		if err != nil || p.GetRegion() != "test-1" || len(p.GetStock()) != 1 || p.GetStock()[0].GetUntouched() != 50 || p.GetLoad().GetParallelism() == 0 {
			t.Errorf("got %v, %v", p, err)
		}
		var keys int
		token := ""
		for {
			m, err := w.node.ListKeys(t.Context(), &offerv1.ListKeysRequest{PageSize: 1, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			keys += len(m.GetKeys())
			if token = m.GetNextPageToken(); token == "" {
				break
			}
		}
		if keys != 2 { // its own and the verifier's
			t.Errorf("got %d keys, want 2", keys)
		}
		_, err = w.node.ListKeys(t.Context(), &offerv1.ListKeysRequest{PageToken: "?"})
		wantReason(t, err, "INVALID_REQUEST")
	})
}

func TestSilentVerifierIsAskedAgain(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		w.verifier.mute(true)
		w.mustRedeem(1, w.mustOffer(1))
		time.Sleep(time.Second)
		w.verifier.mute(false) // its acknowledgement was lost on the way, and the stream says nothing
		time.Sleep(15 * time.Second)
		if p, _ := w.node.Probe(t.Context(), nil); p.GetJournalLag() != 0 {
			t.Errorf("got a lag of %d after the acknowledgement was lost", p.GetJournalLag())
		}
	})
}

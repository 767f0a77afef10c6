package region_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

// randomness is the same in every run.
type randomness struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func newRandomness(seed byte) *randomness { return &randomness{r: rand.NewChaCha8([32]byte{seed})} }

func (r *randomness) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Read(b)
}

// world is one node between fakes, inside a bubble.
type world struct {
	drills bool
	retire bool
	// snapshotRecords is the node's, and wrap what its journal is seen through.
	snapshotRecords int
	wrap            func(*journal.Memory) journal.Journal
	t               *testing.T
	random          *randomness
	disk            *journal.Disk
	memory          *journal.Memory
	options         journal.MemoryOptions
	identity        journal.Identity
	stock           *fakeStock
	catalog         *fakeCatalog
	verifier        *fakeVerifier
	drop            *fulfillmentv1.CatalogDrop
	node            *region.Node
	stop            context.CancelFunc
	ended           chan error
}

// newWorld has a drop of some units that opens in 20 s for 90 s, and lends at most that many in one lease.
func newWorld(t *testing.T, units uint32, most int) *world {
	random := newRandomness(1)
	identity, err := journal.NewIdentity(time.Now(), random)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, random: random, identity: identity, disk: &journal.Disk{}, options: journal.MemoryOptions{SyncTime: time.Millisecond},
		stock: newFakeStock(random, most), verifier: newFakeVerifier(random),
		catalog: &fakeCatalog{messages: make(chan *fulfillmentv1.WatchCatalogResponse, 10)},
	}
	w.drop = dropOf(ids.NewV7(time.Now(), random), units, time.Now().Add(20*time.Second))
	w.stock.stockUp(w.drop.Drop.DropId, units)
	w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Snapshot: true, Revision: 1, Drops: []*fulfillmentv1.CatalogDrop{w.drop}}
	return w
}

func dropOf(id string, units uint32, open time.Time) *fulfillmentv1.CatalogDrop {
	return &fulfillmentv1.CatalogDrop{
		Drop: &offerv1.Drop{
			DropId: id, ChannelId: "demo", Title: "A print", State: offerv1.DropState_DROP_STATE_PLANNED, Revision: 1,
			Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1990}, OpenTime: timestamppb.New(open),
			CloseTime: timestamppb.New(open.Add(90 * time.Second)),
		},
		Units: units, GoodsKind: fulfillmentv1.GoodsKind_GOODS_KIND_DIGITAL, MaxPerViewer: 1, ArmSalt: make([]byte, 16),
		Arms: []*fulfillmentv1.OfferArm{{Name: "control", Weight: 1, TokenTtl: durationpb.New(time.Minute)}},
	}
}

// start begins a process life of the node over the world's disk.
func (w *world) start() {
	w.t.Helper()
	node, err := w.make()
	if err != nil {
		w.t.Fatalf("New: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.node, w.stop, w.ended = node, stop, make(chan error, 1)
	go func() { w.ended <- node.Run(ctx) }()
}

// make makes the node.
func (w *world) make() (*region.Node, error) {
	w.memory = w.disk.OpenMemory(w.options)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var j journal.Journal = w.memory
	if w.wrap != nil {
		j = w.wrap(w.memory)
	}
	return region.New(region.Config{
		Region: "test-1", Zones: []string{"eu"}, Drills: w.drills, Retire: w.retire, SnapshotRecords: w.snapshotRecords,
	}, region.Deps{
		Journal: j, Identity: w.identity, Stock: w.stock, Catalog: w.catalog, Verifier: w.verifier, Random: w.random, Log: log,
	})
}

// end is an orderly stop.
func (w *world) end() error {
	w.stop()
	err := <-w.ended
	if cerr := w.memory.Close(); cerr != nil {
		w.t.Errorf("closing the journal: %v", cerr)
	}
	return err
}

// crash is a power cut.
func (w *world) crash() {
	w.memory.Crash()
	w.stop()
	<-w.ended
}

// inOpenDrop runs a test in a bubble, with a node whose drop has just opened.
func inOpenDrop(t *testing.T, units uint32, most int, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, units, most)
		w.start()
		time.Sleep(21 * time.Second)
		defer func() {
			if err := w.end(); err != nil {
				t.Errorf("Run ended with %v", err)
			}
		}()
		test(t, w)
	})
}

func session(i int) []byte { return fmt.Appendf(nil, "session-%08d", i) }

func (w *world) hints(request string) *offerv1.RoutingHints {
	return &offerv1.RoutingHints{DropId: w.drop.Drop.DropId, RequestId: request}
}

// offer asks for session i's offer.
func (w *world) offer(i int) (*offerv1.OfferGranted, error) {
	m, err := w.node.RequestOffer(w.t.Context(), &offerv1.RequestOfferRequest{
		Hints: w.hints(fmt.Sprint("request-", i)), ViewerSessionId: session(i)})
	if err != nil {
		return nil, err
	}
	if m.GetRefused() != nil {
		return nil, fmt.Errorf("refused: %v", m.GetRefused().GetReason())
	}
	return m.GetGranted(), nil
}

func (w *world) mustOffer(i int) string {
	w.t.Helper()
	o, err := w.offer(i)
	if err != nil {
		w.t.Fatalf("RequestOffer of session %d: %v", i, err)
	}
	return o.GetOfferToken()
}

func (w *world) redeemRequest(i int, token string) *offerv1.RedeemOfferRequest {
	return &offerv1.RedeemOfferRequest{Hints: w.hints(""), OfferToken: token, ViewerSessionId: session(i), PaymentReference: "tp_ok"}
}

func (w *world) redeem(i int, token string) (*offerv1.RedeemOfferResponse, error) {
	return w.node.RedeemOffer(w.t.Context(), w.redeemRequest(i, token))
}

func (w *world) mustRedeem(i int, token string) *offerv1.RedeemOfferResponse {
	w.t.Helper()
	m, err := w.redeem(i, token)
	if err != nil {
		w.t.Fatalf("RedeemOffer of session %d: %v", i, err)
	}
	return m
}

// decodeReceipt reads a receipt without verifying it.
func decodeReceipt(text string) (*offerv1.Receipt, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < 72 {
		return nil, fmt.Errorf("not a receipt: %w", err)
	}
	m := &offerv1.Receipt{}
	return m, proto.Unmarshal(raw[72:], m)
}

func serialOf(t *testing.T, receipt string) uint32 {
	t.Helper()
	r, err := decodeReceipt(receipt)
	if err != nil {
		t.Fatal(err)
	}
	return r.GetSerial()
}

// records reads the disk.
func (w *world) records() []*regionv1.JournalRecord {
	w.t.Helper()
	var out []*regionv1.JournalRecord
	if err := journal.Replay(context.Background(), w.memory, 0, func(r journal.Record) error {
		m := &regionv1.JournalRecord{}
		out = append(out, m)
		return proto.Unmarshal(r.Payload, m)
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func wantReason(t *testing.T, err error, want string) {
	t.Helper()
	if got := rpcerr.Reason(err).String(); err == nil || got != "REASON_"+want {
		t.Errorf("got reason %s (%v), want %s", got, err, want)
	}
}

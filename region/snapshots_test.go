package region_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/region/shorthand"
)

// history makes journals that a node could have written.
type history struct {
	signer    *token.Signer
	random    *rand.Rand
	now       time.Time
	drops     []string
	revision  int64
	epoch     int64
	life      int64
	cursor    int64
	free      []*regionv1.Returned // what may be sold or given back, by lease
	dropOf    map[string]string
	purchases []*offerv1.Purchase
	records   []*regionv1.JournalRecord
}

func newHistory(t *rapid.T, identity journal.Identity) *history {
	signer, err := token.NewSigner(identity.Seed, offerv1.KeyOwner_KEY_OWNER_NODE, identity.NodeID, "test-1")
	if err != nil {
		t.Fatal(err)
	}
	seed := rapid.Uint64().Draw(t, "seed")
	h := &history{signer: signer, random: rand.New(rand.NewPCG(seed, seed)), now: time.Now(), epoch: 1, dropOf: map[string]string{}}
	h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Joined{Joined: &regionv1.Joined{Epoch: 1}}})
	return h
}

func (h *history) add(r *regionv1.JournalRecord) { h.records = append(h.records, r) }

func (h *history) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.random.Uint32())
	}
	return b
}

func (h *history) uuid() string { return ids.Text(h.bytes(16)) }

func (h *history) drop(settled bool) {
	d := dropOf(h.uuid(), 100, h.now.Add(-time.Minute))
	if len(h.drops) > 2 || settled && len(h.drops) > 0 {
		d.Drop.DropId = h.drops[h.random.IntN(len(h.drops))]
	} else {
		h.drops = append(h.drops, d.Drop.DropId)
	}
	h.revision++
	d.Drop.Revision = h.revision
	if settled {
		d.Drop.State = offerv1.DropState_DROP_STATE_SETTLED
	}
	h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Drop{Drop: d}})
}

func (h *history) lease() {
	if len(h.drops) == 0 {
		return
	}
	l := &fulfillmentv1.Lease{LeaseId: h.uuid(), DropId: h.drops[h.random.IntN(len(h.drops))], Epoch: h.epoch}
	first := uint32(len(h.records)) * 1000
	for i := range 1 + h.random.IntN(20) {
		l.Serials = append(l.Serials, first+uint32(i*(1+h.random.IntN(2)*i)))
	}
	l.Serials = compact(l.Serials)
	h.dropOf[l.LeaseId] = l.DropId
	h.free = append(h.free, &regionv1.Returned{LeaseId: l.LeaseId, Serials: l.Serials})
	h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Leased{Leased: l}})
}

func compact(serials []uint32) (out []uint32) {
	for _, s := range serials {
		if len(out) == 0 || s > out[len(out)-1] {
			out = append(out, s)
		}
	}
	return out
}

// unit takes one from what is free.
func (h *history) unit() (leaseID string, serial uint32, ok bool) {
	if len(h.free) == 0 {
		return "", 0, false
	}
	i := h.random.IntN(len(h.free))
	l := h.free[i]
	serial, rest := l.Serials[0], l.Serials[1:]
	if h.free[i] = (&regionv1.Returned{LeaseId: l.LeaseId, Serials: rest}); len(rest) == 0 {
		h.free = append(h.free[:i], h.free[i+1:]...)
	}
	return l.LeaseId, serial, true
}

func (h *history) give() {
	if leaseID, serial, ok := h.unit(); ok {
		h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Returned{Returned: &regionv1.Returned{LeaseId: leaseID, Serials: []uint32{serial}}}})
	}
}

func (h *history) sell(t *rapid.T) {
	leaseID, serial, ok := h.unit()
	if !ok {
		return
	}
	drop, err := ids.Bytes(h.dropOf[leaseID])
	if err != nil {
		t.Fatal(err)
	}
	k := h.bytes(16)
	offer, err := h.signer.OfferToken(&offerv1.OfferToken{
		TokenId: k, DropId: drop, ViewerSessionId: session(h.random.IntN(5)), Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(time.Millisecond)
	text, err := h.signer.Receipt(&offerv1.Receipt{
		OfferToken: offer, PurchaseId: token.PurchaseID(k), Serial: serial, LeaseId: leaseID, Epoch: h.epoch,
		AcceptTime: timestamppb.New(h.now), PaymentReference: "tp_ok",
	})
	if err != nil {
		t.Fatal(err)
	}
	h.purchases = append(h.purchases, &offerv1.Purchase{PurchaseId: token.PurchaseID(k), DropId: h.dropOf[leaseID]})
	h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Redeemed{Redeemed: text}})
}

func (h *history) outcome() {
	if len(h.purchases) == 0 {
		return
	}
	p := proto.CloneOf(h.purchases[h.random.IntN(len(h.purchases))])
	p.State = offerv1.PurchaseState(1 + h.random.IntN(8))
	p.StateTime = timestamppb.New(h.now)
	h.cursor++
	h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Outcome{Outcome: &regionv1.OutcomeSeen{Cursor: h.cursor, Purchase: p}}})
}

func (h *history) rest() {
	switch h.random.IntN(4) {
	case 0:
		h.life++
		h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Started{Started: &regionv1.Started{Life: h.life}}})
	case 1:
		h.epoch++
		h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Joined{Joined: &regionv1.Joined{Epoch: h.epoch}}})
	case 2:
		h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_ModeChanged{ModeChanged: &regionv1.ModeChanged{
			Mode: regionv1.RegionMode(1 + h.random.IntN(3)), ChangeTime: timestamppb.New(h.now),
		}}})
	case 3:
		h.add(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Outcome{Outcome: &regionv1.OutcomeSeen{
			Cursor: h.cursor, Purchase: &offerv1.Purchase{PurchaseId: "of another node"},
		}}})
	}
}

// write plays some steps.
func (h *history) write(t *rapid.T, steps int) {
	for range steps {
		switch roll := h.random.IntN(100); {
		case roll < 45:
			h.sell(t)
		case roll < 75:
			h.outcome()
		case roll < 80:
			h.give()
		case roll < 88:
			h.lease()
		case roll < 93:
			h.drop(false)
		case roll < 94:
			h.drop(true)
		default:
			h.rest()
		}
	}
}

// withoutSnapshots is a journal that a node replays whole.
type withoutSnapshots struct{ *journal.Memory }

func (withoutSnapshots) ReadSnapshots(context.Context, func(journal.Snapshot) error) error {
	return nil
}

func stateOf(t *rapid.T, identity journal.Identity, j journal.Journal) string {
	n, err := region.New(region.Config{Region: "test-1", Retire: true}, region.Deps{
		Journal: j, Identity: identity, Stock: newFakeStock(newRandomness(1), 1), Verifier: newFakeVerifier(newRandomness(1)),
		Catalog: &fakeCatalog{messages: make(chan *fulfillmentv1.WatchCatalogResponse)}, Random: newRandomness(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	state, err := n.State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func TestANodeFromSnapshotsIsTheNodeFromRecords(t *testing.T) {
	identity, err := journal.NewIdentity(time.Now(), newRandomness(3))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t, identity)
		h.write(t, rapid.IntRange(1, 200).Draw(t, "steps"))
		j := (&journal.Disk{}).OpenMemory(journal.MemoryOptions{})
		defer func() {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		var w shorthand.Writer
		saved, cut := int64(0), rapid.IntRange(0, 100).Draw(t, "percent of records that end a snapshot")
		for i, r := range h.records {
			raw, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := journal.Append(context.Background(), j, raw); err != nil {
				t.Fatal(err)
			}
			if err := w.Add(raw); err != nil {
				t.Fatal(err)
			}
			if h.random.IntN(100) < cut {
				s := journal.Snapshot{After: saved, Through: int64(i + 1), Payload: w.Text()}
				if err := j.SaveSnapshot(context.Background(), s); err != nil {
					t.Fatal(err)
				}
				w, saved = shorthand.Writer{}, s.Through
			}
		}
		want, got := stateOf(t, identity, withoutSnapshots{j}), stateOf(t, identity, j)
		if got != want {
			t.Fatalf("from snapshots up to record %d of %d:\n%s\nfrom records alone:\n%s", saved, len(h.records), got, want)
		}
	})
}

// sellMany sells units to as many sessions, and gives the tokens and the receipts.
func (w *world) sellMany(n int) (tokens []string, receipts []*offerv1.RedeemOfferResponse) {
	w.t.Helper()
	for i := range n {
		tokens = append(tokens, w.mustOffer(i))
		receipts = append(receipts, w.mustRedeem(i, tokens[i]))
	}
	return tokens, receipts
}

func TestAfterARestartFromSnapshotsARepeatHearsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 60, 60)
		w.snapshotRecords = 8
		w.start()
		time.Sleep(21 * time.Second)
		tokens, receipts := w.sellMany(50)
		w.crash()
		for _, how := range []string{"a crash", "an orderly stop"} {
			w.start()
			time.Sleep(time.Second)
			if whole, short := w.node.InMemory(); short < 40 || whole > 10 {
				t.Errorf("after %s %d sales are in memory whole and %d in short", how, whole, short)
			}
			for i := range tokens {
				if again := w.mustRedeem(i, tokens[i]); !proto.Equal(again, receipts[i]) {
					t.Errorf("after %s: got %v, want %v", how, again, receipts[i])
				}
				other := w.redeemRequest(i, tokens[i])
				other.PaymentReference = "tp_other"
				_, err := w.node.RedeemOffer(t.Context(), other)
				wantReason(t, err, "REQUEST_REPLAYED")
			}
			token := w.mustOffer(1000 + len(how))
			fresh := w.mustRedeem(1000+len(how), token)
			for i := range receipts {
				if serialOf(t, fresh.GetReceipt()) == serialOf(t, receipts[i].GetReceipt()) {
					t.Fatalf("after %s a serial was sold again", how)
				}
			}
			if err := w.end(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestADamagedSnapshotIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 30, 30)
		w.snapshotRecords = 8
		w.start()
		time.Sleep(21 * time.Second)
		tokens, receipts := w.sellMany(20)
		if err := w.end(); err != nil {
			t.Error(err)
		}
		if !w.disk.SpoilSnapshot() {
			t.Fatal("there is no snapshot")
		}
		w.start()
		time.Sleep(time.Second)
		for i := range tokens {
			if again := w.mustRedeem(i, tokens[i]); !proto.Equal(again, receipts[i]) {
				t.Errorf("got %v, want %v", again, receipts[i])
			}
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
		w.start() // its snapshots were written anew
		time.Sleep(time.Second)
		if _, short := w.node.InMemory(); short != 20 {
			t.Errorf("%d sales come from snapshots, want all 20", short)
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

// corrupt is a journal one of whose records is not as it was written.
type corrupt struct {
	*journal.Memory
	sequence int64
}

func (c corrupt) ReadAfter(ctx context.Context, sequence int64, limit int) ([]journal.Record, error) {
	if sequence < c.sequence && c.sequence <= sequence+int64(limit) {
		return nil, &journal.CorruptError{Sequence: c.sequence, Problem: "a bit flipped"}
	}
	return c.Memory.ReadAfter(ctx, sequence, limit)
}

func TestACorruptRecordBehindASnapshotStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 30, 30)
		w.start()
		time.Sleep(21 * time.Second)
		w.sellMany(20)
		if err := w.end(); err != nil {
			t.Error(err)
		}
		w.wrap = func(m *journal.Memory) journal.Journal { return corrupt{m, 5} }
		w.start()
		err := <-w.ended
		w.stop()
		var at *journal.CorruptError
		if !errors.As(err, &at) || at.Sequence != 5 || !strings.Contains(fmt.Sprint(err), "record 5") {
			t.Errorf("got %v, want record 5 to be corrupt", err)
		}
		if cerr := w.memory.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
}

// What is over is kept in short while the node runs, too: a receipt is 600 bytes in memory.
func TestSalesThatAreOverAreKeptInShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40, 40)
		w.snapshotRecords = 8
		w.start()
		time.Sleep(21 * time.Second)
		tokens, receipts := w.sellMany(20)
		time.Sleep(time.Second) // the verifier has delivered all of them
		if whole, short := w.node.InMemory(); whole > 8 || short < 12 {
			t.Errorf("%d sales are in memory whole and %d in short", whole, short)
		}
		for i := range tokens {
			if again := w.mustRedeem(i, tokens[i]); !proto.Equal(again, receipts[i]) {
				t.Errorf("got %v, want %v", again, receipts[i])
			}
			got, err := w.node.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: receipts[i].GetReceipt()}})
			if err != nil || got.GetPurchase().GetState() != offerv1.PurchaseState_PURCHASE_STATE_DELIVERED {
				t.Errorf("got %v, %v, want it delivered", got.GetPurchase(), err)
			}
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

// slowSnapshots is a journal whose snapshots take a while each.
type slowSnapshots struct {
	*journal.Memory
	each time.Duration
}

// SaveSnapshot takes its time.
//
//rimlight:bubble called in the bubble of TestAStopWritesSnapshotsForADrainTimeoutAtMost
func (s slowSnapshots) SaveSnapshot(ctx context.Context, snapshot journal.Snapshot) error {
	time.Sleep(s.each)
	return s.Memory.SaveSnapshot(ctx, snapshot)
}

// A node that is told to stop is killed when it takes too long, and then not even what it wrote would be sure to help.
func TestAStopWritesSnapshotsForADrainTimeoutAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 60, 60)
		w.start()
		time.Sleep(21 * time.Second)
		tokens, receipts := w.sellMany(50)
		time.Sleep(time.Second)
		w.crash() // a journal without snapshots
		w.snapshotRecords = 8
		w.wrap = func(m *journal.Memory) journal.Journal { return slowSnapshots{m, 2 * time.Second} }
		short, stops := 0, 0
		for ; short < len(tokens) && stops < 20; stops++ {
			w.start()
			for i := range tokens {
				if again := w.mustRedeem(i, tokens[i]); !proto.Equal(again, receipts[i]) {
					t.Errorf("start %d: got %v, want %v", stops, again, receipts[i])
				}
			}
			before := short
			if _, short = w.node.InMemory(); stops > 0 && short <= before {
				t.Fatalf("after %d stops %d sales are in short, %d were before the last one", stops, short, before)
			}
			begin := time.Now()
			if err := w.end(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("stop %d took %v, want 5 s, and 2 s each for the snapshot that was being written and the last one", stops, took)
			}
		}
		if short < len(tokens) || stops < 3 {
			t.Errorf("after %d stops %d of %d sales are in short", stops, short, len(tokens))
		}
	})
}

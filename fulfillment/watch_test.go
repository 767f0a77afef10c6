package fulfillment_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// A catalogue larger than one message comes in pieces: the first replaces what was known, the others add to it.
func TestWatchCatalogSendsALargeSnapshotInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, openMemory(t), fulfillment.Config{}, nil)
		const drops = 1100
		var settled string
		for i := range drops {
			if d := l.createDrop(1); i == 0 {
				settled = d.GetDrop().GetDropId()
				time.Sleep(time.Hour)
				if _, err := l.catalog.SettleDrop(t.Context(), &fulfillmentv1.SettleDropRequest{DropId: settled}); err != nil {
					t.Fatal(err)
				}
			}
		}
		stream, err := l.catalog.WatchCatalog(t.Context(), &fulfillmentv1.WatchCatalogRequest{})
		if err != nil {
			t.Fatal(err)
		}
		seen, messages := 0, 0
		for seen < drops-1 {
			res, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if res.GetSnapshot() != (messages == 0) {
				t.Errorf("message %d: snapshot %v", messages, res.GetSnapshot())
			}
			for _, d := range res.GetDrops() {
				if d.GetDrop().GetDropId() == settled {
					t.Error("the snapshot holds a settled drop")
				}
			}
			if size := proto.Size(res); size > 1<<20 {
				t.Errorf("a message of %d bytes", size)
			}
			seen += len(res.GetDrops())
			messages++
		}
		if seen != drops-1 || messages != 3 {
			t.Errorf("%d drops in %d messages", seen, messages)
		}
	})
}

func TestWatchCatalogTellsThatADropIsSettled(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		stream, err := l.catalog.WatchCatalog(t.Context(), &fulfillmentv1.WatchCatalogRequest{AfterRevision: 1000}) // from a store that is gone
		if err != nil {
			t.Fatal(err)
		}
		if res, err := stream.Recv(); err != nil || !res.GetSnapshot() || len(res.GetDrops()) != 0 || res.GetRevision() != 0 {
			t.Fatalf("got %v, %v, want an empty snapshot", res, err)
		}
		drop := l.createDrop(1).GetDrop().GetDropId()
		if res, err := stream.Recv(); err != nil || len(res.GetDrops()) != 1 || res.GetRevision() != 1 || res.GetSnapshot() {
			t.Fatalf("got %v, %v", res, err)
		}
		time.Sleep(10 * time.Minute)
		if _, err := l.catalog.SettleDrop(t.Context(), &fulfillmentv1.SettleDropRequest{DropId: drop}); err != nil {
			t.Fatal(err)
		}
		for {
			res, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if len(res.GetDrops()) == 0 {
				continue // proof of life
			}
			if d := res.GetDrops()[0].GetDrop(); d.GetState() != offerv1.DropState_DROP_STATE_SETTLED || res.GetRevision() != 2 {
				t.Errorf("got %v", res)
			}
			return
		}
	})
}

// Watchers that lose their streams again and again, while others write, see every revision and every event once and in
// order.
func TestWatchesResumeWithoutGapOrDuplicate(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		n := l.join()
		const drops = 30
		const events = drops * 4 // READY, LEASED, ACKED, DELIVERED
		var wg sync.WaitGroup
		for w := range 3 {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			wg.Go(func() {
				seen := followCatalog(t, l, rnd, drops)
				if len(seen) != drops {
					t.Errorf("watcher %d saw %d drops, want %d", w, len(seen), drops)
				}
			})
			wg.Go(func() {
				seen := followOrders(t, l, rand.New(rand.NewPCG(2, uint64(w))), events)
				if len(seen) != events {
					t.Errorf("watcher %d saw %d different events, want %d", w, len(seen), events)
				}
			})
		}
		for range drops {
			l.place(l.sellOne(n, l.createDrop(1).GetDrop().GetDropId()))
			time.Sleep(10 * time.Millisecond)
		}
		wg.Wait()
	})
}

func followCatalog(t *testing.T, l *life, rnd *rand.Rand, last int64) map[string]bool {
	seen := map[string]bool{}
	var revision int64
	for revision < last {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := l.catalog.WatchCatalog(ctx, &fulfillmentv1.WatchCatalogRequest{AfterRevision: revision})
		if err != nil {
			t.Error(err)
			cancel()
			return seen
		}
		for range 1 + rnd.IntN(4) {
			res, err := stream.Recv()
			if err != nil {
				t.Error(err)
				cancel()
				return seen
			}
			for _, d := range res.GetDrops() {
				if d.GetDrop().GetRevision() <= revision {
					t.Errorf("revision %d after %d", d.GetDrop().GetRevision(), revision)
				}
				revision = d.GetDrop().GetRevision()
				seen[d.GetDrop().GetDropId()] = true
			}
			if revision = max(revision, res.GetRevision()); revision >= last {
				break
			}
		}
		cancel()
	}
	return seen
}

func followOrders(t *testing.T, l *life, rnd *rand.Rand, last int64) map[string]bool {
	seen := map[string]bool{}
	var cursor int64
	for cursor < last {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := l.orders.WatchOrders(ctx, &fulfillmentv1.WatchOrdersRequest{AfterCursor: cursor})
		if err != nil {
			t.Error(err)
			cancel()
			return seen
		}
		for range 1 + rnd.IntN(4) {
			res, err := stream.Recv()
			if err != nil {
				t.Error(err)
				cancel()
				return seen
			}
			for _, o := range res.GetOrders() {
				event := fmt.Sprint(o.GetOrderId(), o.GetState())
				if seen[event] {
					t.Errorf("%s came twice", event)
				}
				seen[event] = true
			}
			if res.GetCursor() != cursor+int64(len(res.GetOrders())) {
				t.Errorf("cursor %d after %d with %d events", res.GetCursor(), cursor, len(res.GetOrders()))
			}
			if cursor = res.GetCursor(); cursor >= last {
				break
			}
		}
		cancel()
	}
	return seen
}

// A verifier that was told more than the store holds gets everything again, and the log says that the store is old.
func TestWatchOrdersFromAFutureThatIsGone(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		said := make(chan string, 100)
		l := startLogging(t, db, fulfillment.Config{}, nil, slog.New(slog.NewTextHandler(lines(said), nil)))
		stream, err := l.orders.WatchOrders(t.Context(), &fulfillmentv1.WatchOrdersRequest{AfterCursor: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := stream.Recv(); err != nil || res.GetCursor() != 0 {
			t.Fatalf("got %v, %v, want the beginning", res, err)
		}
		for timeout := time.After(time.Minute); ; {
			select {
			case line := <-said:
				if strings.Contains(line, "older than what the verifier was told") {
					return
				}
			case <-timeout:
				t.Fatal("the log says nothing of it")
			}
		}
	})
}

// lines is a log whose lines can be waited for.
type lines chan<- string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

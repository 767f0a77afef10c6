package region_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

var writers = []int{1, 16, 256}

// spread runs fn b.N times over some goroutines and reports the rate.
func spread(b *testing.B, writers int, fn func(i int)) {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range writers {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				fn(int(i))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
}

func openBench(b *testing.B) (*journal.SQLite, journal.Identity) {
	b.Helper()
	j, identity, err := journal.Open(b.Context(), b.TempDir(), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := j.Close(); err != nil {
			b.Error(err)
		}
	})
	return j, identity
}

// BenchmarkJournal is the bare journal with records of a receipt's size: what Redeem can at most reach.
func BenchmarkJournal(b *testing.B) {
	for _, w := range writers {
		b.Run(fmt.Sprintf("writers=%d", w), func(b *testing.B) {
			j, _ := openBench(b)
			record := bytes.Repeat([]byte("r"), 900)
			spread(b, w, func(int) {
				if _, err := journal.Append(b.Context(), j, record); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// tokens asks for b.N offers, outside the measured time.
func tokens(b *testing.B, node *region.Node, dropID string, n int) []*offerv1.RedeemOfferRequest {
	b.Helper()
	out := make([]*offerv1.RedeemOfferRequest, n)
	for i := range out {
		hints := &offerv1.RoutingHints{DropId: dropID, RequestId: "r"}
		m, err := node.RequestOffer(b.Context(), &offerv1.RequestOfferRequest{Hints: hints, ViewerSessionId: session(i)})
		if err != nil {
			b.Fatal(err)
		}
		out[i] = &offerv1.RedeemOfferRequest{
			Hints: hints, OfferToken: m.GetGranted().GetOfferToken(), ViewerSessionId: session(i), PaymentReference: "tp_ok",
		}
	}
	return out
}

// BenchmarkRedeem is a whole durable redemption: verify, take, sign, journal.
func BenchmarkRedeem(b *testing.B) {
	for _, w := range writers {
		b.Run(fmt.Sprintf("writers=%d", w), func(b *testing.B) {
			j, identity := openBench(b)
			node, drop := newStanding(b, j, identity, b.N)
			requests := tokens(b, node, drop.Drop.DropId, b.N)
			spread(b, w, func(i int) {
				if _, err := node.RedeemOffer(b.Context(), requests[i-1]); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkRedeemAtRate sends 1,000 redemptions a second whether or not earlier ones came back, and reports latency from
// the intended start.
func BenchmarkRedeemAtRate(b *testing.B) {
	const rate = 1000
	j, identity := openBench(b)
	node, drop := newStanding(b, j, identity, b.N)
	requests := tokens(b, node, drop.Drop.DropId, b.N)
	latencies := make([]time.Duration, b.N)
	var all sync.WaitGroup
	b.ResetTimer()
	begin := time.Now()
	for i := range b.N {
		intended := begin.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(intended))
		all.Go(func() {
			if _, err := node.RedeemOffer(b.Context(), requests[i]); err != nil {
				b.Error(err)
			}
			latencies[i] = time.Since(intended)
		})
	}
	all.Wait()
	b.StopTimer()
	slices.Sort(latencies)
	b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkDecision is RequestOffer without a transport: the decision and one Ed25519 signature.
func BenchmarkDecision(b *testing.B) {
	node, drop := newMemoryStanding(b, 1000)
	request := &offerv1.RequestOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop.Drop.DropId, RequestId: "r"}, ViewerSessionId: session(1)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := node.RequestOffer(b.Context(), request); err != nil {
			b.Fatal(err)
		}
	}
}

// fill makes a node's journal of n redemptions beside it, as far as replay and recovery can tell them from real ones: signed
// receipts, chained, of one lease after the other.
func fill(b *testing.B, dir string, n int) {
	b.Helper()
	j, identity, err := journal.Open(b.Context(), dir, journal.Options{QueueRecords: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	node, drop := newStanding(b, j, identity, n)
	var all sync.WaitGroup
	const batch = 1000
	for begin := 0; begin < n; begin += batch {
		for i := begin; i < min(n, begin+batch); i++ {
			all.Go(func() {
				_, err := node.ClaimOffer(b.Context(), &offerv1.ClaimOfferRequest{
					Hints: &offerv1.RoutingHints{DropId: drop.Drop.DropId, RequestId: "r"}, ViewerSessionId: session(i), PaymentReference: "tp_ok",
					MaxPrice: drop.Drop.Price,
				})
				if err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	stopped, stop := context.WithCancel(b.Context())
	stop()
	if err := node.Run(stopped); err != nil { // writes the snapshots
		b.Fatal(err)
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRecovery is what a node does before it serves: from its snapshots, and without them as it did before there were
// any. The journal has RIMLIGHT_RECOVERY redemptions, 10,000 unless it is set; MB is the heap that they keep.
func BenchmarkRecovery(b *testing.B) {
	n := 10_000
	if text := os.Getenv("RIMLIGHT_RECOVERY"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	fill(b, dir, n)
	for name, wrap := range map[string]func(*journal.SQLite) journal.Journal{
		"snapshots": func(j *journal.SQLite) journal.Journal { return j },
		"records":   func(j *journal.SQLite) journal.Journal { return unread{j} },
	} {
		b.Run(name, func(b *testing.B) { recoverNode(b, dir, wrap) })
	}
}

// unread is a journal without snapshots.
type unread struct{ *journal.SQLite }

func (unread) ReadSnapshots(context.Context, func(journal.Snapshot) error) error { return nil }

func recoverNode(b *testing.B, dir string, wrap func(*journal.SQLite) journal.Journal) {
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	cpu := func() time.Duration {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			b.Fatal(err)
		}
		return time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	var opened, replayed time.Duration
	var kept float64
	for b.Loop() {
		before := heap()
		begin := cpu()
		j, identity, err := journal.Open(b.Context(), dir, journal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		opened += cpu() - begin
		begin = cpu()
		node, err := region.New(region.Config{Region: "test-1"}, region.Deps{
			Journal: wrap(j), Identity: identity, Stock: newFakeStock(rand.Reader, 1), Verifier: newFakeVerifier(rand.Reader),
			Catalog: &fakeCatalog{messages: make(chan *fulfillmentv1.WatchCatalogResponse)},
		})
		if err != nil {
			b.Fatal(err)
		}
		replayed += cpu() - begin
		kept = heap() - before
		runtime.KeepAlive(node)
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(opened.Seconds()/float64(b.N), "open-cpu-s")
	b.ReportMetric(replayed.Seconds()/float64(b.N), "replay-cpu-s")
	b.ReportMetric(kept, "MB")
}

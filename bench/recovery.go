package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

// recoveryAim is how long a node with a million sales in its journal may take before it serves.
const recoveryAim = time.Second

// recovery is what one start cost.
type recovery struct {
	cpu, took time.Duration
	heap      int64 // bytes that the node keeps
}

// measureRecovery starts a node on a journal of sales and outcomes: from its snapshots, and from the records alone, as before
// there were snapshots.
func measureRecovery(ctx context.Context, s settings) (section, error) {
	n, dir := s.pick(1_000_000, 300), filepath.Join(s.dir, "region")
	away, err := rpc.Dial("away", rpc.DialConfig{TrustNetwork: true, Dialer: func(context.Context, string) (net.Conn, error) { return nil, errAway }})
	if err != nil {
		return section{}, err
	}
	r := recoverer{dir: dir, centre: away, stop: time.Duration(s.pick(90, 1)) * time.Second}
	err = r.prepare(ctx, s, n)
	var starts [2][]recovery
	for range s.pick(3, 1) {
		for i, wrap := range []func(*journal.SQLite) journal.Journal{
			func(j *journal.SQLite) journal.Journal { return unread{j} },
			func(j *journal.SQLite) journal.Journal { return j },
		} {
			if err == nil {
				var took recovery
				took, err = r.start(ctx, wrap)
				starts[i] = append(starts[i], took)
			}
		}
	}
	if err = errors.Join(err, away.Close()); err != nil {
		return section{}, err
	}
	t := table{header: []string{"start from", "CPU, s", "lowest to highest", "time, s", "heap that the node keeps, MiB", "share of the records' CPU"}}
	var ratios []float64
	for i := range starts[0] {
		ratios = append(ratios, 100*starts[1][i].cpu.Seconds()/starts[0][i].cpu.Seconds())
	}
	for i, name := range []string{"the records alone", "snapshots"} {
		cpu, took, heap := columns(starts[i])
		share := "-"
		if i == 1 {
			share = fmt.Sprintf("%.1f %%", median(ratios))
		}
		t.add(name, decimals(median(cpu)), spread(cpu, decimals), decimals(median(took)), mebibytes(median(heap)), share)
	}
	cpu, _, _ := columns(starts[1])
	return section{
		tables: []table{t},
		aim: fmt.Sprintf("%d sales of one drop, each with one outcome, and a journal that its node closed. Aim: under %s s of one core: %s. Opening checks what no snapshot stands "+
			"for, in both; the check of all else in the background is not in it.", n, seconds(recoveryAim), verdict(median(cpu), recoveryAim, decimals, "s")),
		cannot: "a journal that is not in the disk's cache; a start after a crash, which replays up to 10,000 records besides.",
	}, nil
}

func columns(starts []recovery) (cpu, took []time.Duration, heap []int64) {
	for _, s := range starts {
		cpu, took, heap = append(cpu, s.cpu), append(took, s.took), append(heap, s.heap)
	}
	return cpu, took, heap
}

// unread is a journal without its snapshots.
type unread struct{ *journal.SQLite }

// ReadSnapshots implements journal.Journal.
func (unread) ReadSnapshots(context.Context, func(journal.Snapshot) error) error { return nil }

type recoverer struct {
	dir    string
	centre *grpc.ClientConn
	stop   time.Duration // for the verifier, which is away, and then as much for all snapshots
}

func (r recoverer) node(j journal.Journal, identity journal.Identity) (*region.Node, error) {
	return region.New(region.Config{Region: "bench", DrainTimeout: r.stop}, region.Deps{
		Journal: j, Identity: identity, Stock: fulfillmentv1.NewStockServiceClient(r.centre),
		Catalog: fulfillmentv1.NewCatalogServiceClient(r.centre), Verifier: verifierv1.NewVerifierServiceClient(r.centre),
	})
}

// start is what a process does before it serves.
func (r recoverer) start(ctx context.Context, wrap func(*journal.SQLite) journal.Journal) (took recovery, err error) {
	before := heap()
	begin, cpu := time.Now(), time.Duration(0)
	if cpu, err = cpuTime(); err != nil {
		return took, err
	}
	j, identity, err := journal.Open(ctx, r.dir, journal.Options{})
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	node, err := r.node(wrap(j), identity)
	if err != nil {
		return took, err
	}
	after, err := cpuTime()
	took = recovery{cpu: after - cpu, took: time.Since(begin), heap: heap() - before}
	runtime.KeepAlive(node)
	return took, err
}

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// prepare writes the journal as a node does that sold so much, and lets one write its snapshots.
func (r recoverer) prepare(ctx context.Context, s settings, n int) (err error) {
	j, identity, err := journal.Open(ctx, r.dir, journal.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	begin := time.Now()
	if err := writeSales(ctx, j, identity, n); err != nil {
		return fmt.Errorf("writing a journal: %w", err)
	}
	node, err := r.node(j, identity)
	if err != nil {
		return err
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := node.Run(stopped); err != nil {
		return err
	}
	if err := covered(ctx, j); err != nil && !s.smoke {
		return err
	}
	fmt.Fprintf(s.log, "a journal of %d sales and its snapshots in %.0f s\n", n, time.Since(begin).Seconds())
	return nil
}

// covered tells whether snapshots stand for all of a journal: without some, a start from them is one from records.
func covered(ctx context.Context, j journal.Journal) error {
	through := int64(0)
	if err := j.ReadSnapshots(ctx, func(s journal.Snapshot) error { through = s.Through; return nil }); err != nil {
		return err
	}
	switch rest, err := j.ReadAfter(ctx, through, 1); {
	case err != nil:
		return err
	case len(rest) > 0:
		return fmt.Errorf("the machine was too slow: the node's stop ended with snapshots up to record %d only", through)
	}
	return nil
}

// salesBatch is how many sales are written in one commit.
const salesBatch = 1000

// writeSales writes leases, receipts and outcomes. Receipts are signed, since a signature's bytes are part of the length.
func writeSales(ctx context.Context, j journal.Journal, identity journal.Identity, n int) error {
	signer, err := token.NewSigner(identity.Seed, offerv1.KeyOwner_KEY_OWNER_NODE, identity.NodeID, "bench")
	if err != nil {
		return err
	}
	drop := ids.NewV7(time.Now(), rand.Reader)
	dropID, err := ids.Bytes(drop)
	if err != nil {
		return err
	}
	money := &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}
	batch := []*regionv1.JournalRecord{
		{Record: &regionv1.JournalRecord_Joined{Joined: &regionv1.Joined{Epoch: 1, DiskId: identity.DiskID}}},
		{Record: &regionv1.JournalRecord_Drop{Drop: &fulfillmentv1.CatalogDrop{Units: uint32(n), MaxPerViewer: 1, Drop: &offerv1.Drop{
			DropId: drop, ChannelId: "bench", Title: "Signed session recording", Price: money, Revision: 1,
			OpenTime: timestamppb.Now(), CloseTime: timestamppb.New(time.Now().Add(time.Hour)),
		}}}},
	}
	for from := 0; from < n; from += salesBatch {
		l := &fulfillmentv1.Lease{LeaseId: ids.NewV7(time.Now(), rand.Reader), DropId: drop, NodeId: identity.NodeID, Epoch: 1}
		for i := from; i < min(n, from+salesBatch); i++ {
			l.Serials = append(l.Serials, uint32(i+1))
		}
		batch = append(batch, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Leased{Leased: l}})
		for _, serial := range l.Serials {
			receipt, purchase, err := sign(signer, identity, dropID, money, l.GetLeaseId(), serial)
			if err != nil {
				return err
			}
			batch = append(batch, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Redeemed{Redeemed: receipt}},
				&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Outcome{Outcome: &regionv1.OutcomeSeen{Cursor: int64(serial), Purchase: &offerv1.Purchase{
					PurchaseId: purchase, DropId: drop, State: offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, Price: money, StateTime: timestamppb.Now(),
				}}}})
		}
		if err := appendAll(ctx, j, batch); err != nil {
			return err
		}
		batch = nil
	}
	return nil
}

func sign(signer *token.Signer, identity journal.Identity, drop []byte, price *offerv1.Money, leaseID string, serial uint32) (receipt, purchase string, err error) {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return "", "", err
	}
	k, now := random[:16], time.Now()
	offer, err := signer.OfferToken(&offerv1.OfferToken{
		TokenId: k, DropId: drop, OfferVersion: 1, Price: price, ViewerSessionId: random[16:], Arm: "five",
		IssueTimeUs: now.UnixMicro(), ExpireTimeUs: now.Add(time.Minute).UnixMicro(),
	})
	if err != nil {
		return "", "", err
	}
	purchase = token.PurchaseID(k)
	receipt, err = signer.Receipt(&offerv1.Receipt{
		OfferToken: offer, PurchaseId: purchase, Serial: serial, LeaseId: leaseID, Epoch: 1, NodeId: identity.NodeID, Region: "bench",
		AcceptTime: timestamppb.New(now), PaymentReference: "tp_ok", PreviousReceiptHash: random,
	})
	return receipt, purchase, err
}

func appendAll(ctx context.Context, j journal.Journal, batch []*regionv1.JournalRecord) error {
	payloads := make([][]byte, len(batch))
	for i, r := range batch {
		var err error
		if payloads[i], err = proto.Marshal(r); err != nil {
			return err
		}
	}
	_, err := journal.Append(ctx, j, payloads...)
	return err
}

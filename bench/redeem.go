package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/region/journal"
)

const (
	// mostUnits of a drop; the first lease is 10,000 of them.
	mostUnits = 100_000
	// redeemRate and redeemAim are the open loop's, per second, and its aim for the 99th percentile.
	redeemRate = 1000
	redeemAim  = 10 * time.Millisecond
)

// shop is a world to buy in, with a bare journal beside it.
type shop struct {
	settings
	*world
	offers offerv1.OfferServiceClient
	bare   journal.Journal
	record []byte // as long as a redemption's
}

// measureRedeem compares durable redemptions with bare appends of the same length to a journal on the same disk.
func measureRedeem(ctx context.Context, s settings) (result section, err error) {
	bare, _, err := journal.Open(ctx, filepath.Join(s.dir, "bare"), journal.Options{})
	if err != nil {
		return section{}, err
	}
	defer func() { err = errors.Join(err, bare.Close()) }()
	err = inWorld(ctx, s.dir, func(w *world) error {
		b := &shop{settings: s, world: w, offers: offerv1.NewOfferServiceClient(w.conn), bare: bare}
		if err := b.size(ctx); err != nil {
			return err
		}
		rates, bound, err := b.rates(ctx)
		if err != nil {
			return err
		}
		latencies, aim, err := b.latencies(ctx)
		if err != nil {
			return err
		}
		result = section{
			tables: []table{rates, latencies}, aim: bound + "\n\n" + aim,
			cannot: fmt.Sprintf("how another disk behaves: all of it is group commit, so fsync sets the pace. Clients, node and fulfillment share "+
				"this machine's cores; the verifier is away, so forwarding and settling are not in it. Arrivals at %d/s are evenly spaced, "+
				"which is kinder than viewers are. One record is %d bytes.", redeemRate, len(b.record)),
		}
		return nil
	})
	return result, err
}

// size makes the bare journal's record as long as a real one.
func (b *shop) size(ctx context.Context) error {
	drop, err := b.openDrop(ctx, 100)
	if err != nil {
		return err
	}
	taps, err := b.taps(ctx, drop, 1)
	if err != nil {
		return err
	}
	answer, err := b.node.RedeemOffer(ctx, taps[0])
	if err != nil {
		return err
	}
	length := proto.Size(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Redeemed{Redeemed: answer.GetReceipt()}})
	b.record = bytes.Repeat([]byte{'r'}, length)
	return nil
}

func (b *shop) append(ctx context.Context, _ int) error {
	_, err := journal.Append(ctx, b.bare, b.record)
	return err
}

// rates is the first table: as many accepts per second as so many writers get. With the most writers the processors set
// the pace, so a sentence says what one accept costs them.
func (b *shop) rates(ctx context.Context) (t table, bound string, err error) {
	t.header = []string{
		"writers", "bare journal, appends/s", "node in process, accepts/s", "ratio", "node over gRPC, accepts/s", "ratio", "gRPC, lowest to highest round",
	}
	for _, level := range []struct{ writers, accepts int }{
		{1, b.pick(500, 20)}, {16, b.pick(alwaysHeld, 100)}, {256, b.pick(alwaysHeld, 300)},
	} {
		drop, err := b.openDrop(ctx, b.pick(mostUnits, mostUnits/10))
		if err != nil {
			return t, "", err
		}
		var bare, inside, overRPC turns
		for range b.pick(5, 1) {
			for _, turn := range []func() error{
				func() error { return bare.take(ctx, level.writers, level.accepts, b.append) },
				func() error { return b.redeem(ctx, &inside, drop, level.writers, level.accepts, b.redeemInside) },
				func() error { return b.redeem(ctx, &overRPC, drop, level.writers, level.accepts, b.redeemOverRPC) },
			} {
				if err := turn(); err != nil {
					return t, "", err
				}
			}
		}
		t.add(strconv.Itoa(level.writers), whole(median(bare.rates)), whole(median(inside.rates)), times(ratio(inside.rates, bare.rates)),
			whole(median(overRPC.rates)), times(ratio(overRPC.rates, bare.rates)), spread(overRPC.rates, whole))
		bound = fmt.Sprintf("At %d writers an append costs %s µs of CPU, an accept in process %s µs, over gRPC with its client %s µs.",
			level.writers, micros(median(bare.cpu)), micros(median(inside.cpu)), micros(median(overRPC.cpu)))
	}
	return t, bound, nil
}

// turns are one contender's rounds.
type turns struct {
	rates []float64       // per second
	cpu   []time.Duration // per call
}

func (t *turns) take(ctx context.Context, writers, n int, call func(context.Context, int) error) error {
	spent, err := measured(ctx, writers, n, call)
	if err != nil {
		return err
	}
	t.rates = append(t.rates, float64(n)/spent.wall.Seconds())
	t.cpu = append(t.cpu, spent.cpu/time.Duration(n))
	return nil
}

// redeem is one round of redemptions by fresh viewers.
func (b *shop) redeem(ctx context.Context, t *turns, drop string, writers, n int, call func(context.Context, *offerv1.RedeemOfferRequest) error) error {
	taps, err := b.taps(ctx, drop, n)
	if err != nil {
		return err
	}
	return t.take(ctx, writers, n, func(ctx context.Context, i int) error { return call(ctx, taps[i]) })
}

func (b *shop) redeemInside(ctx context.Context, r *offerv1.RedeemOfferRequest) error {
	_, err := b.node.RedeemOffer(ctx, r)
	return err
}

func (b *shop) redeemOverRPC(ctx context.Context, r *offerv1.RedeemOfferRequest) error {
	_, err := b.offers.RedeemOffer(ctx, r)
	return err
}

func whole(rate float64) string { return strconv.FormatFloat(rate, 'f', 0, 64) }

// quantiles of the open loop's latencies; late is how far behind schedule the generator was, itself at the 99th percentile.
type quantiles struct{ p50, p99, p999, late []time.Duration }

func (q *quantiles) add(p paced) {
	q.p50 = append(q.p50, quantile(p.latency, 0.5))
	q.p99 = append(q.p99, quantile(p.latency, 0.99))
	q.p999 = append(q.p999, quantile(p.latency, 0.999))
	q.late = append(q.late, quantile(p.late, 0.99))
}

func (q *quantiles) row(t *table, name string) {
	t.add(name, millis(median(q.p50)), millis(median(q.p99)), spread(q.p99, millis), millis(median(q.p999)), millis(median(q.late)))
}

// latencies is the second table: how long a tap waits at a fixed rate.
func (b *shop) latencies(ctx context.Context) (table, string, error) {
	rate, n := b.pick(redeemRate, 200), b.pick(10*redeemRate, 100)
	t := table{header: []string{
		fmt.Sprintf("at %d/s, ms from the intended start", rate), "p50", "p99", "p99, lowest to highest round", "p99.9", "generator late, p99",
	}}
	drop, err := b.openDrop(ctx, b.pick(mostUnits, mostUnits/10))
	if err != nil {
		return t, "", err
	}
	var bare, overRPC quantiles
	for range b.pick(3, 1) {
		appended, err := openLoop(ctx, rate, n, b.append)
		if err != nil {
			return t, "", err
		}
		bare.add(appended)
		taps, err := b.taps(ctx, drop, n)
		if err != nil {
			return t, "", err
		}
		runtime.GC()
		redeemed, err := openLoop(ctx, rate, n, func(ctx context.Context, i int) error { return b.redeemOverRPC(ctx, taps[i]) })
		if err != nil {
			return t, "", err
		}
		overRPC.add(redeemed)
	}
	bare.row(&t, "bare journal")
	overRPC.row(&t, "RedeemOffer over gRPC")
	return t, fmt.Sprintf("Aim: p99 of %s ms at %d/s: %s.", millis(redeemAim), redeemRate,
		verdict(median(overRPC.p99), redeemAim, millis, "ms")), nil
}

// Package world runs the platform in virtual time and holds it to the invariants of docs/settlement.md, section 6.
//
//	viewers ──┐ simnet: delay, jitter, loss, duplication,        ┌── verifier ── testpsp
//	          ├──────── one-way cuts, hosts that die ────────────┤
//	 nodes  ──┘ (memory journals)                                └── fulfillment
//	    │                                                            │
//	    └── what clients kept, journals, three databases ── Evidence ── Laws ──> Report
//
// Everything between the viewers and the databases is production code over generated clients. With Config.OverGRPC so is
// what carries their calls: internal/rpc and grpc-go, on simtcp's connections in place of simnet's messages. A viewer
// does itself what a router does for it (the nearest region first, elsewhere with the same token). Run belongs in a
// testing/synctest bubble. After the faults the network heals, and everything must settle within Config.HealWithin.
//
// From a seed follow exactly: the viewers (who comes when, wants what, behaves how), the faults and their instants, the
// nodes' clocks and keys, and the fate of the n-th message of a method on a link. Not from it: which of two goroutines
// that are ready in the same instant goes first, since Go's scheduler and select are random. Without faults that changes
// no summary. With them it can decide which of two messages on one link is the n-th, so a replay meets the same faults
// and the same audience, and may tell a slightly different story: run a seed a few times. Over
// grpc-go the fate of a message does not follow from the seed.
//
// It does not model routers, gossip, a restored verifier or stolen keys.
package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Run plays one scenario in the bubble of its caller. The error is a world that could not be built or read; broken laws
// are in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	evidence, err := play(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("world: seed %d: %w", cfg.Seed, err)
	}
	return Judge(evidence), nil
}

// world is one scenario being played.
type world struct {
	cfg   Config
	plan  plan
	start time.Time
	net   network
	ears  *ears // what was logged and answered
	log   *slog.Logger

	centre *centre
	drops  []string // ids, in the order of cfg.Drops

	mu      sync.Mutex // guards what is below
	nodes   []*node
	disksOf map[string]int // how many a region's node has had

	depots  []*depot
	carrier carrier

	life       context.Context // ends when everything has settled
	background sync.WaitGroup

	observers []*observer
	boards    []*boardObserver

	watch   witness
	weather weather
	room    room
	returns returns

	operators operators
	moods     io.Reader // what an outage of the provider does to each call
	healed    sync.Once
	calm      chan struct{} // closed when the network healed: links are perfect from then on
}

func play(ctx context.Context, cfg Config) (_ *Evidence, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &world{life: ctx, cfg: cfg, plan: newPlan(cfg), start: time.Now(), ears: newEars(), disksOf: map[string]int{}, calm: make(chan struct{})}
	w.moods = w.random("payments", 0)
	w.log = slog.New(slog.NewJSONHandler(w.ears, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.net = w.newNetwork()
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	if err := w.createDrops(ctx); err != nil {
		return nil, err
	}

	w.startObservers(ctx)
	audience, faults := make(chan struct{}), make(chan struct{})
	go func() { defer close(audience); w.admitViewers(ctx) }()
	go func() { defer close(faults); w.causeFaults(ctx) }()
	defer func() { cancel(); <-audience; <-faults; w.background.Wait() }()

	<-faults
	w.heal()
	healedAt := time.Since(w.start)
	settled, err := w.settle(ctx, audience)
	if err != nil {
		return nil, err
	}
	settledAt := time.Since(w.start)
	cancel()
	<-audience
	return w.collect(healedAt, settledAt, settled)
}

// heal ends every fault.
func (w *world) heal() {
	w.healed.Do(func() {
		w.net.HealAll()
		close(w.calm)
	})
}

// settle waits until nothing is open any more, or patience ends.
func (w *world) settle(ctx context.Context, audience <-chan struct{}) (bool, error) {
	over := time.Until(w.start.Add(w.plan.over))
	patience := time.NewTimer(max(over, 0) + w.cfg.HealWithin)
	defer patience.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	select {
	case <-audience:
	case <-patience.C:
		return false, nil
	}
	for {
		open, err := w.unfinished(ctx)
		if err != nil {
			return false, err
		}
		if open == 0 && len(w.stillFull(ctx)) == 0 {
			if seen, err := w.caughtUp(ctx); seen || err != nil {
				return true, err
			}
		}
		select {
		case <-tick.C:
		case <-patience.C:
			return false, nil
		}
	}
}

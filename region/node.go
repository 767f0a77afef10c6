// Package region is the regional decision node: it answers viewers' offers, accepts their purchases on its own, and
// tells the centre afterwards.
//
//	RequestOffer ──> decide ──> sign                                       no disk, no centre
//	RedeemOffer ───> lease ───> sign ──> journal (group commit, fsync) ──> receipt
//	                                        │
//	            outbox <────────────────────┘  ──SubmitRedemptions──> verifier ──outcomes──> till
//	            stock  ──JoinNode, GrantLease, Heartbeat, ReturnUnits──> fulfillment
//	            catalogue <──WatchCatalog── fulfillment;  board: the clock opens and closes drops for WatchDrops
//
// Invariants (docs/settlement.md). What was answered was durable first. One K is one serial and one receipt, byte for
// byte, over any repeat and restart. A serial that the journal names is never handed out again. A unit goes back only
// after the journal says so. A failed commit stops the node; with a full disk it accepts nothing until there is room.
//
// It does not move money, does not own stock, and asks nobody before it answers RequestOffer, RedeemOffer or ClaimOffer.
package region

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/journal"
)

// Node is one region decision node. It serves OfferService and RegionService from New until Run's context ends.
type Node struct {
	offerv1.UnimplementedOfferServiceServer
	regionv1.UnimplementedRegionServiceServer

	cfg     Config
	deps    Deps
	log     *slog.Logger
	signer  *token.Signer
	keys    token.Keys
	till    *till
	board   *board
	faces   []face // what is on the board; only New and keepBoard use it
	load    *load
	gate    *gate
	metrics *metrics
	drill   *drill
	room    *room

	catalogue atomic.Pointer[catalogue]
	mode      atomic.Int32 // regionv1.RegionMode
	modeEnds  atomic.Pointer[modeEnd]
	modeTurns atomic.Int64                       // how often the mode was changed
	woundDown atomic.Int64                       // modeTurns of the drain under which the stock loop asked for nothing any more; 0: there is none
	endStream atomic.Pointer[context.CancelFunc] // of the stream to the verifier

	// Each of one: see poke.
	pokeStock, pokeBoard, pokeOutbox, pokeDrained, pokeMode, pokeSnapshot chan struct{}
	offers                                                                *offersMade
	// offered is the newest record that the verifier can know of: the journal's last at the start, or sent since. Only
	// New and the forwarder use it.
	offered int64
	// sent is the newest redemption that this process sent to the verifier. Only forward uses it.
	sent      int64
	snapshots snapshots
	// bootID names this process life, and life numbers it from 1; lives before it are in the journal.
	bootID     string
	life       int64
	superseded string      // the life that gave way to another process, as the journal tells; nothing is sold any more
	keysWanted atomic.Bool // somebody showed a token of an unknown key

	failed   chan struct{} // closed by the first fail
	failOnce sync.Once
	failure  error // set before failed is closed
	randomMu sync.Mutex
	random   *mathrand.Rand // for jitter
	started  atomic.Bool
	cancels  chan struct{} // of mostCancels: holds a token for each question to the verifier
	modeTurn chan struct{} // of one: holds a token while a mode change is being journaled
}

// New makes a node and replays its journal. Errors: a Config or Deps that is not usable, a journal that cannot be read.
func New(cfg Config, deps Deps) (*Node, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, err
	}
	deps = deps.withDefaults()
	cfg = cfg.withDefaults()
	signer, err := token.NewSigner(deps.Identity.Seed, offerv1.KeyOwner_KEY_OWNER_NODE, deps.Identity.NodeID, cfg.Region)
	if err != nil {
		return nil, fmt.Errorf("region: reading the node's key: %w", err)
	}
	var seed [16]byte
	if _, err := io.ReadFull(deps.Random, seed[:]); err != nil {
		return nil, fmt.Errorf("region: reading randomness: %w", err)
	}
	n := &Node{
		cfg: cfg, deps: deps, signer: signer, till: newTill(), offers: newOffersMade(), gate: newGate(), load: newLoad(cfg.Parallelism),
		log:       deps.Log.With("region", cfg.Region, "node_id", deps.Identity.NodeID),
		board:     newBoard(ids.NewV7(deps.Now(), deps.Random)),
		bootID:    ids.NewV7(deps.Now(), deps.Random),
		pokeStock: make(chan struct{}, 1), pokeBoard: make(chan struct{}, 1), pokeOutbox: make(chan struct{}, 1), pokeDrained: make(chan struct{}, 1),
		pokeMode: make(chan struct{}, 1), pokeSnapshot: make(chan struct{}, 1),
		failed: make(chan struct{}), modeTurn: make(chan struct{}, 1), cancels: make(chan struct{}, mostCancels),
		random: mathrand.New(mathrand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:]))),
	}
	n.drill, n.room = newDrill(deps.Now, n.draw), newRoom()
	n.keys.Add(signer.Public())
	n.catalogue.Store(&catalogue{drops: map[string]*knownDrop{}})
	n.mode.Store(int32(regionv1.RegionMode_REGION_MODE_SERVING))
	if n.metrics, err = newMetrics(deps.Metrics, n); err != nil {
		return nil, fmt.Errorf("region: registering metrics: %w", err)
	}
	if err := n.replay(context.Background()); err != nil {
		return nil, fmt.Errorf("region: %w", err)
	}
	switch {
	case cfg.Retire:
		n.gate.close()
	case n.till.sealed && !mutant.On(mutant.SealIgnored):
		return nil, ErrSealed
	}
	n.postDrops()
	return n, nil
}

func (d Deps) validate() error {
	var problems []error
	for _, c := range []struct {
		missing bool
		name    string
	}{
		{d.Journal == nil, "Journal"}, {d.Identity.NodeID == "", "Identity"}, {d.Stock == nil, "Stock"},
		{d.Catalog == nil, "Catalog"}, {d.Verifier == nil, "Verifier"},
	} {
		if c.missing {
			problems = append(problems, fmt.Errorf("region: Deps.%s is missing", c.name))
		}
	}
	return errors.Join(problems...)
}

func (d Deps) withDefaults() Deps {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Random == nil {
		d.Random = rand.Reader
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Metrics == nil {
		d.Metrics = prometheus.NewRegistry()
	}
	return d
}

// Register adds the node's RPC services. Serve them behind UnaryInterceptor and StreamInterceptor.
func (n *Node) Register(r grpc.ServiceRegistrar) {
	offerv1.RegisterOfferServiceServer(r, n)
	regionv1.RegisterRegionServiceServer(r, n)
}

// Rules says which roles the node's methods need.
func Rules() auth.Rules {
	return auth.Rules{
		regionv1.RegionService_SetMode_FullMethodName: {auth.SRE}, regionv1.RegionService_SetFault_FullMethodName: {auth.SRE},
		regionv1.RegionService_Check_FullMethodName: {auth.SRE},
	}
}

// Run is the node's loops, once. When ctx ends the node takes nothing new, finishes what it has, gives the verifier
// DrainTimeout to take the rest of the journal, and returns nil; so it does by itself when a node that Config.Retire told
// to has retired. It returns an error when the node must not go on:
// journal.ErrBroken, ErrDiskChanged, ErrSuperseded, ErrJournalBehind.
func (n *Node) Run(ctx context.Context) error {
	if n.started.Swap(true) {
		return errors.New("region: Run was called twice")
	}
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, loops := errgroup.WithContext(loops)
	for _, loop := range []func(context.Context) error{n.followCatalogue, n.keepStock, n.forward, n.keepBoard, n.keepMode, n.keepRoom, n.keepSnapshots, n.scrub} {
		g.Go(func() error { return loop(loops) })
	}
	select {
	case <-ctx.Done():
	case <-loops.Done(): // a loop gave up
	case <-n.failed:
	}
	n.gate.close()
	patience := time.NewTimer(n.cfg.DrainTimeout)
	defer patience.Stop()
	n.drain(loops, patience.C)
	stop()
	err := g.Wait()
	select {
	case <-n.failed:
		err = errors.Join(n.failure, err)
	default:
		n.lastSnapshot(context.WithoutCancel(ctx))
	}
	if errors.Is(err, errRetired) {
		return nil
	}
	return err
}

// drain waits for the calls inside the node and for the verifier's acknowledgements.
func (n *Node) drain(loops context.Context, patience <-chan time.Time) {
	wait := func(done <-chan struct{}) bool {
		select {
		case <-done:
			return true
		case <-patience:
			n.log.Warn("stopped before everything was forwarded; the next start goes on", "journal_lag", n.till.lag())
		case <-loops.Done():
		case <-n.failed:
		}
		return false
	}
	more := wait(n.gate.idle())
	for more && n.till.lag() > 0 {
		more = wait(n.pokeDrained)
	}
}

// fail stops the node: what it would promise from here on could be lost.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.failure = err
		close(n.failed)
		n.gate.close()
		n.log.Error("the node must stop", "error", err)
	})
}

// Mode is what an operator wants of the node.
func (n *Node) Mode() regionv1.RegionMode { return regionv1.RegionMode(n.mode.Load()) }

// CatalogRevision is the revision of the catalogue that the node serves; 0 before it has one.
func (n *Node) CatalogRevision() int64 { return n.catalogue.Load().revision }

// jitter is a random duration below d.
func (n *Node) jitter(d time.Duration) time.Duration {
	n.randomMu.Lock()
	defer n.randomMu.Unlock()
	return time.Duration(n.random.Int64N(int64(d)))
}

// draw is a random number in [0,1).
func (n *Node) draw() float64 {
	n.randomMu.Lock()
	defer n.randomMu.Unlock()
	return n.random.Float64()
}

// append makes records durable, in one commit. A journal that broke stops the node; one without room does not
// (journal.ErrNoSpace), and has nothing of them.
func (n *Node) append(ctx context.Context, records ...*regionv1.JournalRecord) error {
	_, err := n.appendAt(ctx, records...)
	return err
}

// appendAt is append, and gives the first record's sequence.
func (n *Node) appendAt(ctx context.Context, records ...*regionv1.JournalRecord) (int64, error) {
	if len(records) == 0 {
		return 0, nil
	}
	payloads := make([][]byte, len(records))
	for i, r := range records {
		var err error
		if payloads[i], err = proto.Marshal(r); err != nil {
			return 0, fmt.Errorf("encoding a journal record: %w", err)
		}
	}
	first, err := journal.Append(ctx, n.deps.Journal, payloads...)
	switch {
	case err == nil:
		n.grown(len(records))
	case errors.Is(err, journal.ErrBroken):
		n.fail(err)
	case errors.Is(err, journal.ErrNoSpace):
		n.ranOut(err)
	}
	return first, err
}

// addKeys journals public keys that are new and takes them in. Those for which there is no room come again: with a
// heartbeat, which counts what the node knows, or on the verifier's next stream.
func (n *Node) addKeys(ctx context.Context, keys []*offerv1.SigningKey) error {
	fresh := n.keys.Unknown(keys...)
	if len(fresh) == 0 {
		return nil
	}
	err := n.append(ctx, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Keys{Keys: &regionv1.KeysSeen{Keys: fresh}}})
	if errors.Is(err, journal.ErrNoSpace) {
		n.miss()
		return nil
	}
	if err != nil {
		return err
	}
	n.keys.Add(fresh...)
	poke(n.pokeBoard) // a drop may close later than was known here
	return nil
}

package region

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/region/lease"
)

const (
	// shortestHeartbeat bounds how often hungry viewers and unknown keys make the node ask; without it forged tokens
	// would hammer fulfillment. At double, freed units lie about for as long.
	shortestHeartbeat = 200 * time.Millisecond
	// defaultHeartbeat is used until fulfillment names its own pace.
	defaultHeartbeat = time.Second
	// mostWanted is what one GrantLease may ask for.
	mostWanted = 10000
	// Bounds of one request of fulfillment.v1.
	mostReturned, mostHeld, mostHungry = 10000, 10000, 1000
)

// stocker is the stock loop's own state: it belongs to one goroutine.
type stocker struct {
	n           *Node
	started     bool // this life is in the journal
	joined      bool
	wait        *backoff // after a failure
	retryAt     time.Time
	heartbeatAt time.Time // by package time
	lastBeat    time.Time
	questions   map[string]*question // by drop
}

// question is what the node asks fulfillment about one drop.
type question struct {
	requestID string // of the open GrantLease; empty when none is open
	wanted    uint32 // with it: a repeat repeats the question
	lastSize  int    // of the last lease
	dry       bool   // nothing was free: wait until a heartbeat says otherwise
}

// keepStock joins, fetches leases, gives them back and sends heartbeats, one call at a time, until ctx ends.
func (n *Node) keepStock(ctx context.Context) error {
	s := &stocker{n: n, wait: n.newBackoff(), questions: map[string]*question{}}
	if n.superseded != "" {
		return n.lastWords(ctx, ErrSuperseded)
	}
	for ctx.Err() == nil {
		err := s.turn(ctx)
		if rpcerr.Reason(err) == errorsv1.Reason_REASON_STORE_RECOVERING && ctx.Err() == nil {
			if failed := s.report(ctx); failed != nil {
				err = failed
			}
		}
		switch {
		case errors.Is(err, errRetired):
			return err
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop: how the turn took that is no news
		case rpcerr.Reason(err) == errorsv1.Reason_REASON_DISK_CHANGED:
			return n.lastWords(ctx, fmt.Errorf("%w: %w", ErrDiskChanged, err))
		case rpcerr.Reason(err) == errorsv1.Reason_REASON_NODE_SUPERSEDED:
			return n.giveWay(ctx, err)
		case rpcerr.Reason(err) == errorsv1.Reason_REASON_EPOCH_STALE, rpcerr.Reason(err) == errorsv1.Reason_REASON_NODE_NOT_JOINED:
			s.joined = false
		}
		next := s.heartbeatAt
		if err != nil {
			n.log.Warn("stock call failed", "error", err)
			n.metrics.stockErrors.Inc()
			next = time.Now().Add(s.wait.pause())
			s.retryAt = next
		} else {
			s.wait.reset()
		}
		s.sleep(ctx, next)
	}
	return nil
}

// sleep waits until a moment, or until somebody pokes; after a failure pokes do not shorten the pause.
func (s *stocker) sleep(ctx context.Context, until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	pokes := s.n.pokeStock
	if time.Now().Before(s.retryAt) {
		pokes = nil
	}
	select {
	case <-timer.C:
	case <-pokes:
	case <-ctx.Done():
	}
}

// turn does whatever is due. An error is a call that failed; everything is repeated from what is known then.
func (s *stocker) turn(ctx context.Context) error {
	change, mode := s.n.modeTurns.Load(), s.n.Mode() // in this order: a newer mode is never taken for an older change's
	if !s.joined {
		if err := s.join(ctx); err != nil {
			return err
		}
	}
	if s.n.room.full.Load() { // nothing can be written down: no stock comes or goes
		return s.beat(ctx)
	}
	if err := s.windDown(ctx); err != nil {
		return err
	}
	if err := s.sendReturns(ctx); err != nil {
		return err
	}
	if s.n.cfg.Retire {
		return s.retire(ctx)
	}
	if err := s.ask(ctx); err != nil {
		return err
	}
	if err := s.beat(ctx); err != nil {
		return err
	}
	if err := s.sendReturns(ctx); err != nil { // what the heartbeat recalled
		return err
	}
	if mode == regionv1.RegionMode_REGION_MODE_DRAINED {
		s.n.woundDown.Store(change)
	}
	return nil
}

func (n *Node) callContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, n.cfg.CallTimeout)
}

func (s *stocker) join(ctx context.Context) error {
	n := s.n
	if !s.started { // durable first: else the next life could come under this one's number
		record := &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Started{Started: &regionv1.Started{Life: n.life}}}
		if err := n.append(ctx, record); err != nil {
			return fmt.Errorf("journaling the start: %w", err)
		}
		s.started = true
	}
	call, cancel := n.callContext(ctx)
	defer cancel()
	answer, err := n.deps.Stock.JoinNode(call, s.introduction())
	if err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	if epoch := answer.GetEpoch(); epoch != n.epoch() {
		record := &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Joined{Joined: &regionv1.Joined{
			Epoch: epoch, DiskId: n.deps.Identity.DiskID,
		}}}
		if err := n.append(ctx, record); err != nil {
			return fmt.Errorf("journaling the epoch: %w", err)
		}
		n.setEpoch(epoch)
		n.log.Info("joined", "epoch", epoch)
	}
	s.joined = true
	return n.addKeys(ctx, answer.GetKeys())
}

func (n *Node) epoch() int64 {
	n.till.mu.Lock()
	defer n.till.mu.Unlock()
	return n.till.epoch
}

// windDown gives back what cannot be sold here any more: of closed drops everything, and everything when drained or at the
// node's end.
func (s *stocker) windDown(ctx context.Context) error {
	n, now := s.n, s.n.deps.Now()
	for _, d := range n.catalogue.Load().sorted() {
		if n.terms(d).State(now) == dropclock.Closed || n.Mode() == regionv1.RegionMode_REGION_MODE_DRAINED || n.cfg.Retire {
			if err := s.giveBack(ctx, d.id, math.MaxInt); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveBack takes units out of sale and makes that durable. Only then sendReturns tells fulfillment: the other order would
// sell a unit here that another node was given, after a crash in between.
func (s *stocker) giveBack(ctx context.Context, drop string, units int) error {
	n := s.n
	n.till.mu.Lock()
	plan := n.till.book.PlanReturn(drop, units)
	n.till.mu.Unlock()
	return s.journalReturns(ctx, plan)
}

// journalReturns makes returns durable that the book has planned.
func (s *stocker) journalReturns(ctx context.Context, plan []lease.Return) error {
	n := s.n
	var records []*regionv1.JournalRecord
	for _, r := range plan {
		records = append(records, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Returned{
			Returned: &regionv1.Returned{LeaseId: r.Lease, Serials: r.Serials},
		}})
	}
	if mutant.On(mutant.ReturnUnrecorded) {
		records = nil
	}
	if err := n.append(ctx, records...); err != nil {
		if errors.Is(err, journal.ErrNoSpace) && !mutant.On(mutant.FullReturnSent) { // else sendReturns would send what is not durable
			n.till.mu.Lock()
			for _, r := range plan {
				n.till.book.Keep(r)
			}
			n.till.mu.Unlock()
		}
		return fmt.Errorf("journaling a return: %w", err)
	}
	return nil
}

// sendReturns tells fulfillment what came back, until it acknowledged; after a restart once more, which it can bear.
func (s *stocker) sendReturns(ctx context.Context) error {
	n := s.n
	n.till.mu.Lock()
	returns := n.till.book.Returning()
	n.till.mu.Unlock()
	for _, r := range returns {
		for serials := range slices.Chunk(r.Serials, mostReturned) {
			if err := s.sendReturn(ctx, lease.Return{Lease: r.Lease, Serials: serials}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stocker) sendReturn(ctx context.Context, r lease.Return) error {
	n := s.n
	call, cancel := n.callContext(ctx)
	defer cancel()
	_, err := n.deps.Stock.ReturnUnits(call, &fulfillmentv1.ReturnUnitsRequest{
		NodeId: n.deps.Identity.NodeID, Epoch: n.epoch(), LeaseId: r.Lease, Serials: r.Serials, BootId: n.bootID,
	})
	if rpcerr.Reason(err) == errorsv1.Reason_REASON_LEASE_NOT_FOUND {
		n.log.Error("fulfillment does not know a lease that goes back", "lease_id", r.Lease, "units", len(r.Serials))
	} else if err != nil {
		return fmt.Errorf("returning units of lease %s: %w", r.Lease, err)
	}
	n.till.mu.Lock()
	n.till.book.Acknowledge(r)
	n.till.mu.Unlock()
	n.metrics.returned.Add(float64(len(r.Serials)))
	return nil
}

// low tells whether a drop's stock lasts for less than about a second of demand, which is what a grant takes at worst.
// Callers hold till.mu.
func (n *Node) low(drop string) bool {
	t := n.till
	return float64(t.book.Untouched(drop)) < t.demand(drop).value(time.Now())
}

// need tells whether to ask for more of a drop, and for how much.
func (s *stocker) need(d *knownDrop, q *question, now time.Time) (wanted uint32, ok bool) {
	n, t := s.n, s.n.till
	if n.Mode() != regionv1.RegionMode_REGION_MODE_SERVING {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	untouched, demand := t.book.Untouched(d.id), t.demand(d.id).value(time.Now())
	switch n.terms(d).State(now) {
	case dropclock.Armed, dropclock.Open:
		ok = untouched == 0 || 2*untouched < q.lastSize || n.low(d.id)
	case dropclock.Draining: // only tokens that are still out can come
		ok = untouched == 0 && demand > 0.1
	}
	size := float64(d.msg.GetUnits()) // the first time fulfillment's own measure is better than any guess here
	if q.lastSize > 0 {
		size = max(2*demand, 2*float64(q.lastSize))
	}
	return uint32(min(max(size, 1), mostWanted)), ok
}

func (s *stocker) question(drop string) *question {
	q := s.questions[drop]
	if q == nil {
		q = &question{}
		s.questions[drop] = q
	}
	return q
}

// ask fetches leases for drops that are about to open or sell.
func (s *stocker) ask(ctx context.Context) error {
	n := s.n
	drops := n.catalogue.Load()
	for id := range s.questions {
		if _, ok := drops.drops[id]; !ok {
			delete(s.questions, id)
		}
	}
	for _, d := range drops.sorted() {
		q := s.question(d.id)
		wanted, ok := s.need(d, q, n.deps.Now())
		if !ok || q.dry {
			continue
		}
		if q.requestID == "" {
			q.requestID, q.wanted = ids.NewV7(n.deps.Now(), n.deps.Random), wanted
		}
		if err := s.grant(ctx, d.id, q); err != nil {
			return err
		}
	}
	return nil
}

func (s *stocker) grant(ctx context.Context, drop string, q *question) error {
	n := s.n
	call, cancel := n.callContext(ctx)
	defer cancel()
	answer, err := n.deps.Stock.GrantLease(call, &fulfillmentv1.GrantLeaseRequest{
		RequestId: q.requestID, NodeId: n.deps.Identity.NodeID, Epoch: n.epoch(), DropId: drop, WantedUnits: q.wanted, BootId: n.bootID,
	})
	if err != nil {
		switch rpcerr.Reason(err) {
		case errorsv1.Reason_REASON_DROP_NOT_FOUND, errorsv1.Reason_REASON_DROP_NOT_OPEN, errorsv1.Reason_REASON_REQUEST_REPLAYED,
			errorsv1.Reason_REASON_NODE_FENCED:
			// Its clock or catalogue differs from ours, or we shall not have this drop; the others need not wait for that.
			n.log.Warn("fulfillment grants nothing", "drop_id", drop, "error", err)
			q.requestID, q.dry = "", true
			return nil
		case errorsv1.Reason_REASON_EPOCH_STALE:
			q.requestID = "" // a new epoch asks anew
		}
		return fmt.Errorf("asking for stock: %w", err)
	}
	if err := s.adopt(ctx, answer.GetLease()); err != nil {
		return err // the same question again: the lease is ours, and not journaled
	}
	q.requestID, q.dry, q.lastSize = "", answer.GetLease() == nil, len(answer.GetLease().GetSerials())
	n.heard(drop, answer.GetSoldOut())
	return nil
}

// adopt journals leases and then sells from them.
func (s *stocker) adopt(ctx context.Context, leases ...*fulfillmentv1.Lease) error {
	n, now := s.n, s.n.deps.Now()
	var fresh []*fulfillmentv1.Lease
	var records []*regionv1.JournalRecord
	for _, l := range leases {
		if l == nil {
			continue
		}
		d, known := n.findDrop(l.GetDropId())
		if l.GetEpoch() != n.epoch() || l.GetNodeId() != n.deps.Identity.NodeID || !known || n.terms(d).State(now) == dropclock.Settled {
			n.log.Warn("lease not adopted", "lease_id", l.GetLeaseId(), "drop_id", l.GetDropId(), "epoch", l.GetEpoch(), "drop_known", known)
			continue
		}
		fresh = append(fresh, l)
		records = append(records, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Leased{Leased: l}})
	}
	if mutant.On(mutant.LeaseUnrecorded) {
		records = nil
	}
	if err := n.append(ctx, records...); err != nil {
		return fmt.Errorf("journaling a lease: %w", err)
	}
	n.till.mu.Lock()
	for _, l := range fresh {
		if n.till.book.Adopt(leaseOf(l)) {
			n.metrics.leased.Add(float64(len(l.GetSerials())))
		}
	}
	n.till.mu.Unlock()
	return nil
}

// heard keeps fulfillment's word about a drop's stock.
func (n *Node) heard(drop string, soldOut bool) {
	t := n.till
	t.mu.Lock()
	word := stockWord{heard: true, soldOut: soldOut}
	changed := t.words[drop] != word
	t.words[drop] = word
	t.mu.Unlock()
	if changed {
		poke(n.pokeBoard)
	}
}

// due tells whether it is time for a heartbeat: at fulfillment's pace, or at once when viewers go away with empty hands
// or show tokens of unknown keys.
func (s *stocker) due(now time.Time) bool {
	if !now.Before(s.heartbeatAt) {
		return true
	}
	if soonest := s.lastBeat.Add(shortestHeartbeat); now.Before(soonest) {
		if s.hurry() {
			s.heartbeatAt = soonest
		}
		return false
	}
	return s.hurry()
}

func (s *stocker) hurry() bool {
	if s.n.keysWanted.Load() {
		return true
	}
	t := s.n.till
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, q := range s.questions {
		if q.dry && t.book.Untouched(id) == 0 && !t.words[id].soldOut && t.demand(id).value(time.Now()) > 0.5 {
			return true
		}
	}
	return false
}

// beat sends a heartbeat when one is due and acts on the answer.
func (s *stocker) beat(ctx context.Context) error {
	n := s.n
	if !s.due(time.Now()) {
		return nil
	}
	request := s.heartbeat()
	s.lastBeat = time.Now()
	n.keysWanted.Store(false)
	call, cancel := n.callContext(ctx)
	defer cancel()
	answer, err := n.deps.Stock.Heartbeat(call, request)
	if err != nil {
		return fmt.Errorf("sending a heartbeat: %w", err)
	}
	n.offers.told(request.GetOffers())
	pace := answer.GetNextIn().AsDuration()
	if pace <= 0 {
		pace = defaultHeartbeat
	}
	s.heartbeatAt = s.lastBeat.Add(max(pace, shortestHeartbeat))
	if answer.GetEpoch() != request.GetEpoch() { // a recall that was meant for the holder of other leases
		return fmt.Errorf("a heartbeat of epoch %d was answered for epoch %d", request.GetEpoch(), answer.GetEpoch())
	}
	if err := n.addKeys(ctx, answer.GetKeys()); err != nil {
		return err
	}
	if n.room.full.Load() { // it all comes again with the next answer, when there may be room
		return nil
	}
	if !mutant.On(mutant.LostGrantIgnored) {
		if err := s.adopt(ctx, answer.GetMissing()...); err != nil {
			return err
		}
	}
	for _, drop := range answer.GetSoldOutDropIds() {
		n.heard(drop, true)
	}
	for _, drop := range answer.GetAvailableDropIds() {
		s.question(drop).dry = false
		n.heard(drop, false)
		poke(n.pokeStock) // ask in the next turn, which begins at once
	}
	if err := s.obeyFence(ctx, answer.GetFencedLeaseIds()); err != nil {
		return err
	}
	for _, r := range answer.GetRecalls() {
		if err := s.giveBack(ctx, r.GetDropId(), int(r.GetUnits())); err != nil {
			return err
		}
	}
	return nil
}

func (s *stocker) heartbeat() *fulfillmentv1.HeartbeatRequest {
	n, now := s.n, s.n.deps.Now()
	request := &fulfillmentv1.HeartbeatRequest{NodeId: n.deps.Identity.NodeID, Epoch: n.epoch(), BootId: n.bootID, Offers: n.offers.news()}
	for _, k := range n.keys.All() {
		if k.GetOwner() != offerv1.KeyOwner_KEY_OWNER_VERIFIER { // those are not fulfillment's to count
			request.KnownKeys++
		}
	}
	drops := n.catalogue.Load().sorted()
	n.till.mu.Lock()
	defer n.till.mu.Unlock()
	for _, h := range n.till.book.Held() {
		if len(request.Held) < mostHeld {
			request.Held = append(request.Held, &fulfillmentv1.HeldLease{LeaseId: h.Lease, DropId: h.Drop, Untouched: uint32(h.Untouched)})
		}
	}
	for _, d := range drops {
		state := n.terms(d).State(now)
		hungry := (state == dropclock.Armed || state == dropclock.Open || state == dropclock.Draining) &&
			n.Mode() == regionv1.RegionMode_REGION_MODE_SERVING && !n.room.full.Load() && n.till.book.Untouched(d.id) == 0
		if hungry && len(request.HungryDropIds) < mostHungry {
			request.HungryDropIds = append(request.HungryDropIds, d.id)
		}
	}
	return request
}

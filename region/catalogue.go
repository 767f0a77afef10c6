package region

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/decide"
)

// keepSettled is how long after its close a settled drop can still be asked for, so that a late player hears SETTLED
// and not "unknown". At zero every drop's last viewers would see an error.
const keepSettled = time.Hour

// knownDrop is one drop as the node serves it. Immutable.
type knownDrop struct {
	id    string
	msg   *fulfillmentv1.CatalogDrop // as journaled
	terms decide.Terms               // as planned: see Node.terms

	depots []depot
}

// catalogue is all drops at one revision. Immutable. heard is when fulfillment last told this process of
// it, zero before it did.
type catalogue struct {
	drops    map[string]*knownDrop
	revision int64
	heard    time.Time
}

func newKnownDrop(m *fulfillmentv1.CatalogDrop) *knownDrop {
	d := &knownDrop{id: m.GetDrop().GetDropId(), msg: m, depots: depotsOf(m), terms: decide.Terms{
		Open:         m.GetDrop().GetOpenTime().AsTime(),
		Close:        m.GetDrop().GetCloseTime().AsTime(),
		Paused:       m.GetDrop().GetState() == offerv1.DropState_DROP_STATE_PAUSED,
		Settled:      m.GetDrop().GetState() == offerv1.DropState_DROP_STATE_SETTLED,
		MaxPerViewer: int(m.GetMaxPerViewer()),
		ArmSalt:      m.GetArmSalt(),
	}}
	if planned := m.GetDrop().GetPlannedCloseTime(); planned != nil {
		d.terms.Close = planned.AsTime()
	}
	for _, a := range m.GetArms() {
		d.terms.Arms = append(d.terms.Arms, decide.Arm{Name: a.GetName(), Weight: a.GetWeight(), TTL: a.GetTokenTtl().AsDuration()})
	}
	return d
}

// terms are what a drop is served by now: the planned window, and what was given back of it after late answers, if that is
// fulfillment's signed word. Until its key is known here, the drop closes as planned.
func (n *Node) terms(d *knownDrop) decide.Terms {
	t := d.terms
	if d.msg.GetDrop().GetPlannedCloseTime() == nil {
		return t
	}
	if w, err := n.openTimeBack(d); err == nil {
		t.Close, t.Back = w.Close, w.Extra()
	}
	return t
}

// openTimeBack verifies what a drop says was given back; package token remembers what verified.
func (n *Node) openTimeBack(d *knownDrop) (timeback.Window, error) {
	raw, err := ids.Bytes(d.id)
	if err != nil {
		return timeback.Window{}, err
	}
	w, err := timeback.Open(&n.keys, raw, d.msg.GetDrop().GetTimeBack())
	if err == nil && !w.Planned.Equal(d.terms.Close) {
		err = fmt.Errorf("%w: time back after %v, where the drop was planned to close at %v", token.ErrForged, w.Planned, d.terms.Close)
	}
	return w, err
}

// sorted lists the drops in the order of their opening.
func (c *catalogue) sorted() []*knownDrop {
	return slices.SortedFunc(maps.Values(c.drops), func(a, b *knownDrop) int {
		return cmp.Or(a.terms.Open.Compare(b.terms.Open), cmp.Compare(a.id, b.id))
	})
}

// frozenTerms is the part of a drop that may not change once it is ARMED: what tokens were or will be made from. Its
// window is not: an operator may extend or close it, and fulfillment extends it after late answers; nor are its depots,
// which come and go.
func frozenTerms(m *fulfillmentv1.CatalogDrop) *fulfillmentv1.CatalogDrop {
	m = proto.CloneOf(m)
	m.Drop.State, m.Drop.Revision, m.Drop.Availability = 0, 0, 0
	m.Drop.OpenTime, m.Drop.CloseTime, m.Drop.PlannedCloseTime, m.Drop.TimeBack = nil, nil, nil, ""
	m.Depots = nil
	return m
}

// merge is what the node will serve of a drop when the catalogue sends it. Terms are frozen at ARMED: what comes later
// changes the state and the window and nothing else, and tampered says that more was tried.
func merge(old *knownDrop, sent *fulfillmentv1.CatalogDrop, now time.Time) (next *fulfillmentv1.CatalogDrop, tampered bool) {
	if old == nil || old.terms.State(now) < dropclock.Armed {
		next = proto.CloneOf(sent)
		next.Drop.Availability = 0 // the till's to say
		return next, false
	}
	next = proto.CloneOf(old.msg)
	next.Drop.State = sent.GetDrop().GetState()
	next.Drop.OpenTime, next.Drop.CloseTime = sent.GetDrop().GetOpenTime(), sent.GetDrop().GetCloseTime()
	next.Drop.PlannedCloseTime, next.Drop.TimeBack = sent.GetDrop().GetPlannedCloseTime(), sent.GetDrop().GetTimeBack()
	next.Drop.Revision = sent.GetDrop().GetRevision()
	next.Depots = sent.GetDepots()
	if proto.Equal(frozenTerms(old.msg), frozenTerms(sent)) {
		return next, false
	}
	// Tokens name the revision of the terms: those that are served did not change.
	next.Drop.Revision = old.msg.GetDrop().GetRevision()
	return next, true
}

// followCatalogue keeps the catalogue up to date until ctx ends.
func (n *Node) followCatalogue(ctx context.Context) error {
	wait := n.newBackoff()
	for ctx.Err() == nil {
		err := n.watchCatalogue(ctx, wait)
		if ctx.Err() != nil {
			break // asked to stop: how the stream took that is no news
		}
		n.log.Log(ctx, rpcerr.Level(err), "catalogue stream ended", "error", err)
		wait.sleep(ctx)
	}
	return nil //nolint:nilerr // it ends when it is asked to
}

func (n *Node) watchCatalogue(ctx context.Context, wait *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.deps.Catalog.WatchCatalog(ctx, &fulfillmentv1.WatchCatalogRequest{AfterRevision: n.CatalogRevision()})
	if err != nil {
		return fmt.Errorf("watching the catalogue: %w", err)
	}
	silence := time.AfterFunc(streamSilence, cancel)
	defer silence.Stop()
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watching the catalogue: %w", err)
		}
		silence.Reset(streamSilence)
		wait.reset()
		if err := n.applyCatalogue(ctx, m); err != nil {
			return err
		}
	}
}

// applyCatalogue journals what changes, then serves it.
func (n *Node) applyCatalogue(ctx context.Context, m *fulfillmentv1.WatchCatalogResponse) error {
	old, now := n.catalogue.Load(), n.deps.Now()
	next := &catalogue{drops: maps.Clone(old.drops), revision: max(old.revision, m.GetRevision()), heard: now}
	if m.GetSnapshot() {
		next.revision = m.GetRevision()
	}
	var records []*regionv1.JournalRecord
	change := func(d *fulfillmentv1.CatalogDrop) {
		known := newKnownDrop(d)
		if was := old.drops[known.id]; was != nil && proto.Equal(was.msg, d) {
			return
		}
		next.drops[known.id] = known
		if d.GetDrop().GetPlannedCloseTime() != nil {
			if _, err := n.openTimeBack(known); n.wantKeys(err) != nil {
				n.log.Warn("a later close is not honoured: the word for it is not fulfillment's, as far as is known here", "drop_id", known.id, "error", err)
			}
		}
		records = append(records, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Drop{Drop: d}})
	}
	sent := map[string]bool{}
	for _, d := range m.GetDrops() {
		if d.GetDrop().GetDropId() == "" || d.GetDrop().GetPrice() == nil {
			n.log.Error("the catalogue sent a drop without an id or a price")
			continue
		}
		id := d.GetDrop().GetDropId()
		sent[id] = true
		merged, tampered := merge(old.drops[id], d, now)
		if tampered {
			n.log.Warn("change of a frozen drop's terms ignored", "drop_id", id, "revision", d.GetDrop().GetRevision())
		}
		change(merged)
	}
	if m.GetSnapshot() { // what is not in it is over
		for _, d := range old.sorted() {
			if !sent[d.id] && !d.terms.Settled {
				over := proto.CloneOf(d.msg)
				over.Drop.State = offerv1.DropState_DROP_STATE_SETTLED
				change(over)
			}
		}
	}
	if err := n.append(ctx, records...); err != nil {
		return err
	}
	n.publishCatalogue(next, now)
	return nil
}

// publishCatalogue serves a catalogue from here on, without drops that are over for long.
func (n *Node) publishCatalogue(next *catalogue, now time.Time) {
	for id, d := range next.drops {
		if !d.terms.Settled {
			continue
		}
		n.till.forget(id)
		if now.Sub(d.terms.Close) > keepSettled {
			delete(next.drops, id)
		}
	}
	n.catalogue.Store(next)
	poke(n.pokeBoard)
	poke(n.pokeStock)
}

// findDrop is the drop that viewers may ask about.
func (n *Node) findDrop(id string) (*knownDrop, bool) {
	d, ok := n.catalogue.Load().drops[id]
	return d, ok
}

// newsTakes is how old what fulfillment says may be when it arrives, clocks included, and dropRetry when to ask again: the
// next proof of life brings what a change's own message did not.
const newsTakes, dropRetry = streamSilence, 500 * time.Millisecond

// noDrop is the answer for a drop that findDrop does not find. A node that has not read the catalogue since the drop was
// planned may not know it: it may well be for sale elsewhere.
func (n *Node) noDrop(id string) error {
	heard := n.catalogue.Load().heard
	if heard.IsZero() {
		return errDraining()
	}
	if made, ok := ids.MadeAt(id); ok && made.After(heard.Add(-newsTakes)) && made.Before(n.deps.Now().Add(dropclock.Grace)) {
		return refuse(errorsv1.Reason_REASON_DROP_NOT_HEARD_OF, "this node has not heard of the drop yet; another may have",
			"drop_id", id).retry(dropRetry)
	}
	return refuse(errorsv1.Reason_REASON_DROP_NOT_FOUND, "no drop has this id", "drop_id", id)
}

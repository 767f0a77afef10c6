package world

import (
	"context"
	"slices"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// Board is what one observer of drops knew in the end, over all its streams: each goes on where the one before broke off.
type Board struct {
	Stream string // "catalogue", or the region whose WatchDrops it was
	// Drops are the revision of each drop in the catalogue, or its state as viewers see it.
	Drops map[string]int64
	// Of the catalogue: Backwards counts messages behind what was told before, Repeats those that say again what was said,
	// Restarts streams that began anew though they were to go on, and Missed changes that a message's revision stands for
	// and that were not told by then, though the next change of the drop would hide it.
	Backwards, Repeats, Restarts, Missed int
}

// Gone is the state of a drop that a region showed and shows no more.
const Gone = -1

// over tells that a region's viewers know that a drop is settled: a node on an empty disk never hears of one that is.
func (b *Board) over(drop string) bool {
	state := b.Drops[drop]
	return state == Gone || state == int64(offerv1.DropState_DROP_STATE_SETTLED)
}

// Told is what one stream of WatchPurchase said: the states, in their order.
type Told struct {
	PurchaseID, Region string
	States             []int
}

// boardObserver keeps a board.
type boardObserver struct {
	w    *world
	got  Board // guarded by the witness' mutex
	seen func(context.Context, *boardObserver) (bool, error)
	// read one stream until it breaks, and call heard for each message.
	read func(ctx context.Context, o *boardObserver, heard func()) error

	revision int64  // the catalogue's
	resume   string // a region's
	turn     int    // which of a region's processes is asked
}

func (w *world) startBoards(ctx context.Context) {
	w.boards = []*boardObserver{{w: w, got: Board{Stream: "catalogue", Drops: map[string]int64{}}, read: readCatalogue, seen: seenCatalogue}}
	for _, region := range w.cfg.Regions {
		w.boards = append(w.boards, &boardObserver{
			w: w, got: Board{Stream: region, Drops: map[string]int64{}}, read: readDrops, seen: seenDrops,
		})
	}
	for _, o := range w.boards {
		w.background.Go(func() {
			w.keepWatching(ctx, o.got.Stream, func(ctx context.Context, heard func()) error { return o.read(ctx, o, heard) })
		})
	}
}

func readCatalogue(ctx context.Context, o *boardObserver, heard func()) error {
	stream, err := fulfillmentv1.NewCatalogServiceClient(o.w.net.Conn("observer", "fulfillment")).
		WatchCatalog(ctx, &fulfillmentv1.WatchCatalogRequest{AfterRevision: o.revision})
	for err == nil {
		var m *fulfillmentv1.WatchCatalogResponse
		if m, err = stream.Recv(); err == nil {
			heard()
			o.takeCatalogue(m)
			o.holdToStore(ctx)
		}
	}
	return err
}

func (o *boardObserver) takeCatalogue(m *fulfillmentv1.WatchCatalogResponse) {
	o.w.watch.mu.Lock()
	defer o.w.watch.mu.Unlock()
	if m.GetSnapshot() {
		if o.revision > 0 {
			o.got.Restarts++
		}
		o.revision = 0
		clear(o.got.Drops)
	}
	if m.GetRevision() < o.revision {
		o.got.Backwards++
	}
	before := o.revision
	for _, d := range m.GetDrops() {
		id, revision := d.GetDrop().GetDropId(), d.GetDrop().GetRevision()
		switch {
		case revision <= before:
			o.got.Repeats++
		case revision < o.revision || revision > m.GetRevision():
			o.got.Backwards++
		}
		o.revision = max(o.revision, revision)
		o.got.Drops[id] = revision
	}
	o.revision = max(o.revision, m.GetRevision())
}

// holdToStore looks for drops that are as they were at the last message's revision, and that no message told so. A
// settled drop is in no snapshot, and a store that was restored has other revisions.
func (o *boardObserver) holdToStore(ctx context.Context) {
	if o.w.cfg.restores("fulfillment") {
		return
	}
	stored, err := revisions(ctx, o.w.centre.stockDB)
	if err != nil {
		if ctx.Err() == nil {
			o.w.watch.surprise("reading the catalogue's revisions: %v", err)
		}
		return
	}
	o.w.watch.mu.Lock()
	defer o.w.watch.mu.Unlock()
	for id, revision := range stored {
		if told, ok := o.got.Drops[id]; ok && revision <= o.revision && revision != told {
			o.got.Missed++
		}
	}
}

func seenCatalogue(ctx context.Context, o *boardObserver) (bool, error) {
	var last int64
	err := o.w.centre.stockDB.Read().QueryRowContext(ctx, `SELECT COALESCE(MAX(revision), 0) FROM drops`).Scan(&last)
	return o.revision >= last, err
}

func readDrops(ctx context.Context, o *boardObserver, heard func()) error {
	o.turn++ // a process that was replaced stays away
	stream, err := offerv1.NewOfferServiceClient(o.w.net.Conn("observer", o.w.reach(o.got.Stream, o.turn))).
		WatchDrops(ctx, &offerv1.WatchDropsRequest{ResumeToken: o.resume})
	for err == nil {
		var m *offerv1.WatchDropsResponse
		if m, err = stream.Recv(); err == nil {
			heard()
			o.takeDrops(m)
		}
	}
	return err
}

func (o *boardObserver) takeDrops(m *offerv1.WatchDropsResponse) {
	o.w.watch.mu.Lock()
	defer o.w.watch.mu.Unlock()
	o.resume = m.GetResumeToken()
	show := func(d *offerv1.Drop) { o.got.Drops[d.GetDropId()] = int64(d.GetState()) }
	switch event := m.GetEvent().(type) {
	case *offerv1.WatchDropsResponse_Snapshot:
		for id := range o.got.Drops {
			o.got.Drops[id] = Gone
		}
		for _, d := range event.Snapshot.GetDrops() {
			show(d)
		}
	case *offerv1.WatchDropsResponse_Changed:
		show(event.Changed)
	}
}

func seenDrops(_ context.Context, o *boardObserver) (bool, error) {
	return !slices.ContainsFunc(o.w.drops, func(id string) bool { return !o.got.over(id) }), nil
}

// keepWatching reads streams, one after the other, until ctx ends.
func (w *world) keepWatching(ctx context.Context, what string, read func(ctx context.Context, heard func()) error) {
	for ctx.Err() == nil {
		inner, cancel := context.WithCancel(ctx)
		silence := time.AfterFunc(observerPatience, cancel) // a stream that a cut swallowed says nothing
		err := read(inner, func() { silence.Reset(observerPatience) })
		silence.Stop()
		if !elsewhere(err) && inner.Err() == nil {
			w.watch.surprise("watching %s: %v", what, err)
		}
		cancel()
		sleep(ctx, time.Second)
	}
}

// readBoards adds the boards, and the truth about them.
func (w *world) readBoards(ctx context.Context, e *Evidence) error {
	w.watch.mu.Lock()
	for _, o := range w.boards {
		e.Boards = append(e.Boards, o.got)
	}
	e.Told = w.watch.told
	w.watch.mu.Unlock()
	var err error
	e.Revisions, err = revisions(ctx, w.centre.stockDB)
	return err
}

// revisions are those of all drops.
func revisions(ctx context.Context, db *sqldb.DB) (map[string]int64, error) {
	type row struct {
		id       []byte
		revision int64
	}
	var all []row
	err := rows(ctx, db, &all, func(scan func(...any) error) (r row, err error) { return r, scan(&r.id, &r.revision) },
		`SELECT drop_id, revision FROM drops`)
	byDrop := map[string]int64{}
	for _, r := range all {
		byDrop[uuid(r.id)] = r.revision
	}
	return byDrop, err
}

package region

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/region/shorthand"
)

// snapshots is the state of whoever writes them: New first, then one loop, then Run.
type snapshots struct {
	unread  atomic.Int64 // records since the loop was woken
	trusted int64        // the start believed the snapshots up to here, and Scrub reads those records again
	saved   int64        // the newest one's last record
	read    int64        // the last record that is in text
	text    shorthand.Writer
}

// begin is called when the node has been rebuilt from snapshots up to a record.
func (s *snapshots) begin(through int64) { s.trusted, s.saved, s.read = through, through, through }

// replaySnapshots rebuilds the node as far as the snapshots go, and tells how far that is. When anything about them is not
// as it should be, it is as if there were none.
func (n *Node) replaySnapshots(ctx context.Context) (through int64, next *catalogue, err error) {
	r := &snapshotReader{n: n, next: &catalogue{drops: map[string]*knownDrop{}}}
	err = n.deps.Journal.ReadSnapshots(ctx, r.read)
	if err == nil && n.till.lastSale > 0 {
		err = n.replayChain(ctx)
	}
	if err == nil {
		n.till.past.loaded, n.offered = n.till.past.count, r.through
		return r.through, r.next, nil
	}
	if ctx.Err() != nil {
		return 0, nil, err
	}
	n.log.Error("the snapshots are ignored: the whole journal is read", "error", err)
	n.metrics.snapshots.WithLabelValues("ignored").Inc()
	n.till, n.life, n.superseded = newTill(), 0, ""
	n.takeMode(&regionv1.ModeChanged{Mode: regionv1.RegionMode_REGION_MODE_SERVING})
	return 0, &catalogue{drops: map[string]*knownDrop{}}, nil
}

// replayChain finds where the chain of receipts goes on.
func (n *Node) replayChain(ctx context.Context) error {
	text, err := n.readReceipt(ctx, n.till.lastSale)
	if err != nil {
		return err
	}
	s, err := readSale(n.till.lastSale, text)
	if err != nil {
		return err
	}
	n.till.chain(text, s.acceptTime)
	return nil
}

// snapshotReader replays snapshots. It is a shorthand.Reader.
type snapshotReader struct {
	n       *Node
	next    *catalogue
	through int64 // everything up to here is in the node
}

func (r *snapshotReader) read(s journal.Snapshot) error {
	items, err := shorthand.Read(s.Payload, r)
	if err == nil && items != s.Through-s.After {
		err = fmt.Errorf("it has %d items", items)
	}
	if err != nil {
		return fmt.Errorf("the snapshot of records %d to %d: %w", s.After+1, s.Through, err)
	}
	r.through = s.Through
	return nil
}

// Record implements shorthand.Reader.
func (r *snapshotReader) Record(place int64, record []byte) error {
	var m regionv1.JournalRecord
	if err := proto.Unmarshal(record, &m); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	return r.n.replayRecord(r.through+place, &m, r.next)
}

// Sale implements shorthand.Reader.
func (r *snapshotReader) Sale(place int64, s shorthand.Sale) error {
	t, sequence := r.n.till, r.through+place
	if mutant.On(mutant.SnapshotForgets) {
		return nil
	}
	if err := t.book.Use(s.Unit); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	drop := t.past.add(sequence, s)
	t.count(t.past.drops[drop].id, s.Session, 1)
	t.lastSale = sequence
	return nil
}

// Outcome implements shorthand.Reader.
func (r *snapshotReader) Outcome(place int64, o shorthand.Outcome) error {
	t := r.n.till
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cursor = max(t.cursor, o.Cursor)
	if s := t.past.find(o.Purchase); s != nil {
		t.learnPast(s, r.through+place, o.State)
	}
	return nil
}

// find is the sale of a purchase; nil: it was not made here. What a snapshot stands for is read from the journal. A sale of
// which news may come is kept, so that all who watch it hear of them.
func (n *Node) find(ctx context.Context, purchaseID string) (*sale, error) {
	t := n.till
	for {
		t.mu.Lock()
		s, old := t.sales[purchaseID], t.inPast(purchaseID)
		var was pastSale
		if old != nil {
			was = *old
		}
		t.mu.Unlock()
		if s != nil || old == nil {
			return s, nil
		}
		s, err := n.readPast(ctx, was)
		if err != nil {
			return nil, err
		}
		t.mu.Lock()
		newer, same := t.sales[purchaseID], *t.inPast(purchaseID) == was
		s.settled = t.past.drops[was.drop].settled
		if newer == nil && same && !s.settled && !final(s.purchase.GetState()) {
			t.sales[purchaseID] = s
		}
		t.mu.Unlock()
		if newer != nil {
			return newer, nil
		}
		if same {
			return s, nil
		}
	}
}

// readPast reads what the journal says of a sale.
func (n *Node) readPast(ctx context.Context, was pastSale) (*sale, error) {
	text, err := n.readReceipt(ctx, was.sequence)
	if err != nil {
		return nil, err
	}
	s, err := readSale(was.sequence, text)
	if err != nil || was.outcome == 0 {
		return s, err
	}
	m, err := n.readRecord(ctx, was.outcome)
	if err != nil {
		return nil, err
	}
	s.purchase, s.news = m.GetOutcome().GetPurchase(), was.outcome
	return s, nil
}

// grown counts records that are durable.
func (n *Node) grown(records int) {
	if most := int64(n.cfg.SnapshotRecords); n.snapshots.unread.Add(int64(records)) >= most {
		n.snapshots.unread.Store(0)
		poke(n.pokeSnapshot)
	}
}

// keepSnapshots writes one whenever there are enough records for it, until ctx ends.
func (n *Node) keepSnapshots(ctx context.Context) error {
	for {
		select {
		case <-n.pokeSnapshot:
		case <-ctx.Done():
			return nil
		}
		err := n.snapshot(ctx, n.cfg.SnapshotRecords)
		switch {
		case ctx.Err() != nil, errors.Is(err, journal.ErrClosed):
			return nil //nolint:nilerr // asked to stop: the records stay where they are
		case errors.Is(err, journal.ErrNoSpace): // another time: there will be more records
			n.log.Warn("no room for a snapshot", "error", err)
		case err != nil:
			n.fail(err)
			return err
		}
	}
}

// lastSnapshot is an orderly stop's: the next start has nothing to replay. A journal that never had snapshots may need more
// of them than a stop may take: what is written counts, and the next start reads the rest.
func (n *Node) lastSnapshot(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	err := n.snapshot(ctx, 1)
	switch {
	case err == nil, errors.Is(err, journal.ErrClosed):
	case ctx.Err() != nil:
		n.log.Warn("stopped before all snapshots were written; the next start reads the rest of the journal", "snapshots_through", n.snapshots.saved)
	default:
		n.log.Warn("the last snapshot was not written", "error", err)
	}
}

// snapshot writes down what the journal has, if that is at least so many records. It reads what is durable and takes part
// in nothing else: viewers wait for none of it.
func (n *Node) snapshot(ctx context.Context, atLeast int) error {
	s := &n.snapshots
	for {
		if err := ctx.Err(); err != nil { // between two of them: one that is begun is finished
			return err
		}
		records, err := n.deps.Journal.ReadAfter(ctx, s.read, min(readRecords, n.cfg.SnapshotRecords-s.text.Items()))
		if err != nil {
			return fmt.Errorf("reading the journal for a snapshot: %w", err)
		}
		for _, r := range records {
			if err := s.text.Add(r.Payload); err != nil {
				return fmt.Errorf("writing record %d short: %w", r.Sequence, err)
			}
			s.read = r.Sequence
		}
		if len(records) > 0 && s.text.Items() < n.cfg.SnapshotRecords {
			continue
		}
		if s.text.Items() < atLeast {
			return nil
		}
		if err := n.saveSnapshot(ctx); err != nil {
			return err
		}
	}
}

// saveSnapshot makes durable what was written, and then forgets what can be read again.
func (n *Node) saveSnapshot(ctx context.Context) error {
	s := &n.snapshots
	snapshot := journal.Snapshot{After: s.saved, Through: s.read, Payload: s.text.Text()}
	if err := n.deps.Journal.SaveSnapshot(ctx, snapshot); err != nil {
		n.metrics.snapshots.WithLabelValues("failed").Inc()
		s.text, s.read = shorthand.Writer{}, s.saved // read anew, if there is another time
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	n.metrics.snapshots.WithLabelValues("saved").Inc()
	if _, err := shorthand.Read(snapshot.Payload, &settler{t: n.till, after: s.saved}); err != nil {
		return err
	}
	s.text, s.saved = shorthand.Writer{}, s.read
	return nil
}

// settler makes what a snapshot stands for the past. It is a shorthand.Reader. It holds the till for one item at a time.
type settler struct {
	t     *till
	after int64
}

// Record implements shorthand.Reader.
func (*settler) Record(int64, []byte) error { return nil }

// Sale implements shorthand.Reader.
func (r *settler) Sale(place int64, s shorthand.Sale) error {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	r.t.past.add(r.after+place, s)
	r.t.retire(s.Purchase.String())
	return nil
}

// Outcome implements shorthand.Reader. What it says was counted when it came.
func (r *settler) Outcome(place int64, o shorthand.Outcome) error {
	t := r.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.past.find(o.Purchase); s != nil {
		if ended := s.outcome > 0 && final(s.state); r.after+place > s.outcome && (!ended || s.state == o.State) {
			s.outcome, s.state = r.after+place, o.State
		}
		t.retire(o.Purchase.String())
	}
	return nil
}

// scrubRest is the pause after 500 records that are read again: at half, viewers of a busy node notice its start; at
// double, a damaged record is found later.
const scrubRest = 5 * time.Millisecond

// scrub reads the records again that the snapshots stood for at the start. One that is damaged stops the node: what was
// promised in it is not known any more.
func (n *Node) scrub(ctx context.Context) error {
	if n.snapshots.trusted == 0 {
		return nil
	}
	begin := time.Now()
	err := journal.Scrub(ctx, n.deps.Journal, n.snapshots.trusted, scrubRest)
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // asked to stop
	case err != nil:
		err = fmt.Errorf("reading the journal again: %w", err)
		n.fail(err)
		return err
	}
	n.log.Info("the journal behind the snapshots is as it was written", "records", n.snapshots.trusted, "took_ms", time.Since(begin).Milliseconds())
	return nil
}

package region

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/journal"
)

const (
	// batchEntries is what one message and one transaction of the verifier take.
	batchEntries = 100
	// windowEntries may be unacknowledged on the way. At half, a far verifier waits for us; at double, a cut stream sends
	// twice as much again.
	windowEntries = 1000
	// readRecords is one look into the journal.
	readRecords = 500
	// ackPatience is how long entries may be on their way without any acknowledgement, before the stream counts as dead. At
	// half, a verifier under load is asked twice; at double, a silent cut delays settlement for longer.
	ackPatience = 10 * time.Second
)

type submitStream = grpc.BidiStreamingClient[verifierv1.SubmitRedemptionsRequest, verifierv1.SubmitRedemptionsResponse]

// forward brings the journal to the verifier and its news back, until ctx ends.
func (n *Node) forward(ctx context.Context) error {
	wait := n.newBackoff()
	for ctx.Err() == nil {
		err := n.forwardOnce(ctx, wait)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop: how the stream took that is no news
		case errors.Is(err, ErrJournalBehind):
			return err
		}
		n.log.Log(ctx, rpcerr.Level(err), "forwarding stream ended", "error", err, "journal_lag", n.till.lag())
		n.metrics.forwardBreaks.Inc()
		wait.sleep(ctx)
	}
	return nil
}

// forwardOnce is one stream's life. It always ends with an error.
func (n *Node) forwardOnce(ctx context.Context, wait *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.endStream.Store(&cancel)
	n.room.missed.Store(false)
	stream, err := n.deps.Verifier.SubmitRedemptions(ctx)
	if err != nil {
		return fmt.Errorf("opening the stream: %w", err)
	}
	n.till.mu.Lock()
	cursor, newest := n.till.cursor, max(n.till.lastSale, n.sent)
	n.till.mu.Unlock()
	err = stream.Send(&verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Hello{Hello: &verifierv1.Hello{
		NodeId: n.deps.Identity.NodeID, Region: n.cfg.Region, OutcomeCursor: cursor, JournalId: n.journalID(), JournalHead: &newest,
	}}})
	if err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	start, err := n.receiveStart(ctx, cancel, stream)
	if err != nil {
		return err
	}
	wait.reset()
	w := newWindow(cancel)
	defer w.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cancel() // a send waits for flow control, which a dead stream never gives
		return n.receiveNews(ctx, stream, w)
	})
	g.Go(func() error {
		defer cancel()
		return n.sendEntries(ctx, stream, w, start)
	})
	g.Go(func() error { return n.fetchVerifierKeys(ctx) })
	return g.Wait()
}

// receiveStart waits for the first acknowledgement: where to go on from.
func (n *Node) receiveStart(ctx context.Context, cancel context.CancelFunc, stream submitStream) (int64, error) {
	silence := time.AfterFunc(n.cfg.CallTimeout, cancel)
	defer silence.Stop()
	for {
		m, err := stream.Recv()
		if err != nil {
			return 0, fmt.Errorf("waiting for the first acknowledgement: %w", err)
		}
		if m.GetAcknowledgement() == nil { // news may come first
			if err := n.takeNews(ctx, m); err != nil {
				return 0, err
			}
			continue
		}
		start := m.GetAcknowledgement().GetSequence()
		// That the record exists says little: an old copy of a journal may have grown past it before the verifier answers.
		if start > n.offered {
			return 0, fmt.Errorf("%w: it acknowledged record %d, of %d that it can know", ErrJournalBehind, start, n.offered)
		}
		n.till.forwarded(start)
		poke(n.pokeDrained)
		if mutant.On(mutant.ForwardFromSent) {
			return n.offered, nil
		}
		return start, nil
	}
}

// window bounds what is on its way.
type window struct {
	freed    chan struct{} // of one
	patience *time.Timer   // runs while anything is unacknowledged

	mu    sync.Mutex
	sent  []int64                  // unacknowledged sequences, ascending
	spans map[int64]telemetry.Span // of those that are traced
}

// newWindow calls giveUp when acknowledgements stay away.
func newWindow(giveUp func()) *window {
	w := &window{freed: make(chan struct{}, 1), patience: time.AfterFunc(ackPatience, giveUp)}
	w.patience.Stop()
	return w
}

func (w *window) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

func (w *window) add(batch []*verifierv1.JournalEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sent) == 0 {
		w.patience.Reset(ackPatience)
	}
	for _, e := range batch {
		w.sent = append(w.sent, e.GetSequence())
	}
}

func (w *window) acknowledge(sequence int64) {
	w.mu.Lock()
	i, found := slices.BinarySearch(w.sent, sequence)
	if found {
		i++
	}
	w.sent = slices.Delete(w.sent, 0, i)
	if len(w.sent) == 0 {
		w.patience.Stop()
	} else {
		w.patience.Reset(ackPatience)
	}
	over := w.arrived(sequence)
	w.mu.Unlock()
	for _, span := range over {
		span.End()
	}
	poke(w.freed)
}

// trace begins the span of an entry's way to the verifier.
func (w *window) trace(tracer *telemetry.Tracer, e *verifierv1.JournalEntry) {
	var receipt offerv1.Receipt
	if tracer == nil || token.DecodeTrusted(e.GetReceipt(), &receipt) != nil {
		return
	}
	if _, span := tracer.Resume(context.Background(), receipt.GetTraceContext(), "region.forward"); span.On() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.spans == nil {
			w.spans = map[int64]telemetry.Span{}
		}
		w.spans[e.GetSequence()] = span
	}
}

// arrived are the spans of entries up to a sequence, which are over. Callers hold mu.
func (w *window) arrived(sequence int64) (over []telemetry.Span) {
	for s, span := range w.spans {
		if s <= sequence {
			over = append(over, span)
			delete(w.spans, s)
		}
	}
	return over
}

// close ends what is still open when the stream is over.
func (w *window) close() {
	w.patience.Stop()
	w.mu.Lock()
	over := w.arrived(math.MaxInt64)
	w.mu.Unlock()
	for _, span := range over {
		span.End()
	}
}

// sendEntries sends the journal's redemptions from a sequence on, as they come.
func (n *Node) sendEntries(ctx context.Context, stream submitStream, w *window, after int64) error {
	for {
		records, err := n.deps.Journal.ReadAfter(ctx, after, readRecords)
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		var batch []*verifierv1.JournalEntry
		for _, r := range records {
			after = r.Sequence
			var m regionv1.JournalRecord
			if err := proto.Unmarshal(r.Payload, &m); err != nil {
				return fmt.Errorf("decoding record %d: %w", r.Sequence, err)
			}
			if seal := m.GetSealed(); seal != nil {
				if err := n.sendSeal(ctx, stream, w, batch, r.Sequence, seal.GetEpoch()); err != nil {
					return err
				}
				batch = nil
			}
			if m.GetRedeemed() == "" {
				continue
			}
			batch = append(batch, &verifierv1.JournalEntry{Sequence: r.Sequence, Receipt: m.GetRedeemed()})
			if len(batch) == batchEntries {
				if err := n.send(ctx, stream, w, batch); err != nil {
					return err
				}
				batch = nil
			}
		}
		if len(batch) > 0 {
			if err := n.send(ctx, stream, w, batch); err != nil {
				return err
			}
		}
		if len(records) > 0 {
			continue
		}
		select {
		case <-n.pokeOutbox:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Node) send(ctx context.Context, stream submitStream, w *window, batch []*verifierv1.JournalEntry) error {
	for w.len()+len(batch) > windowEntries {
		select {
		case <-w.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, e := range batch {
		w.trace(n.deps.Traces, e)
	}
	w.add(batch)
	n.sent = max(n.sent, batch[len(batch)-1].GetSequence())
	n.offered = max(n.offered, n.sent)
	err := stream.Send(&verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Batch{
		Batch: &verifierv1.EntryBatch{Entries: batch},
	}})
	if err != nil {
		return fmt.Errorf("sending entries: %w", err)
	}
	return nil
}

// sendSeal sends what comes before the journal's end, and that it ends.
func (n *Node) sendSeal(ctx context.Context, stream submitStream, w *window, before []*verifierv1.JournalEntry, sequence, epoch int64) error {
	if len(before) > 0 {
		if err := n.send(ctx, stream, w, before); err != nil {
			return err
		}
	}
	n.till.sealAt(sequence)
	n.till.mu.Lock()
	last := n.till.lastSale
	n.till.mu.Unlock()
	w.add([]*verifierv1.JournalEntry{{Sequence: sequence}})
	n.offered = max(n.offered, sequence)
	err := stream.Send(&verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Seal{
		Seal: &verifierv1.Seal{Sequence: sequence, LastEntrySequence: last, Epoch: epoch},
	}})
	if err != nil {
		return fmt.Errorf("sending the seal: %w", err)
	}
	return nil
}

// receiveNews takes in what the verifier tells. The stream may be silent for long: keepalive tells whether it lives.
func (n *Node) receiveNews(ctx context.Context, stream submitStream, w *window) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		if ack := m.GetAcknowledgement(); ack != nil {
			w.acknowledge(ack.GetSequence())
		}
		if err := n.takeNews(ctx, m); err != nil {
			return err
		}
	}
}

func (n *Node) takeNews(ctx context.Context, m *verifierv1.SubmitRedemptionsResponse) error {
	switch m := m.GetMessage().(type) {
	case *verifierv1.SubmitRedemptionsResponse_Acknowledgement:
		for _, sequence := range m.Acknowledgement.GetRejectedSequences() {
			n.log.Error("the verifier rejected a redemption", "sequence", sequence)
			n.metrics.rejected.Inc()
		}
		n.till.forwarded(m.Acknowledgement.GetSequence())
		poke(n.pokeDrained)
	case *verifierv1.SubmitRedemptionsResponse_Keys:
		return n.addKeys(ctx, m.Keys.GetKeys())
	case *verifierv1.SubmitRedemptionsResponse_Outcomes:
		return n.takeOutcomes(ctx, m.Outcomes)
	}
	return nil
}

// takeOutcomes tells viewers first and the journal second: news that a crash loses comes again from the older cursor. News
// for which there is no room leaves the cursor where it is, so that nothing is skipped, and is read again when there is.
func (n *Node) takeOutcomes(ctx context.Context, m *verifierv1.OutcomeBatch) error {
	var records []*regionv1.JournalRecord
	var later []func(sequence int64)
	for _, p := range m.GetPurchases() {
		ours, told := n.till.learn(p, unwritten)
		if !ours {
			continue
		}
		records = append(records, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Outcome{
			Outcome: &regionv1.OutcomeSeen{Cursor: m.GetCursor(), Purchase: p},
		}})
		if told {
			later = append(later, func(sequence int64) { n.till.wrote(p, sequence) })
		} else {
			later = append(later, func(sequence int64) { n.till.learn(p, sequence) })
		}
	}
	if n.room.missed.Load() {
		return nil
	}
	first, err := n.appendAt(ctx, records...)
	if errors.Is(err, journal.ErrNoSpace) {
		n.miss()
		return nil
	}
	if err != nil {
		return fmt.Errorf("journaling outcomes: %w", err)
	}
	for i, tell := range later {
		tell(first + int64(i))
	}
	n.till.mu.Lock()
	n.till.cursor = max(n.till.cursor, m.GetCursor())
	n.till.mu.Unlock()
	return nil
}

// fetchVerifierKeys asks once per stream for the keys that sign outcomes, which viewers want from ListKeys.
func (n *Node) fetchVerifierKeys(ctx context.Context) error {
	request := &verifierv1.ListKeysRequest{}
	for {
		call, cancel := n.callContext(ctx)
		answer, err := n.deps.Verifier.ListKeys(call, request)
		cancel()
		if err != nil {
			if ctx.Err() == nil { // the stream may bring them as well; the next stream asks again
				n.log.Warn("verifier's keys not fetched", "error", err)
			}
			return nil
		}
		if err := n.addKeys(ctx, answer.GetKeys()); err != nil {
			return err
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			return nil
		}
	}
}

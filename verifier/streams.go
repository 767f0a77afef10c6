package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/store"
)

// eventBatch is how many events a stream reads and sends at a time; with outcomes that is about 60 KB.
const eventBatch = 100

// nodeStream is a node's forwarding stream.
type nodeStream interface {
	Recv() (*verifierv1.SubmitRedemptionsRequest, error)
	Send(*verifierv1.SubmitRedemptionsResponse) error
}

// serveNode takes a node's entries in and brings it news, until either side goes away. One goroutine receives and
// verifies, this one does everything else.
func (s *Service) serveNode(ctx context.Context, stream nodeStream) error {
	first, err := stream.Recv()
	if ended(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if first.GetHello() == nil {
		return errNoHello
	}
	hello := first.GetHello()
	nodeID, err := store.ParseUUID(hello.GetNodeId())
	if err != nil {
		return fmt.Errorf("%w: %w", errNodeID, err)
	}
	journal := store.Journal{NodeID: nodeID, Name: hello.GetJournalId()}
	acknowledged, err := s.greet(ctx, journal, hello)
	if err != nil {
		return err
	}
	if err := sendAck(stream, &verifierv1.Acknowledgement{Sequence: acknowledged}); err != nil {
		return err
	}

	type message struct {
		*verifierv1.SubmitRedemptionsRequest
		batch opened
	}
	received := make(chan message)
	gone := make(chan error, 1)
	go func() { // ends with the stream: returning from the handler ends ctx and Recv
		for {
			m, err := stream.Recv()
			if err != nil {
				gone <- err
				return
			}
			select {
			case received <- message{m, s.openBatch(ctx, m.GetBatch().GetEntries())}:
			case <-ctx.Done():
				return
			}
		}
	}()
	wake, stop := s.hub.watchAll()
	defer stop()
	poll := time.NewTicker(s.lookAgain)
	defer poll.Stop()
	news := nodeNews{s: s, nodeID: nodeID, cursor: hello.GetOutcomeCursor(), sent: map[string]bool{}}
	for {
		if err := news.send(ctx, stream); err != nil {
			return err
		}
		select {
		case m := <-received:
			var ack *verifierv1.Acknowledgement
			switch kind := m.GetMessage().(type) {
			case *verifierv1.SubmitRedemptionsRequest_Batch:
				ack, err = s.ingest(ctx, journal, m.batch)
			case *verifierv1.SubmitRedemptionsRequest_Seal:
				ack, err = s.seal(ctx, journal, kind.Seal)
			default:
				err = errNoHello
			}
			if err != nil {
				return err
			}
			if err := s.reread(ctx, nodeID, ack.GetSequence(), hello.JournalHead); err != nil {
				return err
			}
			if err := sendAck(stream, ack); err != nil {
				return err
			}
		case err := <-gone:
			if ended(err) {
				return nil
			}
			return err
		case <-wake:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return errStopping
		}
	}
}

// greet looks at what a node says of its journal, and answers from where it has to forward.
func (s *Service) greet(ctx context.Context, journal store.Journal, hello *verifierv1.Hello) (acknowledged int64, err error) {
	if acknowledged, err = s.store.Read().Acknowledged(ctx, journal); err != nil {
		return 0, err
	}
	if err := s.checkTold(ctx, journal.NodeID, hello.GetOutcomeCursor()); err != nil {
		return 0, err
	}
	if acknowledged == 0 { // whoever may sell is remembered before it has sold: a restored fulfillment waits for it
		if err := s.store.Write(ctx, func(tx *store.Tx) error { return tx.Acknowledge(ctx, journal, 0) }); err != nil {
			return 0, err
		}
	}
	return acknowledged, s.reread(ctx, journal.NodeID, acknowledged, hello.JournalHead) // a head of nil is not 0
}

// checkTold looks whether the store has all that a node was told from it. If it has not, and was not restored either, it is
// an old copy that nobody said was one, or has lost its newest part: only an operator can know.
func (s *Service) checkTold(ctx context.Context, nodeID store.ID, cursor int64) error {
	head, err := s.store.Read().EventHead(ctx)
	if err == nil && cursor > head {
		s.deps.Log.Error("the store is older than what a node was told from it: stop the verifier, and restore this store as if it were a backup",
			"node_id", nodeID.UUID(), "told_cursor", cursor, "newest_cursor", head)
	}
	return err
}

func sendAck(stream nodeStream, ack *verifierv1.Acknowledgement) error {
	return stream.Send(&verifierv1.SubmitRedemptionsResponse{
		Message: &verifierv1.SubmitRedemptionsResponse_Acknowledgement{Acknowledgement: ack},
	})
}

// nodeNews is what one stream has told its node.
type nodeNews struct {
	s      *Service
	nodeID store.ID
	cursor int64           // everything up to here was sent, or was not the node's
	sent   map[string]bool // ids of keys
}

// send brings the stream up to date.
func (n *nodeNews) send(ctx context.Context, stream nodeStream) error {
	if n.s.keys.Len() > len(n.sent) {
		var fresh []*offerv1.SigningKey
		for _, k := range n.s.keys.All() {
			if !n.sent[string(k.GetKeyId())] {
				n.sent[string(k.GetKeyId())] = true
				fresh = append(fresh, k)
			}
		}
		if err := stream.Send(&verifierv1.SubmitRedemptionsResponse{
			Message: &verifierv1.SubmitRedemptionsResponse_Keys{Keys: &verifierv1.KeyBatch{Keys: fresh}},
		}); err != nil {
			return err
		}
	}
	for {
		// The head first: events up to it are all visible, so what the node's list lacks is not the node's.
		head, err := n.s.store.Read().EventHead(ctx)
		if err != nil || head <= n.cursor {
			return err
		}
		events, err := n.s.store.Read().EventsOfNode(ctx, n.nodeID, n.cursor, head, eventBatch)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			n.cursor = head
			return nil
		}
		last := events[len(events)-1].Cursor
		n.cursor = last
		if len(events) < eventBatch { // that was all, and what came since has woken the stream
			n.cursor = head
		}
		batch := &verifierv1.OutcomeBatch{Cursor: last}
		listed := map[store.ID]bool{}
		for _, e := range events {
			if !listed[e.Now.TokenID] { // as it is now: once is enough
				listed[e.Now.TokenID] = true
				p, err := n.s.forBuyer(&e.Now)
				if err != nil {
					return err
				}
				batch.Purchases = append(batch.Purchases, p)
			}
		}
		if err := stream.Send(&verifierv1.SubmitRedemptionsResponse{
			Message: &verifierv1.SubmitRedemptionsResponse_Outcomes{Outcomes: batch},
		}); err != nil || len(events) < eventBatch {
			return err
		}
	}
}

// watchPurchase sends a purchase now and as it changes, until it is final. One that is not here yet may be on its way
// from its node: it is waited for, WatchMissing long.
func (s *Service) watchPurchase(ctx context.Context, id store.ID, send func(*offerv1.Purchase) error) error {
	wake, stop := s.hub.watch(id)
	defer stop()
	poll := time.NewTicker(s.lookAgain)
	defer poll.Stop()
	missing := time.NewTimer(s.cfg.WatchMissing)
	defer missing.Stop()
	waited := false
	var last store.Purchase
	for {
		p, err := s.store.Read().Purchase(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound) && !waited:
		case err != nil:
			return err
		case p.State != last.State || p.StateTime != last.StateTime:
			m, err := s.forBuyer(&p)
			if err != nil {
				return err
			}
			if err := send(m); err != nil {
				return err
			}
			last = p
		}
		if err == nil && p.State.Final() {
			return nil
		}
		select {
		case <-wake:
		case <-poll.C:
		case <-missing.C:
			waited = true
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return errStopping
		}
	}
}

// watchEvents sends every change of every purchase in the order of their commits.
func (s *Service) watchEvents(ctx context.Context, cursor int64, send func(*verifierv1.WatchEventsResponse) error) error {
	wake, stop := s.hub.watchAll()
	defer stop()
	poll := time.NewTicker(s.lookAgain)
	defer poll.Stop()
	alive := time.NewTicker(proofOfLife)
	defer alive.Stop()
	for {
		head, err := s.store.Read().EventHead(ctx)
		if err != nil {
			return err
		}
		if mutant.On(mutant.WatchFromHead) && cursor > 0 && cursor < head {
			cursor = head
		}
		for cursor < head {
			events, err := s.store.Read().Events(ctx, cursor, head, eventBatch)
			if err != nil {
				return err
			}
			if len(events) == 0 { // a restore skips cursors, and nothing happened since
				break
			}
			cursor = events[len(events)-1].Cursor
			m := &verifierv1.WatchEventsResponse{Cursor: cursor}
			for _, e := range events {
				then := e.Now
				then.State, then.Reason, then.StateTime = e.State, e.Reason, e.Time
				m.Purchases = append(m.Purchases, purchaseProto(&then))
			}
			if err := send(m); err != nil {
				return err
			}
		}
		select {
		case <-wake:
		case <-poll.C:
		case <-alive.C:
			if err := send(&verifierv1.WatchEventsResponse{Cursor: cursor}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return errStopping
		}
	}
}

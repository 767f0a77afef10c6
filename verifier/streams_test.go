package verifier_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// forwarding is a node's side of SubmitRedemptions.
type forwarding struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	in     chan *verifierv1.SubmitRedemptionsRequest
	out    chan *verifierv1.SubmitRedemptionsResponse
	err    chan error
}

func (f *forwarding) Context() context.Context { return f.ctx }

func (f *forwarding) Recv() (*verifierv1.SubmitRedemptionsRequest, error) {
	select {
	case m, ok := <-f.in:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-f.ctx.Done():
		return nil, status.FromContextError(f.ctx.Err()).Err()
	}
}

func (f *forwarding) Send(m *verifierv1.SubmitRedemptionsResponse) error {
	select {
	case f.out <- m:
		return nil
	case <-f.ctx.Done():
		return status.FromContextError(f.ctx.Err()).Err()
	}
}

// open begins a stream of a node that has heard up to cursor.
func (w *world) open(n *node, cursor int64) *forwarding {
	return w.openWith(&verifierv1.Hello{NodeId: n.id, Region: "test", OutcomeCursor: cursor})
}

func (w *world) openWith(hello *verifierv1.Hello) *forwarding {
	ctx, cancel := context.WithCancel(context.Background())
	f := &forwarding{
		ctx: ctx, cancel: cancel, in: make(chan *verifierv1.SubmitRedemptionsRequest, 1000),
		out: make(chan *verifierv1.SubmitRedemptionsResponse, 1000), err: make(chan error, 1),
	}
	server := w.verifier()
	go func() {
		f.err <- server.SubmitRedemptions(f)
		cancel()
	}()
	f.in <- &verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Hello{Hello: hello}}
	return f
}

func (f *forwarding) send(first int64, receipts ...string) {
	batch := &verifierv1.EntryBatch{}
	for i, r := range receipts {
		batch.Entries = append(batch.Entries, &verifierv1.JournalEntry{Sequence: first + int64(i), Receipt: r})
	}
	f.in <- &verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Batch{Batch: batch}}
}

// ack waits for the next acknowledgement; nil when the stream ended.
func (f *forwarding) ack() *verifierv1.Acknowledgement {
	for {
		select {
		case m := <-f.out:
			if a := m.GetAcknowledgement(); a != nil {
				return a
			}
		case <-f.ctx.Done():
			return nil
		}
	}
}

// end waits for the handler's answer.
func (f *forwarding) end() error { return <-f.err }

// submit forwards receipts from after+1 on over a fresh stream.
func (w *world) submit(n *node, after int64, receipts ...string) *verifierv1.Acknowledgement {
	w.t.Helper()
	f := w.open(n, 1<<40)
	f.ack()
	f.send(after+1, receipts...)
	ack := f.ack()
	close(f.in)
	check(w.t, f.end())
	return ack
}

func TestForwardingResumesWhereItWasAcknowledged(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		a, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		b, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 6, a, b)
		w.stop()
		w.start()
		f := w.open(w.nodes[0], 0)
		if got := f.ack().GetSequence(); got != 8 {
			t.Errorf("go on from %d, want 8", got)
		}
		close(f.in)
		check(t, f.end())
	})
}

func TestOutcomesComeToEveryNodeThatAccepted(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		k, session := w.bytes(), w.bytes()
		first, _ := w.redeem(w.nodes[0], sale{k: k, session: session, reference: "tp_ok"})
		w.present(first)
		time.Sleep(time.Minute) // over before the second node forwards its own
		second, _ := w.redeem(w.nodes[1], sale{k: k, session: session, reference: "tp_ok"})
		other, _ := w.redeem(w.nodes[2], sale{reference: "tp_ok"})
		w.submit(w.nodes[2], 0, other)
		f := w.open(w.nodes[1], 0)
		f.send(1, second)
		time.Sleep(time.Minute)
		got := map[string]*offerv1.Purchase{}
		keys := 0
		for range len(f.out) {
			m := <-f.out
			keys += len(m.GetKeys().GetKeys())
			for _, p := range m.GetOutcomes().GetPurchases() {
				got[p.GetPurchaseId()] = p
			}
		}
		p := got[w.get(first).GetPurchaseId()]
		if len(got) != 1 || p.GetState() != delivered || p.GetLicenceKey() == "" || p.GetOutcome() == "" {
			t.Errorf("the node heard %v, want its one purchase, delivered with its key", got)
		}
		if keys != 4 {
			t.Errorf("%d keys came, want three nodes' and the verifier's", keys)
		}
		close(f.in)
		check(t, f.end())
	})
}

// A copy of a node's directory may sell the unit to the viewer to whom the original sold it, after the copy's stream passed
// the news of that by: it is told again, or whoever watches the purchase at the copy waits for ever.
func TestTheSameSaleOfACopyIsToldAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		s := sale{reference: "tp_ok", k: w.bytes(), session: w.bytes(), serial: 1}
		original, _ := w.redeem(w.nodes[0], s)
		w.submit(w.nodes[0], 0, original)
		f := w.open(w.nodes[0], 0)
		heard := func() (purchases int) {
			time.Sleep(time.Minute)
			for range len(f.out) {
				purchases += len((<-f.out).GetOutcomes().GetPurchases())
			}
			return purchases
		}
		if heard() == 0 {
			t.Fatal("nothing was heard of the first sale")
		}
		s.unleased = true // it is leased already, and sold
		s.edit = func(r *offerv1.Receipt) { r.PreviousReceiptHash = []byte("another chain of receipts......!") }
		again, _ := w.redeem(w.nodes[0], s)
		w.submit(w.nodes[0], 1, again)
		if n := heard(); n == 0 {
			t.Error("the same sale with another text: nothing was told")
		}
		w.checkBooks()
		close(f.in)
		check(t, f.end())
	})
}

func TestOutcomeCursorSkipsWhatWasHeard(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		hear := func(cursor int64) (purchases int, last int64) {
			f := w.open(w.nodes[0], cursor)
			time.Sleep(5 * time.Second)
			last = cursor
			for range len(f.out) {
				if b := (<-f.out).GetOutcomes(); b != nil {
					purchases += len(b.GetPurchases())
					last = b.GetCursor()
				}
			}
			close(f.in)
			check(t, f.end())
			return purchases, last
		}
		a, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 0, a)
		time.Sleep(time.Minute)
		n, cursor := hear(0)
		if n == 0 {
			t.Fatal("nothing was heard")
		}
		if n, _ := hear(cursor); n != 0 {
			t.Errorf("%d purchases were told again", n)
		}
		b, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 1, b)
		time.Sleep(time.Minute)
		if n, _ := hear(cursor); n != 1 {
			t.Errorf("%d purchases, want the new one", n)
		}
	})
}

func TestStreamWithoutHelloOrWithBadNodeIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		f := w.open(&node{id: "nobody"}, 0)
		if err := f.end(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a bad node id: %v", err)
		}
		f = w.open(w.nodes[0], 0)
		f.in <- &verifierv1.SubmitRedemptionsRequest{}
		if err := f.end(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("an empty message: %v", err)
		}
	})
}

func TestStreamsEndWhenTheServiceStops(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		f := w.open(w.nodes[0], 0)
		time.Sleep(time.Second)
		w.stop()
		if err := f.end(); rpcerr.Reason(err) != errorsv1.Reason_REASON_DRAINING {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// watcher collects what a server stream sends.
type watcher[T any] struct {
	grpc.ServerStream
	ctx context.Context
	got []*T
}

func (w *watcher[T]) Context() context.Context { return w.ctx }

func (w *watcher[T]) Send(m *T) error {
	w.got = append(w.got, m)
	return w.ctx.Err()
}

func TestWatchPurchaseByTokenWaitsForTheForward(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, offer := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		request := &verifierv1.WatchPurchaseRequest{Credential: &verifierv1.WatchPurchaseRequest_OfferToken{OfferToken: offer}}
		go func() {
			time.Sleep(20 * time.Second)
			w.present(receipt)
		}()
		s := &watcher[verifierv1.WatchPurchaseResponse]{ctx: t.Context()}
		check(t, w.verifier().WatchPurchase(request, s))
		last := s.got[len(s.got)-1].GetPurchase()
		want(t, last, delivered, noReason)
		if last.GetLicenceKey() == "" || last.GetOrderId() == "" {
			t.Error("the buyer got no key or no order")
		}
	})
}

func TestUnknownPurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		_, offer := w.redeem(w.nodes[0], sale{})
		_, err := w.verifier().GetPurchase(t.Context(), &verifierv1.GetPurchaseRequest{Credential: &verifierv1.GetPurchaseRequest_OfferToken{OfferToken: offer}})
		if status.Code(err) != codes.NotFound || rpcerr.Reason(err) != errorsv1.Reason_REASON_PURCHASE_NOT_FOUND {
			t.Errorf("GetPurchase: %v", err)
		}
		begin := time.Now()
		err = w.verifier().WatchPurchase(&verifierv1.WatchPurchaseRequest{Credential: &verifierv1.WatchPurchaseRequest_OfferToken{OfferToken: offer}},
			&watcher[verifierv1.WatchPurchaseResponse]{ctx: t.Context()})
		if status.Code(err) != codes.NotFound || time.Since(begin) != 30*time.Second {
			t.Errorf("WatchPurchase: %v after %v", err, time.Since(begin))
		}
	})
}

func TestEventsAreCompleteInOrderAndWithoutLicenceKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		for range 150 { // more than one batch
			receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
			w.present(receipt)
		}
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s := &watcher[verifierv1.WatchEventsResponse]{ctx: ctx}
		if err := w.verifier().WatchEvents(&verifierv1.WatchEventsRequest{}, s); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the stream ended with %v", err)
		}
		cursor, events, alive := int64(0), 0, 0
		rank := map[string]offerv1.PurchaseState{}
		for _, m := range s.got {
			raw, err := proto.Marshal(m)
			check(t, err)
			if bytes.Contains(raw, []byte("canary")) {
				t.Fatal("an event shows where the parcel goes")
			}
			if len(m.GetPurchases()) == 0 {
				alive++
			}
			for _, p := range m.GetPurchases() {
				if events++; p.GetState() < rank[p.GetPurchaseId()] {
					t.Errorf("%v after %v", p.GetState(), rank[p.GetPurchaseId()])
				}
				rank[p.GetPurchaseId()] = p.GetState()
				if p.GetLicenceKey() != "" {
					t.Fatal("an event shows a licence key")
				}
			}
			if m.GetCursor() < cursor {
				t.Errorf("cursor %d after %d", m.GetCursor(), cursor)
			}
			cursor = m.GetCursor()
		}
		if int64(events) != cursor || len(rank) != 150 || alive == 0 {
			t.Errorf("%d events up to cursor %d of %d purchases, %d proofs of life", events, cursor, len(rank), alive)
		}
	})
}

package world

import (
	"context"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
)

// Watched is what one observer got over all its streams: each goes on after the last cursor of the one before.
type Watched struct {
	Stream string // "purchases" or "orders"
	Items  []Item
	// Cursor is the last one; Head is the store's.
	Cursor, Head int64
	// Backwards counts messages whose cursor did not advance though they held something.
	Backwards int
}

// Item is one change: of a purchase or an order, into a state.
type Item struct {
	ID    string
	State int
}

// observer follows a watch stream through every fault, as a dashboard would.
type observer struct {
	w      *world
	stream string
	// follow reads one stream from a cursor until it breaks, and hands over what each message has.
	follow func(ctx context.Context, after int64, take func(items []Item, cursor int64)) error

	got Watched // guarded by the witness' mutex
}

// startObservers begins to watch.
func (w *world) startObservers(ctx context.Context) {
	events := verifierv1.NewVerifierServiceClient(w.net.Conn("observer", "verifier"))
	orders := fulfillmentv1.NewOrderServiceClient(w.net.Conn("observer", "fulfillment"))
	w.observers = []*observer{
		{w: w, stream: "purchases", follow: func(ctx context.Context, after int64, take func([]Item, int64)) error {
			stream, err := events.WatchEvents(ctx, &verifierv1.WatchEventsRequest{AfterCursor: after})
			for err == nil {
				var m *verifierv1.WatchEventsResponse
				if m, err = stream.Recv(); err == nil {
					var items []Item
					for _, p := range m.GetPurchases() {
						items = append(items, Item{p.GetPurchaseId(), int(p.GetState())})
					}
					take(items, m.GetCursor())
				}
			}
			return err
		}},
		{w: w, stream: "orders", follow: func(ctx context.Context, after int64, take func([]Item, int64)) error {
			stream, err := orders.WatchOrders(ctx, &fulfillmentv1.WatchOrdersRequest{AfterCursor: after})
			for err == nil {
				var m *fulfillmentv1.WatchOrdersResponse
				if m, err = stream.Recv(); err == nil {
					var items []Item
					for _, o := range m.GetOrders() {
						items = append(items, Item{o.GetOrderId(), int(o.GetState())})
					}
					take(items, m.GetCursor())
				}
			}
			return err
		}},
	}
	for _, o := range w.observers {
		w.background.Go(func() { o.run(ctx) })
	}
	w.startBoards(ctx)
}

func (o *observer) run(ctx context.Context) {
	o.w.keepWatching(ctx, o.stream, func(ctx context.Context, heard func()) error {
		o.w.watch.mu.Lock()
		after := o.got.Cursor
		o.w.watch.mu.Unlock()
		return o.follow(ctx, after, func(items []Item, cursor int64) {
			heard()
			o.take(items, cursor)
		})
	})
}

// observerPatience is longer than the pauses between proofs of life.
const observerPatience = 25 * time.Second

func (o *observer) take(items []Item, cursor int64) {
	o.w.watch.mu.Lock()
	defer o.w.watch.mu.Unlock()
	if cursor < o.got.Cursor || cursor == o.got.Cursor && len(items) > 0 {
		o.got.Backwards++
	}
	o.got.Items = append(o.got.Items, items...)
	o.got.Cursor = cursor
}

// caughtUp tells whether every observer has seen everything.
func (w *world) caughtUp(ctx context.Context) (bool, error) {
	for _, o := range w.observers {
		head, err := w.head(ctx, o.stream)
		if err != nil {
			return false, err
		}
		w.watch.mu.Lock()
		o.got.Stream, o.got.Head = o.stream, head
		behind := o.got.Cursor < head
		w.watch.mu.Unlock()
		if behind {
			return false, nil
		}
	}
	for _, o := range w.boards {
		w.watch.mu.Lock()
		seen, err := o.seen(ctx, o)
		w.watch.mu.Unlock()
		if !seen || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *world) head(ctx context.Context, stream string) (head int64, err error) {
	db, query := w.centre.verifierDB, `SELECT COALESCE(MAX(cursor), 0) FROM events`
	if stream == "orders" {
		db, query = w.centre.stockDB, `SELECT COALESCE(MAX(cursor), 0) FROM order_events`
	}
	return head, db.Read().QueryRowContext(ctx, query).Scan(&head)
}

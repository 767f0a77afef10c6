package node_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/fulfillment"
	"github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/simnet"
)

// greeter is a fulfillment that hears a node's greeting and says nothing.
type greeter struct {
	fulfillmentv1.OrderServiceClient
	fulfillmentv1.OrderService_WorkOrdersClient
	ctx   context.Context
	hello chan *fulfillmentv1.NodeHello
}

func (g greeter) WorkOrders(ctx context.Context, _ ...grpc.CallOption) (fulfillmentv1.OrderService_WorkOrdersClient, error) {
	g.ctx = ctx
	return g, nil
}

func (g greeter) Send(m *fulfillmentv1.WorkOrdersRequest) error {
	g.hello <- m.GetHello()
	return nil
}

func (g greeter) Recv() (*fulfillmentv1.WorkOrdersResponse, error) {
	<-g.ctx.Done()
	return nil, g.ctx.Err()
}

// A key is made at the first start and kept; at a start after 30 days there is another, and the old one opens what was sealed
// to it for 30 days more.
func TestANodesKeys(t *testing.T) {
	disk := memory(t, node.Migrate)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	greet := func(after time.Duration) [][]byte {
		now = now.Add(after)
		g := greeter{hello: make(chan *fulfillmentv1.NodeHello, 1)}
		n, err := node.New(node.Config{SKUs: []string{"poster"}}, node.Deps{DB: disk, Packer: &packer{}, Orders: g, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		keys := (<-g.hello).GetDeliveryKeys()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		return keys
	}
	const day = 24 * time.Hour
	first := greet(0)[0]
	var second []byte
	for _, c := range []struct {
		rule  string
		after time.Duration
		want  func([][]byte) bool
	}{
		{"it is kept over a restart", 0, func(k [][]byte) bool { return len(k) == 1 && bytes.Equal(k[0], first) }},
		{"for a month", 30 * day, func(k [][]byte) bool { return len(k) == 1 && bytes.Equal(k[0], first) }},
		{"then there is a newer one before it", day, func(k [][]byte) bool {
			second = k[0]
			return len(k) == 2 && !bytes.Equal(second, first) && bytes.Equal(k[1], first)
		}},
		{"and it opens for a month more", 30 * day, func(k [][]byte) bool { return len(k) == 2 && bytes.Equal(k[0], second) && bytes.Equal(k[1], first) }},
		{"and no longer", day, func(k [][]byte) bool { return len(k) == 2 && bytes.Equal(k[1], second) }}, // the second is a month old itself
	} {
		if got := greet(c.after); !c.want(got) {
			t.Errorf("%s: got %d keys, or others", c.rule, len(got))
		}
	}
}

// An envelope of another purchase, or one that was changed, is refused by every depot that it names, and the order dies.
func TestWhatDoesNotOpenIsNobodysParcel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, simnet.Link{}, fulfillment.Config{OrderAttempts: 3}, &packer{name: "a"}, &packer{name: "b"})
		defer w.close()
		moved, err := sealed.Seal([]byte(address), w.keys(), sealed.Purchase{DropID: w.drop, ID: "00112233445566778899aabbccddeeff"})
		if err != nil {
			t.Fatal(err)
		}
		changed := func(k sealed.Purchase) []byte {
			envelope, err := sealed.Seal([]byte(address), w.keys(), k)
			if err != nil {
				t.Fatal(err)
			}
			envelope[len(envelope)-1] ^= 1
			return envelope
		}
		for rule, envelope := range map[string]func(sealed.Purchase) []byte{
			"moved": func(sealed.Purchase) []byte { return moved }, "changed": changed,
		} {
			id := w.sellSealed(envelope)
			time.Sleep(5 * time.Minute)
			got := w.order(id)
			if got.GetState() != fulfillmentv1.OrderState_ORDER_STATE_DEAD || got.GetReason() != fulfillmentv1.RejectReason_REJECT_REASON_UNDELIVERABLE ||
				got.GetAttempt() != 3 || w.carrier.labels(id) != 0 {
				t.Errorf("%s: %v", rule, got)
			}
		}
		var kept int
		for _, n := range w.nodes {
			if err := n.disk.Read().QueryRowContext(context.Background(), `SELECT COUNT(*) FROM inbox WHERE LENGTH(details) > 0`).Scan(&kept); err != nil || kept > 0 {
				t.Errorf("%d refused orders' details are kept: %v", kept, err)
			}
		}
	})
}

package process

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// Node is what a microfulfillment node needs beyond Common, of whose tokens it takes that of its own role.
type Node struct {
	Common
	node.Config
	// Fulfillment is its address; several, of replicas, are separated by commas.
	Fulfillment string
	// PackTime is how long a parcel takes to pack.
	PackTime time.Duration
}

// StartNode opens a microfulfillment node on DataDir/node.db. It listens nowhere: run is its only stage.
func StartNode(ctx context.Context, c Node) (run func(context.Context) error, err error) {
	p := &Process{}
	defer func() {
		if err != nil {
			p.abandon()
		}
	}()
	if err := p.observe(c.Common, "node", ""); err != nil {
		return nil, err
	}
	db, err := p.openStore(ctx, c.Common, "node", node.Migrate)
	if err != nil {
		return nil, err
	}
	centre, err := p.dialAs(auth.Node, c.Common, c.Fulfillment, nil)
	if err != nil {
		return nil, err
	}
	log := c.Log.With("service", "node")
	n, err := node.New(c.Config, node.Deps{
		DB: db, Orders: fulfillmentv1.NewOrderServiceClient(centre), Packer: &demoPacker{takes: c.PackTime, log: log}, Now: time.Now, Random: rand.Reader, Log: log, Traces: p.tracer,
	})
	if err != nil {
		return nil, err
	}
	p.stages = []Stage{{"the node", n.Run}}
	return p.Run, nil
}

// demoPacker takes its time and makes labels up. A shelf and a carrier are not software of this repository.
type demoPacker struct {
	takes time.Duration
	log   *slog.Logger
}

// Pack implements node.Packer.
func (d *demoPacker) Pack(ctx context.Context, _ node.Parcel) (string, error) {
	t := time.NewTimer(d.takes)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-t.C:
	}
	return fmt.Sprintf("TEST-%s", rand.Text()), nil
}

// Send implements node.Packer.
func (d *demoPacker) Send(ctx context.Context, p node.Parcel) error {
	d.log.InfoContext(ctx, "a parcel left", "order_id", p.OrderID, "sku", p.SKU, "tracking_reference", p.Tracking)
	return nil
}

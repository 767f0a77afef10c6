package process

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/gossip"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

// Gossip is how a process takes part in the ring.
type Gossip struct {
	// Listen is the ring's address, host:port for UDP and TCP. Empty: no gossip.
	Listen string
	// Advertise is what others are told, when it differs (address translation).
	Advertise string
	// Seeds are members to join.
	Seeds []string
	// Keys encrypt the ring; empty: plaintext.
	Keys [][]byte
}

// Region is what a region's node needs beyond Common.
type Region struct {
	Common
	// Name of the region, and the residency zones that it is in.
	Name  string
	Zones []string
	// NodeID is who an empty data directory's node is; empty: a new node. See journal.Options.
	NodeID string
	// Fulfillment and Verifier are addresses; several, of replicas, are separated by commas.
	Fulfillment, Verifier string
	// Advertise is where routers reach the node; empty: where it listens.
	Advertise string
	// Dial opens the connections to the centre; nil: TCP.
	Dial   Dialer
	Gossip Gossip
	// Drills lets operators break viewers' calls for a while.
	Drills bool
	// Retire makes this the node's last life; the process ends by itself. See region.Config.
	Retire bool
}

// RegionProcess is a running node.
type RegionProcess struct {
	Process
	// GossipAddr is the ring's address; empty without gossip.
	GossipAddr string
	// NodeID is the node's.
	NodeID string
}

// StartRegion opens a node on its data directory.
func StartRegion(ctx context.Context, c Region) (_ *RegionProcess, err error) {
	p := &RegionProcess{}
	defer func() {
		if err != nil {
			p.abandon()
		}
	}()
	if err := p.observe(c.Common, "region", c.Name); err != nil {
		return nil, err
	}
	log := c.Log.With("region", c.Name) // the node and the server add what they are
	disk, identity, err := journal.Open(ctx, c.DataDir, journal.Options{NodeID: c.NodeID})
	if err != nil {
		return nil, err
	}
	p.onClose(disk.Close)
	centre, err := p.dial(c.Common, c.Fulfillment, c.Dial)
	if err != nil {
		return nil, err
	}
	verifier, err := p.dial(c.Common, c.Verifier, c.Dial)
	if err != nil {
		return nil, err
	}
	var ring *gossip.Ring
	node, err := region.New(region.Config{Region: c.Name, Zones: c.Zones, Drills: c.Drills, Retire: c.Retire}, region.Deps{
		Journal: disk, Identity: identity, Now: time.Now, Random: rand.Reader, Log: c.Log.With("service", "region"), Metrics: c.Metrics, Traces: p.tracer, Version: c.Version,
		Stock:    fulfillmentv1.NewStockServiceClient(centre),
		Catalog:  fulfillmentv1.NewCatalogServiceClient(centre),
		Verifier: verifierv1.NewVerifierServiceClient(verifier),
		Disk:     disk.Health,
		Paths: func(ctx context.Context) []*regionv1.Path {
			if ring == nil {
				return nil
			}
			return ring.Paths(ctx)
		},
		OnModeChange: func(m regionv1.RegionMode) {
			if ring != nil {
				ring.SetMode(m)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	p.NodeID = identity.NodeID
	server, err := p.listen(c.Common, "region", region.Rules(), func(cfg *rpc.ServerConfig) {
		cfg.Log = log
		cfg.Unary = []grpc.UnaryServerInterceptor{node.UnaryInterceptor()}
		cfg.Stream = []grpc.StreamServerInterceptor{node.StreamInterceptor()}
	})
	if err != nil {
		return nil, err
	}
	node.Register(server)
	p.stages = []Stage{
		{"the node's RPCs", func(ctx context.Context) error { return server.ServeInternal(ctx, p.listener) }},
		{"the node", func(ctx context.Context) error {
			err := node.Run(ctx)
			if err == nil && c.Retire && ctx.Err() == nil {
				return errFinished
			}
			return err
		}},
	}
	if c.Gossip.Listen == "" || c.Retire { // nobody should call a node that retires
		return p, nil
	}
	advertise := c.Advertise
	if advertise == "" {
		advertise = p.Addr()
	}
	ring, err = gossip.New(gossip.Config{
		Role: gossip.RoleRegion, Name: c.Name, NodeID: p.NodeID, BindAddr: c.Gossip.Listen, AdvertiseAddr: c.Gossip.Advertise,
		Seeds: c.Gossip.Seeds, Keys: c.Gossip.Keys, RPCAddress: advertise, Zones: c.Zones, Version: c.Version, Mode: node.Mode(), Log: log,
	})
	if err != nil {
		return nil, err
	}
	p.onClose(ring.Close)
	p.GossipAddr = ring.Addr()
	// First out of the ring, so that no router sends anything that would have to be refused.
	p.stages = append([]Stage{{"the node's gossip", ring.Run}, {"the catalogue's revision", announceRevision(ring, node)}}, p.stages...)
	return p, nil
}

// revisionPoll is how often the ring hears which catalogue the node serves. Only operators look at it.
const revisionPoll = time.Second

func announceRevision(ring *gossip.Ring, node *region.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(revisionPoll)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				ring.SetCatalogRevision(node.CatalogRevision())
			case <-ctx.Done():
				return nil
			}
		}
	}
}

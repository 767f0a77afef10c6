// Package cluster runs the whole platform on this machine: real gRPC between all services, with the WAN's delays under
// every connection between router, region and centre.
//
//	viewers ──> routers (Listen, Listen+1, ...) ──RTT──> region nodes ──RTT──> centre: verifier, fulfillment
//	                    └────────────── gossip ring ─────────────┘
//
// `rimlight dev`, the tests and the benchmarks use it; a real deployment runs the same processes (internal/process)
// apart from each other. Connections are delayed at the end that dials, both ways, by half the round trip each. The ring
// itself is not delayed: it carries no viewer's call.
package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/viewers"
	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router/alert"
	"github.com/rimlight/rimlight/router/slo"
)

// Config is what `rimlight dev` asks for.
type Config struct {
	// Listen is the first router's address; further routers take the next ports. Port 0: each a free one.
	Listen string
	// TLS secures the routers' public ports with its first certificate; nil: plaintext.
	TLS *tls.Config
	// DataDir keeps all state.
	DataDir string
	// Database, if it has a URL, keeps the state of verifier and fulfillment instead.
	Database sqldb.PostgresConfig
	// Regions and Routers are names in the matrix; Centre is where verifier and fulfillment stand.
	Regions, Routers []string
	Centre           string
	// Matrix gives the round trips. nil: no delay.
	Matrix *wan.Matrix
	// Viewers is how many synthetic viewers arrive per minute; 0: none, not even for the scarce demo drops.
	Viewers int
	// Demo plans the demo drops.
	Demo bool
	// SKUs are the goods that a microfulfillment node of the platform's own packs and sends. None: there is no such node.
	SKUs []string
	// Split runs each region's node as a process of its own.
	Split bool
	// Webhooks are told by the first router of slips that begin and end.
	Webhooks alert.Config
	// SLO is which calls the routers count as late; TimeBack how much later a drop closes at most because of them.
	SLO      slo.Config
	TimeBack time.Duration
	// Drills lets operators break regions for a while.
	Drills bool
	// Storefront serves the shop's page at / of every router.
	Storefront bool
	// Traces is where traces go, and which; TraceArgs say the same to the processes of Split.
	Traces    telemetry.Config
	TraceArgs []string
	// Version is the program's.
	Version string
	// Log is required.
	Log *slog.Logger
	// OnChild hears the pid of every node that starts under Split.
	OnChild func(region string, pid int)
}

// Cluster is a started platform.
type Cluster struct {
	// Routers are the public addresses, in the order of Config.Routers.
	Routers []string
	// Fulfillment is its address, for microfulfillment nodes.
	Fulfillment string
	// Tokens are the role tokens.
	Tokens auth.Tokens
	// Audience is the synthetic viewers; nil if there are none.
	Audience *viewers.Audience

	cfg                   Config
	audience              []process.Stage
	routers, regions      []process.Stage
	verifier, fulfillment []process.Stage
	depot                 []process.Stage
	closers               []func() error
	processes             []*process.RouterProcess
	saboteur              *saboteur
}

// viewerConns is how many connections the audience spreads over per router: one takes 64 streams on a public port, and
// a burst has hundreds of viewers.
const viewerConns = 8

// packTime is how long the platform's own depot takes for a parcel: long enough to be seen on a page.
const packTime = time.Second

// Start opens everything; Run serves.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	c := &Cluster{cfg: cfg, saboteur: newSaboteur(cfg.Regions)}
	defer func() {
		if err != nil {
			// What has been started has to be run to be stopped: with a context that has ended, it closes at once.
			ended, cancel := context.WithCancel(ctx)
			cancel()
			err = errors.Join(err, c.Run(ended))
		}
	}()
	if err := cfg.Validate(); err != nil {
		return c, err
	}
	if c.Tokens, err = auth.LoadOrCreate(filepath.Join(cfg.DataDir, "tokens.json")); err != nil {
		return c, err
	}
	fulfillment, err := process.StartFulfillment(ctx, process.Fulfillment{Common: c.central("fulfillment"), TimeBack: cfg.TimeBack})
	if err != nil {
		return c, fmt.Errorf("starting fulfillment: %w", err)
	}
	c.Fulfillment = fulfillment.Addr()
	c.fulfillment = []process.Stage{{Name: "fulfillment", Run: fulfillment.Run}}
	if len(cfg.SKUs) > 0 {
		run, err := process.StartNode(ctx, process.Node{
			Common: c.common("depot"), Config: node.Config{SKUs: cfg.SKUs}, Fulfillment: fulfillment.Addr(), PackTime: packTime,
		})
		if err != nil {
			return c, fmt.Errorf("starting the depot: %w", err)
		}
		c.depot = []process.Stage{{Name: "the depot", Run: run}}
	}
	verifier, err := process.StartVerifier(ctx, process.Verifier{
		Common: c.central("verifier"), Fulfillment: fulfillment.Addr(), Profile: "dev",
	})
	if err != nil {
		return c, fmt.Errorf("starting the verifier: %w", err)
	}
	c.verifier = []process.Stage{{Name: "verifier", Run: verifier.Run}}
	seed, err := c.startRouters(ctx, fulfillment.Addr(), verifier.Addr())
	if err != nil {
		return c, err
	}
	return c, c.startRegions(ctx, seed, fulfillment.Addr(), verifier.Addr())
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var problems []error
	if len(c.Regions) == 0 || len(c.Routers) == 0 {
		problems = append(problems, errors.New("at least one region and one router are needed"))
	}
	if _, _, err := c.listen(); err != nil {
		problems = append(problems, err)
	}
	for _, names := range [][]string{c.Regions, c.Routers} {
		for i, name := range names {
			if slices.Contains(names[:i], name) {
				problems = append(problems, fmt.Errorf("%q is named twice", name))
			}
		}
	}
	if c.TLS != nil && len(c.TLS.Certificates) == 0 {
		problems = append(problems, errors.New("TLS needs a certificate"))
	}
	if c.Matrix != nil {
		for _, name := range slices.Concat([]string{c.Centre}, c.Regions, c.Routers) {
			if _, ok := c.Matrix.RTT(name, name); !ok {
				problems = append(problems, fmt.Errorf("the RTT matrix has no %q; it has %s", name, strings.Join(c.Matrix.Names(), ", ")))
			}
		}
	}
	return errors.Join(problems...)
}

// listen takes Listen apart.
func (c Config) listen() (host string, port int, err error) {
	host, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return "", 0, fmt.Errorf("reading the address to listen on: %w", err)
	}
	last, err := strconv.ParseUint(text, 10, 16)
	if err != nil || last > 0 && last+uint64(len(c.Routers)) > 1<<16 {
		return "", 0, fmt.Errorf("reading the address to listen on, %s: %d ports from there on are needed", c.Listen, len(c.Routers))
	}
	return host, int(last), nil
}

func (c *Cluster) common(name string) process.Common {
	return process.Common{
		Listen: "127.0.0.1:0", DataDir: filepath.Join(c.cfg.DataDir, name), Tokens: c.Tokens,
		Reflection: true, Version: c.cfg.Version, Log: c.cfg.Log, Metrics: prometheus.NewRegistry(), Traces: c.cfg.Traces,
	}
}

// central is common for the services that may keep their state in a database.
func (c *Cluster) central(name string) process.Common {
	common := c.common(name)
	common.Database = c.cfg.Database
	return common
}

// dialer delays connections between two places of the matrix, over links that a drill may cut; nil where there is neither.
func (c *Cluster) dialer(from, to string, links *wan.Switch) process.Dialer {
	if c.cfg.Matrix == nil && links == nil {
		return nil
	}
	var rtt time.Duration
	if c.cfg.Matrix != nil {
		rtt, _ = c.cfg.Matrix.RTT(from, to) // both names are in it: Validate
	}
	return process.Delayed(rtt, links)
}

// links is what a drill cuts of a region: its links to routers and to the centre, which stands apart even where it has the
// region's name. Nil without drills.
func (c *Cluster) links(region string) *wan.Switch {
	if !c.cfg.Drills {
		return nil
	}
	return c.saboteur.links(region)
}

func (c *Cluster) startRouters(ctx context.Context, fulfillment, verifier string) (seed string, err error) {
	host, port, err := c.cfg.listen()
	if err != nil {
		return "", err
	}
	pages, err := c.storefront()
	if err != nil {
		return "", err
	}
	for i, name := range c.cfg.Routers {
		common := c.common("router-" + name)
		common.Listen = net.JoinHostPort(host, strconv.Itoa(port))
		if port != 0 {
			common.Listen = net.JoinHostPort(host, strconv.Itoa(port+i))
		}
		var seeds []string
		if seed != "" {
			seeds = []string{seed}
		}
		var hooks alert.Config
		if i == 0 {
			hooks = c.cfg.Webhooks
		}
		r, err := process.StartRouter(ctx, process.Router{
			Webhooks: hooks, SLO: c.cfg.SLO, Pages: pages,
			Common: common, Name: name, Fulfillment: fulfillment, Verifier: verifier, Operator: true, AdminListen: "127.0.0.1:0", TLS: c.cfg.TLS,
			DialCentre: c.dialer(name, c.cfg.Centre, nil),
			DialTo:     func(place string) process.Dialer { return c.dialer(name, place, c.links(place)) },
			Drills:     c.cfg.Drills, Saboteur: c.saboteur,
			Gossip: process.Gossip{Listen: "127.0.0.1:0", Seeds: seeds},
		})
		if err != nil {
			return "", fmt.Errorf("starting router %s: %w", name, err)
		}
		seed = cmp.Or(seed, r.GossipAddr)
		c.Routers = append(c.Routers, r.Addr())
		c.processes = append(c.processes, r)
		c.routers = append(c.routers, process.Stage{Name: "router " + name, Run: r.Run})
	}
	return seed, nil
}

func (c *Cluster) startRegions(ctx context.Context, seed, fulfillment, verifier string) error {
	for _, name := range c.cfg.Regions {
		common := c.common("region-" + name)
		if c.cfg.Split {
			args := []string{
				"region", "--name", name, "--zones", Zone(name), "--data", common.DataDir, "--listen", common.Listen,
				"--fulfillment", fulfillment, "--verifier", verifier, "--tokens", filepath.Join(c.cfg.DataDir, "tokens.json"),
				"--gossip-listen", "127.0.0.1:0", "--join", seed, "--reflection", "--log-level", levelOf(c.cfg.Log),
			}
			if c.cfg.Matrix != nil {
				rtt, _ := c.cfg.Matrix.RTT(name, c.cfg.Centre)
				args = append(args, "--emulate-rtt", rtt.String())
			}
			if c.cfg.Drills {
				args = append(args, "--drills")
			}
			args = append(args, c.cfg.TraceArgs...)
			node := &child{region: name, args: args, log: c.cfg.Log, started: c.cfg.OnChild}
			c.saboteur.own(name, node)
			c.regions = append(c.regions, process.Stage{Name: "region " + name, Run: node.run})
			continue
		}
		r, err := process.StartRegion(ctx, process.Region{
			Common: common, Name: name, Zones: []string{Zone(name)}, Fulfillment: fulfillment, Verifier: verifier,
			Dial: c.dialer(name, c.cfg.Centre, c.links(name)), Drills: c.cfg.Drills, Gossip: process.Gossip{Listen: "127.0.0.1:0", Seeds: []string{seed}},
		})
		if err != nil {
			return fmt.Errorf("starting region %s: %w", name, err)
		}
		c.regions = append(c.regions, process.Stage{Name: "region " + name, Run: r.Run})
	}
	return nil
}

// readyPoll is how often Ready looks: processes that start by themselves tell nobody when a router has found them.
const readyPoll = 20 * time.Millisecond

// Ready ends when every router reaches every region.
func (c *Cluster) Ready(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for _, r := range c.processes {
		for !r.Reaches(c.cfg.Regions...) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("waiting until every router reaches every region: %w", ctx.Err())
			}
		}
	}
	return nil
}

// Run serves until ctx ends, then stops viewers, routers, nodes and the centre in this order: who takes work in before
// who finishes it.
func (c *Cluster) Run(ctx context.Context) error {
	if ctx.Err() == nil {
		if err := c.show(); err != nil {
			return err
		}
	}
	var stages []process.Stage
	for _, group := range []struct {
		name   string
		stages []process.Stage
	}{
		{"the audience", c.audience}, {"the depot", c.depot}, {"routers", c.routers}, {"regions", c.regions}, {"the verifier", c.verifier}, {"fulfillment", c.fulfillment},
	} {
		if len(group.stages) > 0 {
			stages = append(stages, process.Together(group.name, group.stages...))
		}
	}
	defer context.AfterFunc(ctx, c.saboteur.healAll)()
	err := process.RunStages(ctx, stages...)
	for _, closeConn := range c.closers {
		err = errors.Join(err, closeConn())
	}
	return err
}

// show adds the audience and the demo drops, as far as they are asked for.
func (c *Cluster) show() error {
	if c.cfg.Viewers > 0 {
		var offers []offerv1.OfferServiceClient
		for _, addr := range c.Routers {
			for range viewerConns {
				conn, err := c.dial(addr, "")
				if err != nil {
					return err
				}
				offers = append(offers, offerv1.NewOfferServiceClient(conn))
			}
		}
		c.Audience = viewers.New(viewers.Config{
			Origins: []viewers.Origin{{Name: "dev", Offers: offers}}, PerMinute: c.cfg.Viewers, AbandonRate: 0.5, Payments: demoPayments, Think: 3 * time.Second,
			Delivery: demoAddress, Log: c.cfg.Log,
		})
		c.audience = append(c.audience, process.Stage{Name: "viewers", Run: func(ctx context.Context) error {
			if err := c.Ready(ctx); err != nil {
				return nil //nolint:nilerr // stopped before the doors opened
			}
			return c.Audience.Run(ctx)
		}})
	}
	if c.cfg.Demo {
		conn, err := c.dial(c.Routers[0], c.Tokens[auth.Producer])
		if err != nil {
			return err
		}
		d := &demo{catalog: fulfillmentv1.NewCatalogServiceClient(conn), crowd: c.Audience, log: c.cfg.Log}
		if len(c.cfg.SKUs) > 0 {
			d.sku = c.cfg.SKUs[0]
		}
		c.audience = append(c.audience, process.Stage{Name: "the demo", Run: d.run})
	}
	return nil
}

func (c *Cluster) dial(addr, token string) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(addr, rpc.DialConfig{Token: token, TLS: c.trust()})
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, conn.Close)
	return conn, nil
}

// trust is how the cluster's own clients know its routers: by the very certificate, whoever signed it for whatever name.
func (c *Cluster) trust() *tls.Config {
	if c.cfg.TLS == nil {
		return nil
	}
	want := c.cfg.TLS.Certificates[0].Certificate[0]
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(got tls.ConnectionState) error {
			if !bytes.Equal(got.PeerCertificates[0].Raw, want) {
				return errors.New("cluster: this is not our certificate")
			}
			return nil
		},
	}
}

// Zone is the residency zone of a cloud region by the first part of its name.
func Zone(region string) string {
	area, _, _ := strings.Cut(region, "-")
	if zone, ok := zones[area]; ok {
		return zone
	}
	return area
}

var zones = map[string]string{"europe": "eu", "southamerica": "sa", "northamerica": "na", "australia": "au"}

// TempDir makes a data directory that cleanup removes.
func TempDir() (dir string, cleanup func() error, err error) {
	dir, err = os.MkdirTemp("", "rimlight-dev-")
	if err != nil {
		return "", nil, fmt.Errorf("making a temporary data directory: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

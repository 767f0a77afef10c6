package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/webhook"
	"github.com/rimlight/rimlight/router/alert"
)

// serviceFlags are what every service of a real deployment takes.
type serviceFlags struct {
	Listen       string `help:"Where RPCs are served." required:"" placeholder:"ADDR"`
	Tokens       string `help:"Role tokens file (JSON), the same for all services; made at the first start." required:"" placeholder:"FILE"`
	TrustNetwork bool   `help:"The network between the services is the platform's own: tokens may travel in plaintext."`
	Reflection   bool   `help:"Let strangers list and describe the services, as gRPC's tools like to: for development."`
	LogLevel     string `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	traceFlags
	metricsFlags
}

// metricsFlags say where Prometheus finds the metrics.
type metricsFlags struct {
	MetricsListen string `help:"Serve /metrics to Prometheus there; default: nowhere." placeholder:"ADDR"`
}

func (f *serviceFlags) common(ctx context.Context, s *streams) (process.Common, error) {
	tokens, err := auth.LoadOrCreate(f.Tokens)
	if err != nil {
		return process.Common{}, err
	}
	log := newLog(s, f.LogLevel)
	traces, err := f.traceFlags.config(ctx, log)
	if err != nil {
		return process.Common{}, err
	}
	return process.Common{
		Listen: f.Listen, Tokens: tokens, TrustNetwork: f.TrustNetwork, Reflection: f.Reflection, Version: version,
		Log: log, Metrics: prometheus.NewRegistry(), MetricsListen: f.MetricsListen, Traces: traces,
	}, nil
}

type gossipFlags struct {
	GossipListen    string   `help:"The gossip ring's address, UDP and TCP; empty: no gossip." placeholder:"ADDR"`
	GossipAdvertise string   `help:"What others are told, when it differs." placeholder:"ADDR"`
	Join            []string `help:"Members of the ring to join." placeholder:"ADDR"`
	GossipKeys      string   `help:"File with one base64 key of 16, 24 or 32 bytes a line; the first encrypts, all decrypt." placeholder:"FILE"`
}

func (f *gossipFlags) gossip() (process.Gossip, error) {
	g := process.Gossip{Listen: f.GossipListen, Advertise: f.GossipAdvertise, Seeds: f.Join}
	if f.GossipListen == "" && len(f.Join) > 0 {
		return g, usageError{"--join needs --gossip-listen"}
	}
	if f.GossipKeys == "" {
		return g, nil
	}
	raw, err := os.ReadFile(f.GossipKeys)
	if err != nil {
		return g, fmt.Errorf("reading the gossip keys: %w", err)
	}
	for i, line := range strings.Fields(string(raw)) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return g, usageError{fmt.Sprintf("--gossip-keys: line %d is not base64", i+1)}
		}
		g.Keys = append(g.Keys, key)
	}
	return g, nil
}

// databaseFlags say where a central service keeps its state, other than in files.
type databaseFlags struct {
	Database      string `help:"Keep the state in this PostgreSQL database, which replicas share: postgres://USER@HOST/NAME. Other users see a password in the command line: give it in RIMLIGHT_DATABASE or PGPASSFILE." placeholder:"URL"`
	DatabaseConns int    `help:"The most connections to it." default:"16"`
}

func (f *databaseFlags) postgres() sqldb.PostgresConfig {
	return sqldb.PostgresConfig{URL: f.Database, MaxConns: f.DatabaseConns}
}

// centralFlags are serviceFlags of a service that a database can do without a directory for.
type centralFlags struct {
	serviceFlags
	Data string `help:"Where the state is kept, unless --database says otherwise." placeholder:"DIR"`
	databaseFlags
}

func (f *centralFlags) common(ctx context.Context, s *streams) (process.Common, error) {
	if (f.Data == "") == (f.Database == "") {
		return process.Common{}, usageError{"--data DIR or --database URL says where the state is kept: give one of them"}
	}
	common, err := f.serviceFlags.common(ctx, s)
	common.DataDir, common.Database = f.Data, f.postgres()
	return common, err
}

type fulfillmentCmd struct {
	centralFlags
	timeBackFlags
	RecoverWithout []string `help:"After a restore: nodes that are gone for good, so that nobody waits for their reports; what they may hold is out of sale for the claims window. Repeatable." placeholder:"UUID"`
}

func (c *fulfillmentCmd) Run(ctx context.Context, s *streams) error {
	common, err := c.common(ctx, s)
	if err != nil {
		return err
	}
	p, err := process.StartFulfillment(ctx, process.Fulfillment{Common: common, RecoverWithout: c.RecoverWithout, TimeBack: offWhenZero(c.TimeBack)})
	if err != nil {
		return err
	}
	return serve(ctx, s, "fulfillment", p.Addr(), p.Run)
}

type verifierCmd struct {
	centralFlags
	Fulfillment    string        `help:"Fulfillment's address; several, of replicas, are separated by commas." required:"" placeholder:"ADDR"`
	Profile        string        `help:"dev, or production, which refuses the test payment provider." enum:"dev,production" default:"dev"`
	RecoverWithout []string      `help:"After a restore: nodes that are gone for good, so that nobody waits for their journals; repeatable." placeholder:"UUID"`
	Retention      time.Duration `help:"How long after a drop is SETTLED its cancelled tokens, and which cards paid, are kept: 1m and more." default:"720h"`
	PaymentLatency time.Duration `help:"TEST: how long the test payment provider takes for each answer." default:"0s"`
	PaymentProfile string        `help:"TEST: instant, or realistic: answers around 250 ms, and hints that come late and twice." enum:"instant,realistic" default:"instant"`
}

func (c *verifierCmd) Run(ctx context.Context, s *streams) error {
	common, err := c.common(ctx, s)
	if err != nil {
		return err
	}
	p, err := process.StartVerifier(ctx, process.Verifier{
		Common: common, Fulfillment: c.Fulfillment, Profile: c.Profile, RecoverWithout: c.RecoverWithout, Retention: c.Retention, PaymentLatency: c.PaymentLatency,
		PaymentRealistic: c.PaymentProfile == "realistic",
	})
	if err != nil {
		return err
	}
	return serve(ctx, s, "verifier", p.Addr(), p.Run)
}

type regionCmd struct {
	serviceFlags
	Data string `help:"Where the state is kept." required:"" placeholder:"DIR"`
	gossipFlags
	Name        string        `help:"The region's name." required:""`
	NodeID      string        `name:"node-id" help:"With an empty --data: come back as this node, which lost its disk. What the lost disk held is put aside." placeholder:"UUID"`
	Zones       []string      `help:"Residency zones that it is in, for example eu."`
	Fulfillment string        `help:"Fulfillment's address; several, of replicas, are separated by commas." required:"" placeholder:"ADDR"`
	Verifier    string        `help:"The verifier's address, or addresses." required:"" placeholder:"ADDR"`
	Advertise   string        `help:"Where routers reach it, when that is not --listen." placeholder:"ADDR"`
	Drills      bool          `help:"Allow 'rimlight fault' to slow viewers' calls down or let them fail. Never where viewers pay."`
	Retire      bool          `help:"End this node for good: give back what it holds, seal its journal, forward all of it and exit. A sealed journal never sells again."`
	EmulateRTT  time.Duration `name:"emulate-rtt" help:"Delay connections to the centre by this round trip; for one machine that plays many."`
}

func (c *regionCmd) Run(ctx context.Context, s *streams) error {
	common, err := c.common(ctx, s)
	if err != nil {
		return err
	}
	common.DataDir = c.Data
	ring, err := c.gossip()
	if err != nil {
		return err
	}
	cfg := process.Region{
		Common: common, Name: c.Name, NodeID: c.NodeID, Zones: c.Zones, Fulfillment: c.Fulfillment, Verifier: c.Verifier, Advertise: c.Advertise, Gossip: ring,
		Drills: c.Drills, Retire: c.Retire,
	}
	if c.EmulateRTT > 0 {
		cfg.Dial = process.Delayed(c.EmulateRTT, nil)
	}
	p, err := process.StartRegion(ctx, cfg)
	if err != nil {
		return err
	}
	if !c.Retire {
		return serve(ctx, s, "region "+c.Name, p.Addr(), p.Run)
	}
	s.progress("waiting for fulfillment and the verifier to take what the node has")
	if err := p.Run(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return refusal{"the node has not retired yet; the same command goes on"}
	}
	fmt.Fprintf(s.err, "node %s of region %s has retired; its data directory is not needed any more\n", p.NodeID, c.Name)
	return nil
}

// alertFlags say whom a router tells of slips.
type alertFlags struct {
	Webhook       []string `help:"Tell this URL of slips that begin and end, as Standard Webhooks; repeatable." placeholder:"URL"`
	WebhookSecret string   `help:"File with the secret that signs them (whsec_...); made at the first start." placeholder:"FILE"`
}

// webhooks reads the secret; the default is where it is kept without a flag.
func (f *alertFlags) webhooks(fallback string) (alert.Config, error) {
	if len(f.Webhook) == 0 {
		return alert.Config{}, nil
	}
	path := cmp.Or(f.WebhookSecret, fallback)
	if path == "" {
		return alert.Config{}, usageError{"--webhook needs --webhook-secret FILE"}
	}
	secret, err := webhook.LoadOrCreateSecret(path)
	if err != nil {
		return alert.Config{}, err
	}
	c := alert.Config{URLs: f.Webhook, Secret: secret}
	if err := c.Validate(); err != nil {
		return c, usageError{"--webhook: " + err.Error()}
	}
	return c, nil
}

type routerCmd struct {
	alertFlags
	sloFlags
	tlsFlags
	gossipFlags
	Listen         string            `help:"The public port." default:"127.0.0.1:8080" placeholder:"ADDR"`
	AdminListen    string            `help:"The operator port." default:"127.0.0.1:8081" placeholder:"ADDR"`
	AdminAdvertise string            `help:"Where other routers reach the operator port, when that is not --admin-listen." placeholder:"ADDR"`
	Name           string            `help:"The router's name; default: the host's." placeholder:"NAME"`
	Regions        map[string]string `name:"region" help:"A region's node without gossip; repeatable." placeholder:"NAME=ADDR"`
	ForwardService []string          `help:"Forward this service too, as it is; repeatable." placeholder:"FULL.NAME"`
	Fulfillment    string            `help:"Fulfillment's address, or addresses separated by commas, for the operator port." placeholder:"ADDR"`
	Verifier       string            `help:"The verifier's address, or addresses, for the operator port." placeholder:"ADDR"`
	Data           string            `help:"Where the audit log of operators' changes is kept, and what was measured for the next start; without it, in memory." placeholder:"DIR"`
	Drills         bool              `help:"Allow 'rimlight fault' to break regions for a while. Never where viewers pay."`
	Tokens         string            `help:"Role tokens file (JSON), the same for all services; without it no operator can change anything." placeholder:"FILE"`
	TrustNetwork   bool              `help:"The network between the services is the platform's own: tokens may travel in plaintext."`
	Reflection     bool              `help:"Let strangers list and describe the services, as gRPC's tools like to: for development."`
	MaxRecv        int               `help:"The longest message of forwarded services, in bytes." default:"4194304"`
	MaxConnections int               `help:"The most connections of the public port; each takes a file descriptor." default:"16000"`
	MaxStreams     int               `help:"The most streams of the public port, over all connections; each takes memory." default:"20000"`
	LogLevel       string            `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	traceFlags
}

func (c *routerCmd) Run(ctx context.Context, s *streams) error {
	host, err := os.Hostname()
	if err != nil && c.Name == "" {
		return usageError{"the host has no name; give --name"}
	}
	ring, err := c.gossip()
	if err != nil {
		return err
	}
	if ring.Listen == "" && len(c.Regions) == 0 {
		return usageError{"a router needs --region NAME=ADDR, or --gossip-listen with --join, to know where regions are"}
	}
	secure, err := c.tls()
	if err != nil {
		return err
	}
	var tokens auth.Tokens
	if c.Tokens != "" {
		if tokens, err = auth.LoadOrCreate(c.Tokens); err != nil {
			return err
		}
	}
	hooks, err := c.webhooks("")
	if err != nil {
		return err
	}
	log := newLog(s, c.LogLevel)
	traces, err := c.traceFlags.config(ctx, log)
	if err != nil {
		return err
	}
	objectives, err := c.sloFlags.config(c.ForwardService)
	if err != nil {
		return err
	}
	p, err := process.StartRouter(ctx, process.Router{
		Webhooks: hooks, SLO: objectives,
		Common: process.Common{
			Listen: c.Listen, DataDir: c.Data, Tokens: tokens, TrustNetwork: c.TrustNetwork, Reflection: c.Reflection, Version: version,
			Log: log, Metrics: prometheus.NewRegistry(), Traces: traces,
		},
		Name: cmp.Or(c.Name, host), AdminListen: c.AdminListen, AdminAdvertise: c.AdminAdvertise, TLS: secure, Regions: c.Regions,
		ForwardServices: c.ForwardService, Fulfillment: c.Fulfillment, Verifier: c.Verifier, MaxRecvBytes: c.MaxRecv, Gossip: ring, Drills: c.Drills,
		MaxConnections: c.MaxConnections, MaxStreams: c.MaxStreams,
	})
	if err != nil {
		return err
	}
	return serve(ctx, s, "router "+cmp.Or(c.Name, host), p.Addr(), p.Run)
}

// tlsFlags are what every command that opens a public port takes.
type tlsFlags struct {
	TLSCert string `name:"tls-cert" help:"Certificate chain of the public port, PEM; with --tls-key." placeholder:"FILE"`
	TLSKey  string `name:"tls-key" help:"Its private key, PEM." placeholder:"FILE"`
}

// tls is the public port's certificate; nil without one.
func (f *tlsFlags) tls() (*tls.Config, error) {
	if f.TLSCert == "" && f.TLSKey == "" {
		return nil, nil
	}
	if f.TLSCert == "" || f.TLSKey == "" {
		return nil, usageError{"--tls-cert and --tls-key go together"}
	}
	pair, err := tls.LoadX509KeyPair(f.TLSCert, f.TLSKey)
	if err != nil {
		return nil, usageError{fmt.Sprintf("--tls-cert, --tls-key: %v", err)}
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// serve says where a service listens and runs it until it is told to stop.
func serve(ctx context.Context, s *streams, name, addr string, run func(context.Context) error) error {
	fmt.Fprintf(s.err, "%s listens on %s\n", name, addr)
	return run(ctx)
}

// Package process puts each service together the way it runs in production: stores opened, RPCs listening, loops
// running, and all of it stopped in an order that loses nothing.
//
//	Start* opens and listens (Addr is known), Run serves until its context ends, then drains:
//	RPCs first, then the service's loops, then its store.
//
// The commands `rimlight router|region|verifier|fulfillment|node` run one of these each; internal/cluster runs all of them in
// one process for `rimlight dev`. The only thing that differs there is how connections are dialled.
package process

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/internal/filelock"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// Dialer opens connections to the process at an address.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

// Common is what every service of a deployment is given.
type Common struct {
	// Listen is where RPCs are served, host:port; port 0 takes a free one.
	Listen string
	// DataDir keeps the state; it is made if it does not exist.
	DataDir string
	// Database is where a central service keeps its state instead, when it has a URL; each store takes the schema of its
	// own name. Replicas of a service are given the same one.
	Database sqldb.PostgresConfig
	// Tokens are the deployment's role tokens.
	Tokens auth.Tokens
	// TrustNetwork lets the service token travel in plaintext to other hosts: a network that only the platform uses.
	TrustNetwork bool
	// Reflection lets strangers list and describe the services, as gRPC's tools like to: for development.
	Reflection bool
	// Version is the program's.
	Version string
	// Log takes what operators should see. Required.
	Log *slog.Logger
	// Metrics takes the collectors. Required, but of a router: without it that one counts nothing, which tells what counting costs.
	Metrics *prometheus.Registry
	// MetricsListen is where Prometheus finds them, host:port; empty: nowhere. Routers have them on their operator port, too.
	MetricsListen string
	// Traces is where traces go, and which; the zero value traces nothing.
	Traces telemetry.Config
}

// registerer is Metrics, or nil.
func (c Common) registerer() prometheus.Registerer {
	if c.Metrics == nil {
		return nil
	}
	return c.Metrics
}

// Process is a service that listens.
type Process struct {
	// MetricsAddr is where Prometheus finds the metrics; empty: nowhere.
	MetricsAddr string

	listener net.Listener
	stages   []Stage
	last     []Stage // what stops after them
	closers  []func() error
	tracer   *telemetry.Tracer // nil: no traces
}

// observe makes the tracer of a service, and opens the port of its metrics.
func (p *Process) observe(c Common, service, instance string) (err error) {
	if err := p.serveMetrics(c); err != nil {
		return err
	}
	if p.tracer, err = telemetry.New(c.Traces, service, instance, c.Version, c.registerer()); err != nil || p.tracer == nil {
		return err
	}
	p.onClose(func() error { // after everything that may have a span
		ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
		defer cancel()
		if err := c.Traces.Sink.ForceFlush(ctx); err != nil {
			c.Log.Warn("the last traces were not sent", "error", err)
		}
		return nil
	})
	return nil
}

// flushWithin is how long the end of a process may wait for a collector that does not answer.
const flushWithin = 2 * time.Second

// Addr is where it listens.
func (p *Process) Addr() string { return p.listener.Addr().String() }

// Run serves until ctx ends and everything has drained, then closes what Start opened.
func (p *Process) Run(ctx context.Context) error {
	err := RunStages(ctx, slices.Concat(p.stages, p.last)...)
	for i := len(p.closers) - 1; i >= 0; i-- {
		if cerr := p.closers[i](); cerr != nil && err == nil {
			err = cerr
		}
	}
	return err
}

// abandon closes what a Start that failed had opened.
func (p *Process) abandon() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		_ = p.closers[i]() // the error that made Start fail is the one to tell
	}
}

func (p *Process) onClose(fn func() error) { p.closers = append(p.closers, fn) }

// listen opens the port and makes the server behind it.
func (p *Process) listen(c Common, name string, rules auth.Rules, options func(*rpc.ServerConfig)) (*rpc.Server, error) {
	lis, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", name, err)
	}
	p.listener = lis
	p.onClose(func() error {
		_ = lis.Close() // the server has closed it already, unless it never ran
		return nil
	})
	return p.server(c, name, rules, options)
}

// server makes a server that listens nowhere yet.
func (p *Process) server(c Common, name string, rules auth.Rules, options func(*rpc.ServerConfig)) (*rpc.Server, error) {
	cfg := rpc.ServerConfig{
		Name: name, Log: c.Log, Tokens: c.Tokens, Rules: rules, Reflection: c.Reflection, Traces: p.tracer,
	}
	if c.Metrics != nil {
		cfg.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"server": name}, c.Metrics)
	}
	if options != nil {
		options(&cfg)
	}
	return rpc.NewServer(cfg)
}

// dial connects to another service of the platform with the service role's token.
func (p *Process) dial(c Common, addr string, dialer Dialer) (*grpc.ClientConn, error) {
	return p.dialAs(auth.Service, c, addr, dialer)
}

func (p *Process) dialAs(role auth.Role, c Common, addr string, dialer Dialer) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(addr, rpc.DialConfig{Token: c.Tokens[role], TrustNetwork: c.TrustNetwork, Dialer: dialer})
	if err != nil {
		return nil, err
	}
	p.onClose(conn.Close)
	return conn, nil
}

// openStore opens and migrates a store of a central service: a schema of the deployment's PostgreSQL database, which
// replicas share, or a file in the data directory. A file is this process's alone: SQLite itself would let a second one
// in, and each would drive the same jobs. A file that breaks ends the process at once: going on after a failed fsync would
// build on pages that may not be there.
func (p *Process) openStore(ctx context.Context, c Common, name string, migrate func(context.Context, *sqldb.DB) error) (*sqldb.DB, error) {
	if c.Database.URL != "" {
		cfg := c.Database
		cfg.Schema = name
		db, err := sqldb.OpenPostgres(ctx, cfg)
		if err != nil {
			return nil, err
		}
		p.onClose(db.Close)
		return db, migrate(ctx, db)
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(c.DataDir, name+".db")
	lock, err := filelock.Acquire(path + ".lock")
	if err != nil {
		return nil, err
	}
	p.onClose(lock.Close)
	db, err := sqldb.OpenSQLite(ctx, path)
	if err != nil {
		return nil, err
	}
	p.onClose(db.Close)
	db.OnBroken = func(err error) {
		c.Log.Error("a commit failed: stopping, what is on disk counts", "store", path, "error", err)
		os.Exit(brokenStoreExit)
	}
	return db, migrate(ctx, db)
}

// brokenStoreExit is the exit code after a failed fsync, so that a supervisor can tell it from a crash.
const brokenStoreExit = 70

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rimlight/rimlight/internal/cluster"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/wan"
)

type devCmd struct {
	tlsFlags
	alertFlags
	sloFlags
	timeBackFlags
	Listen  string   `help:"First router: public and operator port in one; further routers take the next ports." default:"127.0.0.1:8080"`
	Data    string   `help:"Keep the state here and go on from it; default: a fresh temporary directory, removed at exit." placeholder:"DIR"`
	Regions []string `help:"Where nodes stand." default:"asia-southeast1,europe-west3,southamerica-east1,us-central1"`
	Routers []string `help:"Where routers stand." default:"europe-west1,us-west1,asia-south1"`
	Centre  string   `help:"Where verifier and fulfillment stand." default:"us-central1"`
	RTT     string   `name:"rtt" help:"Another matrix of round-trip times, in the CSV form of internal/wan." placeholder:"FILE"`
	Viewers int      `help:"Synthetic viewers per minute; 0 is quiet." default:"60"`
	Split   bool     `help:"Run each region's node as a process of its own and print its pid, so that it can be killed."`
	Drills  bool     `help:"Allow 'rimlight fault' to break regions for a while."`
	databaseFlags
	traceFlags
	LogLevel string `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"warn"`
}

// readyWithin bounds the start. It is far above the second or two that it takes, so only something broken meets it.
const readyWithin = 60 * time.Second

func (c *devCmd) Run(ctx context.Context, s *streams) (err error) {
	if c.Viewers < 0 {
		return usageError{"--viewers must not be negative"}
	}
	matrix, err := loadMatrix(c.RTT)
	if err != nil {
		return err
	}
	secure, err := c.tls()
	if err != nil {
		return err
	}
	cfg := cluster.Config{
		Listen: c.Listen, TLS: secure, Regions: c.Regions, Routers: c.Routers, Centre: c.Centre, Matrix: matrix,
		Database: c.postgres(), Viewers: c.Viewers, Demo: true, SKUs: []string{"poster"}, Storefront: true, Split: c.Split, Drills: c.Drills, Version: version, Log: newLog(s, c.LogLevel),
	}
	if cfg.Traces, err = c.traceFlags.config(ctx, cfg.Log); err != nil {
		return err
	}
	if cfg.SLO, err = c.sloFlags.config(nil); err != nil {
		return err
	}
	cfg.TimeBack, cfg.TraceArgs = offWhenZero(c.TimeBack), c.args()
	if err := cfg.Validate(); err != nil {
		return usageError{err.Error()}
	}
	dir := c.Data
	if dir == "" {
		fresh, cleanup, err := cluster.TempDir()
		if err != nil {
			return err
		}
		defer func() {
			if cerr := cleanup(); cerr != nil {
				fmt.Fprintf(s.err, "rimlight: removing the data directory: %v\n", cerr)
			}
		}()
		dir = fresh
	}
	started := time.Now()
	var pidLine sync.Mutex
	cfg.DataDir = dir
	if cfg.Webhooks, err = c.webhooks(filepath.Join(dir, "webhook-secret")); err != nil {
		return err
	}
	cfg.OnChild = func(region string, pid int) {
		pidLine.Lock()
		defer pidLine.Unlock()
		fmt.Fprintf(s.out, "region %s runs as process %d\n", region, pid)
	}
	platform, err := cluster.Start(ctx, cfg)
	if err != nil {
		return err
	}
	forget, err := c.leaveCredentials(platform)
	if err != nil {
		return err
	}
	defer forget()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		defer stop() // what ends early is not waited for to come up
		done <- platform.Run(ctx)
	}()
	ready, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := platform.Ready(ready); err != nil && ctx.Err() == nil {
		stop()
		return errors.Join(fmt.Errorf("the platform is not up after %v: %w", readyWithin, err), <-done)
	}
	if ctx.Err() == nil {
		c.welcome(s, platform, dir, time.Since(started))
	}
	if err := <-done; err != nil {
		return err
	}
	fmt.Fprintln(s.out, "stopped: everything that was accepted is on disk")
	return nil
}

// leaveCredentials lets clients on this machine find the role tokens, for every router.
func (c *devCmd) leaveCredentials(p *cluster.Cluster) (forget func(), err error) {
	var all []func()
	forget = func() {
		for _, f := range all {
			f()
		}
	}
	for _, addr := range p.Routers {
		f, err := saveCredentials(addr, auth.Tokens(p.Tokens))
		if err != nil {
			forget()
			return nil, err
		}
		all = append(all, f)
	}
	return forget, nil
}

func (c *devCmd) welcome(s *streams, p *cluster.Cluster, dir string, took time.Duration) {
	kept := "kept"
	if c.Data == "" {
		kept = "removed at exit"
	}
	fmt.Fprintf(s.out, `Rimlight %s is up after %.1f s. TEST payments only.

  shop      %s/
  routers   %s
  regions   %s, centre %s
  drops     a 90 s drop every minute, by turns of two channels; every third has 20 units and a crowd
            beside every second one prints, which a depot sends as parcels
  viewers   %d a minute
  data      %s (%s)

Try in another terminal:
%s
Ctrl-C stops it in order.
`, version, took.Seconds(), c.scheme()+"://"+p.Routers[0], strings.Join(routerLines(c.scheme(), c.Routers, p.Routers), "\n            "),
		strings.Join(c.Regions, ", "), c.Centre, c.Viewers, dir, kept, hints(os.Args[0], c.scheme()+"://"+p.Routers[0]))
}

// hints are commands to try, as they can be pasted into the shell that started program.
func hints(program, router string) string {
	where := ""
	if router != defaultRouter {
		where = " --router " + router
	}
	var text strings.Builder
	for _, verb := range [][2]string{
		{"buy", "buy one unit and follow it to the licence key"},
		{"buy --payment tp_decline", "be declined, and get a voucher"},
		{"regions", "who is fast from where"},
		{"audit", "do the books balance?"},
	} {
		fmt.Fprintf(&text, "  %s %-*s  %s\n", program, len("buy --payment tp_decline")+len(where), verb[0]+where, verb[1])
	}
	return text.String()
}

func (c *devCmd) scheme() string {
	if c.TLSCert != "" {
		return "https"
	}
	return "http"
}

func routerLines(scheme string, names, addrs []string) []string {
	lines := make([]string, len(names))
	for i := range names {
		lines[i] = fmt.Sprintf("%s://%s  %s", scheme, addrs[i], names[i])
	}
	return lines
}

func loadMatrix(path string) (*wan.Matrix, error) {
	if path == "" {
		return wan.Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError{fmt.Sprintf("--rtt: %v", err)}
	}
	m, err := wan.Parse(f)
	_ = f.Close() // read to its end, or refused
	if err != nil {
		return nil, usageError{fmt.Sprintf("--rtt %s: %v", path, err)}
	}
	return m, nil
}

func newLog(s *streams, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo // the parser lets only levels through
	}
	return slog.New(slog.NewTextHandler(s.err, &slog.HandlerOptions{Level: l}))
}

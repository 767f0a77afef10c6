package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/router/sim"
)

// units of the drop: none is sold, and every node must hold some to be asked.
const units = 6000

// platform is one set of processes.
type platform struct {
	program string
	plan    *sim.Plan
	job     job // what all children share
	regions []*child
	addrs   []string // of the regions
	routers []*child
	fronts  []string // addresses of the routers
	drop    string
}

// measure plays one part with one policy, on processes of its own.
func (s *suite) measure(ctx context.Context, plan *sim.Plan, j job) (m *measured, err error) {
	j.Tokens = auth.NewTokens()
	fulfillment, err := process.StartFulfillment(ctx, process.Fulfillment{Common: process.Common{
		Listen: "127.0.0.1:0", DataDir: filepath.Join(j.Dir, "fulfillment"), Tokens: j.Tokens, Log: silent(), Metrics: prometheus.NewRegistry(),
	}})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	go func() { stopped <- fulfillment.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-stopped)
	}()
	j.Fulfillment = fulfillment.Addr()
	p := &platform{program: s.program, plan: plan, job: j}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p.play(ctx)
}

// start starts the regions, waits until each has stock, then the routers, which probe before they say that they listen.
func (p *platform) start(ctx context.Context) error {
	p.regions, p.addrs = make([]*child, len(p.plan.Regions)), make([]string, len(p.plan.Regions))
	err := p.each(len(p.regions), func(i int) (err error) {
		p.regions[i], p.addrs[i], err = p.region(i, "127.0.0.1:0")
		return err
	})
	if err != nil {
		return err
	}
	if err := p.openDrop(ctx); err != nil {
		return err
	}
	j := p.job
	j.Role, j.Regions = "router", map[string]string{}
	for i, name := range p.plan.Regions {
		j.Regions[name] = p.addrs[i]
	}
	p.routers, p.fronts = make([]*child, len(p.plan.Origins)), make([]string, len(p.plan.Origins))
	return p.each(len(p.routers), func(i int) (err error) {
		mine := j
		mine.Index = i
		p.routers[i], p.fronts[i], err = spawn(p.program, mine)
		return err
	})
}

func (p *platform) each(n int, do func(i int) error) error {
	var g errgroup.Group
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}

func (p *platform) region(i int, listen string) (*child, string, error) {
	j := p.job
	j.Role, j.Index, j.Listen = "region", i, listen
	return spawn(p.program, j)
}

// openDrop plans a drop that is open at once, and waits until every node holds units of it.
func (p *platform) openDrop(ctx context.Context) error {
	conn, err := rpc.Dial(p.job.Fulfillment, rpc.DialConfig{Token: p.job.Tokens[auth.Producer]})
	if err != nil {
		return err
	}
	created, err := fulfillmentv1.NewCatalogServiceClient(conn).CreateDrop(ctx, &fulfillmentv1.CreateDropRequest{
		RequestId: ids.NewV7(time.Now(), rand.Reader), ChannelId: "bench", Title: "Signed session recording",
		Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}, Units: units, OpenTime: timestamppb.Now(), Duration: durationpb.New(time.Hour),
	})
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("planning a drop: %w", err)
	}
	p.drop = created.GetDrop().GetDrop().GetDropId()
	ctx, cancel := context.WithTimeout(ctx, startingTakes)
	defer cancel()
	return p.each(len(p.addrs), func(i int) error { return p.holdsStock(ctx, p.addrs[i]) })
}

func (p *platform) holdsStock(ctx context.Context, addr string) (err error) {
	conn, err := rpc.Dial(addr, rpc.DialConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		probe, err := regionv1.NewRegionServiceClient(conn).Probe(ctx, &regionv1.ProbeRequest{Router: "bench"}) // refuses until the node has joined
		for _, s := range probe.GetStock() {
			if s.GetDropId() == p.drop && s.GetUntouched() > 0 {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the node's stock: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// settling is from the last child's start to the scenario's: connections open and the first probes are back.
const settling = 500 * time.Millisecond

// play lets the viewers call and the faults happen.
func (p *platform) play(ctx context.Context) (*measured, error) {
	b := begin{At: time.Now().Add(settling)}
	for _, c := range append(append([]*child(nil), p.routers...), p.regions...) {
		if err := c.tell(b); err != nil {
			return nil, fmt.Errorf("starting the clock: %w", err)
		}
	}
	var faults sync.WaitGroup
	failed := make(chan error, len(p.plan.Faults))
	for _, f := range p.plan.Faults {
		faults.Go(func() { failed <- p.suffer(ctx, b, f) })
	}
	m, err := p.callAll(ctx, b.At)
	faults.Wait()
	close(failed)
	for ferr := range failed {
		err = errors.Join(err, ferr)
	}
	if err != nil {
		return nil, err
	}
	var all spent
	for i, c := range p.routers {
		p.routers[i] = nil
		var s spent
		if err := c.end(&s); err != nil {
			return nil, fmt.Errorf("stopping a router: %w", err)
		}
		all.Attempts += s.Attempts
		all.Probes += s.Probes
	}
	counted := float64(m.tally.Calls()) / float64(m.calls) // of what was spent, the learning before is not in the figures
	m.tally.Spent(int(float64(all.Attempts)*counted), int(float64(all.Probes)*counted))
	return m, nil
}

// suffer lets one region's process die or stand still; the other faults are the children's own doing.
func (p *platform) suffer(ctx context.Context, b begin, f sim.PlannedFault) error {
	if f.Kind != "kill_reset" && f.Kind != "kill_hole" || !sleepUntil(ctx, b.At.Add(f.From)) {
		return ctx.Err()
	}
	c := p.regions[f.Region]
	if f.Kind == "kill_hole" {
		if err := c.signal(syscall.SIGSTOP); err != nil {
			return fmt.Errorf("stopping a region: %w", err)
		}
		sleepUntil(ctx, b.At.Add(f.To)) // else the end is near, and it must be awake for it
		return c.signal(syscall.SIGCONT)
	}
	p.regions[f.Region] = nil
	if err := c.kill(); err != nil {
		return fmt.Errorf("killing a region: %w", err)
	}
	if !sleepUntil(ctx, b.At.Add(f.To)) {
		return ctx.Err()
	}
	c, _, err := p.region(f.Region, p.addrs[f.Region])
	if err != nil {
		return err
	}
	p.regions[f.Region] = c
	return c.tell(b)
}

// sleepUntil waits for a moment; false when the context ends first.
func sleepUntil(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// close ends what still runs. Regions need not drain: nobody bought anything.
func (p *platform) close() error {
	var errs []error
	for _, c := range append(p.routers, p.regions...) {
		if c != nil {
			errs = append(errs, c.kill())
		}
	}
	return errors.Join(errs...)
}

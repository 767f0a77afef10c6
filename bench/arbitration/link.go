package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router/sim"
)

// link is the path between a router and a region: the matrix's delay, and what the scenario does to it. TCP makes cuts and
// losses into waiting: what is written meanwhile arrives afterwards, in order.
type link struct {
	plan           *sim.Plan
	router, region int
	now            *clock
}

// resend is Linux's least retransmission timeout; the lost bytes then cross once more.
const resend = 200 * time.Millisecond

type direction string

const (
	toRegion   direction = "to"
	fromRegion direction = "from"
)

// dialer opens connections over the link. While it is cut either way no handshake succeeds.
func (l *link) dialer() process.Dialer {
	direct := func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	rtt := l.plan.RTT[l.router][l.region]
	delayed := wan.Dialer(direct, wan.Path{RTT: func() time.Duration { return rtt }})
	return func(ctx context.Context, addr string) (net.Conn, error) {
		for _, way := range []direction{toRegion, fromRegion} {
			if err := l.hold(ctx.Done(), way, 1); err != nil {
				return nil, fmt.Errorf("dialling %s: %w", addr, err)
			}
		}
		conn, err := delayed(ctx, addr)
		if err != nil {
			return nil, err
		}
		return &linked{Conn: conn, link: l, closed: make(chan struct{})}, nil
	}
}

// hold waits as long as bytes that are sent now are held up; luck in [0,1) decides whether they are lost once.
func (l *link) hold(given <-chan struct{}, way direction, luck float64) error {
	for wait := l.held(way, luck); wait > 0; wait = l.held(way, 1) { // who was lost once arrives the second time
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-given:
			timer.Stop()
			return net.ErrClosed
		}
	}
	return nil
}

func (l *link) held(way direction, luck float64) time.Duration {
	now := l.now.now()
	longest := time.Duration(0)
	for _, f := range l.plan.Faults {
		if f.Region != l.region || !f.Routers[l.router] || !active(f, now) {
			continue
		}
		switch f.Kind {
		case "cut", "cut_" + string(way):
			longest = max(longest, f.To-now)
		case "loss_" + string(way):
			if luck < f.Share {
				longest = max(longest, resend+l.plan.RTT[l.router][l.region])
			}
		}
	}
	return longest
}

// linked is a connection over a link.
type linked struct {
	net.Conn
	link      *link
	closeOnce sync.Once
	closed    chan struct{}
}

// Write implements net.Conn.
func (c *linked) Write(b []byte) (int, error) {
	if err := c.link.hold(c.closed, toRegion, rand.Float64()); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *linked) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		if err := c.link.hold(c.closed, fromRegion, rand.Float64()); err != nil {
			return 0, err
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *linked) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

package router

import (
	"context"
	"log/slog"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/measure"
)

// Role is what a member of the ring is.
type Role uint8

// The roles that routers care about.
const (
	RoleOther Role = iota
	RoleRouter
	RoleRegion
)

// State is a member's state as gossip sees it.
type State string

// The states. Gossip confirms a death; that a node does not answer is found by the probes long before.
const (
	Alive   State = "alive"
	Suspect State = "suspect"
	Dead    State = "dead"
	Left    State = "left"
)

// Member is one member of the gossip ring.
type Member struct {
	ID      string // role/name/boot id
	Role    Role
	Name    string // router or region name
	Address string // where it serves RPCs; a router serves RouterAdminService there
	Zones   []string
	Mode    regionv1.RegionMode
	NodeID  string
	State   State
	Version string
}

func (m Member) present() bool { return m.State == Alive || m.State == Suspect }

func (m Member) target() measure.Target {
	return measure.Target{
		Region: m.Name, NodeID: m.NodeID, Address: m.Address, Zones: m.Zones, Mode: measure.ModeOf(m.Mode), Version: m.Version,
		Suspect: m.State == Suspect,
	}
}

// Membership is the gossip ring as a router reads it.
type Membership interface {
	// Members is the newest list, this router included.
	Members() []Member
	// Changes brings a value after the list has changed; several changes may bring one.
	Changes() <-chan struct{}
}

// closeDelay is how long a removed node's connection stays, so that calls in it can end: longer than any unary call.
const closeDelay = 10 * time.Second

// members is the ring, or nobody without gossip.
func (r *Router) members() []Member {
	if r.deps.Membership == nil {
		return nil
	}
	return r.deps.Membership.Members()
}

// follow takes in the newest members and returns the connections that nobody needs any more.
func (r *Router) follow() []Conn {
	var targets []measure.Target
	nodes, peers := map[string]endpoint{}, map[string]endpoint{}
	add := func(t measure.Target) {
		if _, there := nodes[t.Key()]; !there {
			nodes[t.Key()] = endpoint{t.Region, t.Address}
			targets = append(targets, t)
		}
	}
	for _, m := range r.members() { // before the flags: gossip knows more of the same node
		switch {
		case !m.present():
		case m.Role == RoleRegion:
			add(m.target())
		case m.Role == RoleRouter && m.Name != r.config.Name:
			peers[m.target().Key()] = endpoint{m.Name, m.Address}
		}
	}
	for _, s := range r.config.Regions {
		add(measure.Target{Region: s.Name, Address: s.Address, Zones: s.Zones})
	}
	retired, errs := r.nodes.set(nodes)
	retiredPeers, peerErrs := r.peers.set(peers)
	for _, err := range append(errs, peerErrs...) {
		r.deps.Log.Error("dialling failed", slog.Any("error", err))
	}
	for _, conn := range r.peers.all() {
		if c, ok := conn.(interface{ Connect() }); ok {
			c.Connect() // an SRE's first question must not wait for handshakes: peers have 500 ms
		}
	}
	r.table.Set(targets)
	select {
	case r.met <- struct{}{}:
	default: // one notice is waiting already
	}
	return append(retired, retiredPeers...)
}

// followAll follows the ring until the context ends.
func (r *Router) followAll(ctx context.Context) error {
	var changes <-chan struct{}
	if r.deps.Membership != nil {
		changes = r.deps.Membership.Changes()
	}
	type batch struct {
		conns []Conn
		due   time.Time
	}
	var retired []batch
	timer := time.NewTimer(0)
	defer timer.Stop()
	retire := func(conns []Conn) {
		if len(conns) > 0 {
			retired = append(retired, batch{conns, time.Now().Add(closeDelay)})
			if len(retired) == 1 {
				timer.Reset(closeDelay)
			}
		}
	}
	retire(r.follow())
	for {
		select {
		case <-ctx.Done():
			for _, b := range retired {
				r.closeAll(b.conns)
			}
			return nil
		case _, open := <-changes:
			if !open {
				changes = nil // the ring ended; what it said last stays
			}
			retire(r.follow())
		case <-timer.C:
			for len(retired) > 0 && !time.Now().Before(retired[0].due) {
				r.closeAll(retired[0].conns)
				retired = retired[1:]
			}
			if len(retired) > 0 {
				timer.Reset(time.Until(retired[0].due))
			}
		}
	}
}

func (r *Router) closeAll(conns []Conn) {
	for _, c := range conns {
		if err := c.Close(); err != nil {
			r.deps.Log.Warn("closing a connection failed", slog.Any("error", err))
		}
	}
}

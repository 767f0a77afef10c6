package simnet

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	_ "google.golang.org/grpc/encoding/proto" // registers the codec that hosts and connections use by default
)

// Host is a process that serves. It implements grpc.ServiceRegistrar.
type Host struct {
	net  *Network
	name string

	// Guarded by the network's mutex.
	options  ServerOptions
	services map[string]*service
	down     bool
	life     context.Context // of the handlers; ends when the host goes down
	kill     context.CancelFunc
}

// ServerOptions are what grpc.NewServer would take as options.
type ServerOptions struct {
	// Unary and Stream are chains; the first is the outermost.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
	// Unknown handles methods that nobody registered, see grpc.UnknownServiceHandler.
	Unknown grpc.StreamHandler
	// Codec replaces the proto codec.
	Codec encoding.CodecV2
}

type service struct {
	impl    any
	methods map[string]*grpc.MethodDesc
	streams map[string]*grpc.StreamDesc
}

// Configure replaces the options, for calls that arrive from now on.
func (h *Host) Configure(options ServerOptions) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.options = options
}

// RegisterService implements grpc.ServiceRegistrar. Registering a service again replaces it: a process that starts
// again registers anew.
func (h *Host) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s := &service{impl: impl, methods: map[string]*grpc.MethodDesc{}, streams: map[string]*grpc.StreamDesc{}}
	for i := range desc.Methods {
		s.methods[desc.Methods[i].MethodName] = &desc.Methods[i]
	}
	for i := range desc.Streams {
		s.streams[desc.Streams[i].StreamName] = &desc.Streams[i]
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.services[desc.ServiceName] = s
}

// Down kills the host: handlers' contexts end, calls to and from it fail with UNAVAILABLE, and nothing that it still
// sends leaves it. Messages under way to others still arrive.
func (h *Host) Down() {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.down {
		return
	}
	h.down = true
	h.kill()
	gone := status.Newf(codes.Unavailable, "simnet: %s went down", h.name)
	for _, c := range n.sorted() {
		switch {
		case c.up.from == h.name:
			n.stats.Broken++
			n.endClient(c, gone)
			if c.cancel != nil && c.up.to != h.name {
				n.at(n.now()+n.draw(c.up.path, c.method).delay, c.cancel)
			}
		case c.host == h && c.end == nil:
			n.stats.Broken++
			n.sendEnd(c, gone)
			c.down.dead = true
		}
	}
}

// Up starts the host again, with the services that it had.
func (h *Host) Up() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.down && !h.net.closed {
		h.down = false
		h.life, h.kill = context.WithCancel(context.Background())
	}
}

// find looks a full method name up ("/package.Service/Method"). The mutex is held.
func (h *Host) find(method string) (*service, *grpc.MethodDesc, *grpc.StreamDesc) {
	for i := len(method) - 1; i > 0; i-- {
		if method[i] == '/' {
			if s := h.services[method[1:i]]; s != nil {
				return s, s.methods[method[i+1:]], s.streams[method[i+1:]]
			}
		}
	}
	return nil, nil, nil
}

// serve handles one call and sends its end.
func (h *Host) serve(ctx context.Context, c *call) {
	n := h.net
	n.mu.Lock()
	s, unary, stream := h.find(c.method)
	options := h.options
	n.mu.Unlock()
	if options.Codec == nil {
		options.Codec = encoding.GetCodecV2("proto")
	}

	ss := &serverStream{net: n, call: c, codec: options.Codec}
	ss.ctx = grpc.NewContextWithServerTransportStream(ctx, transportStream{ss})
	var err error
	switch {
	case unary != nil:
		err = serveUnary(ss, s.impl, unary, options.Unary)
	case stream != nil:
		info := &grpc.StreamServerInfo{
			FullMethod: c.method, IsClientStream: stream.ClientStreams, IsServerStream: stream.ServerStreams,
		}
		err = chainStream(options.Stream, info, stream.Handler)(s.impl, ss)
	case options.Unknown != nil:
		info := &grpc.StreamServerInfo{FullMethod: c.method, IsClientStream: true, IsServerStream: true}
		err = chainStream(options.Stream, info, options.Unknown)(nil, ss)
	default:
		err = status.Errorf(codes.Unimplemented, "unknown method %s", c.method)
	}
	ss.close(err)
}

func serveUnary(ss *serverStream, impl any, desc *grpc.MethodDesc, chain []grpc.UnaryServerInterceptor) error {
	decode := func(into any) error {
		err := ss.RecvMsg(into)
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Internal, "simnet: the call ended without a request")
		}
		return err
	}
	reply, err := desc.Handler(impl, ss.ctx, decode, chainUnary(chain))
	if err != nil {
		return err
	}
	ss.reply, err = encode(ss.codec, reply)
	ss.done = err == nil
	return err
}

func chainUnary(chain []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	if len(chain) == 0 {
		return nil
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for i := len(chain) - 1; i > 0; i-- {
			next, interceptor := handler, chain[i]
			handler = func(ctx context.Context, req any) (any, error) { return interceptor(ctx, req, info, next) }
		}
		return chain[0](ctx, req, info, handler)
	}
}

func chainStream(chain []grpc.StreamServerInterceptor, info *grpc.StreamServerInfo, handler grpc.StreamHandler) grpc.StreamHandler {
	for i := len(chain) - 1; i >= 0; i-- {
		next, interceptor := handler, chain[i]
		handler = func(srv any, ss grpc.ServerStream) error { return interceptor(srv, ss, info, next) }
	}
	return handler
}

// encode makes bytes of a message that share nothing with it.
func encode(codec encoding.CodecV2, message any) ([]byte, error) {
	buffers, err := codec.Marshal(message)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "simnet: encoding %T: %v", message, err)
	}
	defer buffers.Free()
	return buffers.Materialize(), nil
}

func decode(codec encoding.CodecV2, b []byte, into any) error {
	if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, into); err != nil {
		return status.Errorf(codes.Internal, "simnet: decoding %T: %v", into, err)
	}
	return nil
}

// serverStream is the handler's end of a call.
type serverStream struct {
	net   *Network
	call  *call
	codec encoding.CodecV2
	ctx   context.Context
	reply []byte // of a unary handler
	done  bool   // the unary handler answered with reply

	// Guarded by the network's mutex.
	header     metadata.MD
	headerSent bool
	trailer    metadata.MD
}

var (
	_ grpc.ServerStream          = (*serverStream)(nil)
	_ grpc.ServerTransportStream = transportStream{}
)

func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) SetHeader(md metadata.MD) error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.headerSent {
		return errHeaderSent
	}
	s.header = metadata.Join(s.header, md)
	return nil
}

var errHeaderSent = status.Error(codes.Internal, "simnet: the header was sent already")

func (s *serverStream) SendHeader(md metadata.MD) error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.headerSent {
		return errHeaderSent
	}
	s.header = metadata.Join(s.header, md)
	s.net.send(s.call, &s.call.down, frame{header: s.takeHeader()})
	return nil
}

// takeHeader gives the header to the frame that goes first, and nil to the others. The mutex is held.
func (s *serverStream) takeHeader() metadata.MD {
	if s.headerSent {
		return nil
	}
	s.headerSent = true
	return withoutReserved(metadata.Join(s.header, metadata.MD{}))
}

func (s *serverStream) SetTrailer(md metadata.MD) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.trailer = metadata.Join(s.trailer, md)
}

func (s *serverStream) SendMsg(m any) error {
	b, err := encode(s.codec, m)
	if err != nil {
		return err
	}
	if s.ctx.Err() != nil {
		return contextError(s.ctx)
	}
	if !s.call.shadow { // nobody reads a shadow's answers, so nobody would give its credit back
		select {
		case s.call.down.credit <- struct{}{}:
		case <-s.ctx.Done():
			return contextError(s.ctx)
		}
	}
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.net.send(s.call, &s.call.down, frame{header: s.takeHeader(), message: b, hasMessage: true})
	return nil
}

func (s *serverStream) RecvMsg(m any) error {
	for {
		if s.ctx.Err() != nil {
			return contextError(s.ctx)
		}
		s.net.mu.Lock()
		b, ok := s.call.up.pop()
		closed := s.call.up.closed
		s.net.mu.Unlock()
		if ok {
			return decode(s.codec, b, m)
		}
		if closed {
			return io.EOF
		}
		select {
		case <-s.call.up.wake:
		case <-s.ctx.Done():
		}
	}
}

// close sends what is left of the answer, and the status.
func (s *serverStream) close(err error) {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	f := frame{
		message: s.reply, hasMessage: s.done,
		end: &ending{status: marshalStatus(st), trailer: withoutReserved(s.trailer)},
	}
	if f.hasMessage || len(s.header) > 0 {
		f.header = s.takeHeader()
	}
	s.net.send(s.call, &s.call.down, f)
	s.call.handled = true
	s.call.cancel()
	s.net.release(s.call)
}

// transportStream is what grpc.SetHeader and its kin find in a handler's context.
type transportStream struct{ *serverStream }

func (t transportStream) Method() string { return t.call.method }

func (t transportStream) SetTrailer(md metadata.MD) error {
	t.serverStream.SetTrailer(md)
	return nil
}

func contextError(ctx context.Context) error {
	return status.FromContextError(ctx.Err()).Err()
}

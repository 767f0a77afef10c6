package simnet

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// conn implements grpc.ClientConnInterface.
type conn struct {
	net  *Network
	path path
	opts []grpc.CallOption
}

// callOptions are the call options that a simulated call honours; transport matters (compression, wait-for-ready,
// peer, size limits) have no meaning here.
type callOptions struct {
	codec    encoding.CodecV2
	headers  []*metadata.MD
	trailers []*metadata.MD
	creds    []credentials.PerRPCCredentials
	onFinish []func(error)
}

func parseOptions(lists ...[]grpc.CallOption) callOptions {
	o := callOptions{codec: encoding.GetCodecV2("proto")}
	for _, list := range lists {
		for _, opt := range list {
			switch opt := opt.(type) {
			case grpc.ForceCodecV2CallOption:
				o.codec = opt.CodecV2
			case grpc.HeaderCallOption:
				o.headers = append(o.headers, opt.HeaderAddr)
			case grpc.TrailerCallOption:
				o.trailers = append(o.trailers, opt.TrailerAddr)
			case grpc.PerRPCCredsCallOption:
				o.creds = append(o.creds, opt.Creds)
			case grpc.OnFinishCallOption:
				o.onFinish = append(o.onFinish, opt.OnFinish)
			}
		}
	}
	return o
}

// Invoke implements grpc.ClientConnInterface: one message each way, so request and half-close are one message of the
// link.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	options := parseOptions(c.opts, opts)
	message, err := encode(options.codec, args)
	if err != nil {
		return err
	}
	s, err := c.open(ctx, method, true, options, frame{open: true, message: message, hasMessage: true, halfClose: true})
	if err != nil {
		return err
	}
	s.desc = &grpc.StreamDesc{}
	return s.RecvMsg(reply)
}

// NewStream implements grpc.ClientConnInterface.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.net.mu.Lock()
	unary := !desc.ClientStreams && !desc.ServerStreams
	if h := c.net.hosts[c.path.to]; h != nil && !unary {
		_, registered, _ := h.find(method)
		unary = registered != nil
	}
	c.net.mu.Unlock()
	s, err := c.open(ctx, method, unary, parseOptions(c.opts, opts), frame{open: true})
	if err != nil {
		return nil, err
	}
	s.desc = desc
	return s, nil
}

// open begins a call with its first frame.
func (c *conn) open(ctx context.Context, method string, unary bool, options callOptions, first frame) (*clientStream, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	md, err := outgoing(ctx, method, c.path.to, options.creds)
	if err != nil {
		return nil, err
	}
	call := newCall(c.path, method)
	call.unary, call.md, call.codec = unary, md, options.codec
	if deadline, ok := ctx.Deadline(); ok {
		call.budget = time.Until(deadline)
	}
	s := &clientStream{ctx: ctx, net: c.net, call: call, options: options}

	n := c.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stats.Calls++
	switch {
	case n.closed:
		return nil, errClosed.Err()
	case n.down(c.path.from):
		n.stats.Refused++
		return nil, status.Errorf(codes.Unavailable, "simnet: %s is down", c.path.from)
	}
	n.adopt(call)
	n.send(call, &call.up, first)
	stop := context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.giveUp(call, status.FromContextError(ctx.Err()))
	})
	call.finish = append(call.finish, func() { stop() })
	return s, nil
}

// outgoing collects what a real client would send as headers, and adds what a real server would find there.
func outgoing(ctx context.Context, method, authority string, creds []credentials.PerRPCCredentials) (metadata.MD, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = withoutReserved(md)
	for _, cred := range creds {
		service := method[:strings.LastIndexByte(method, '/')]
		pairs, err := cred.GetRequestMetadata(ctx, "https://"+authority+service)
		if err != nil {
			return nil, status.Errorf(codes.Unauthenticated, "simnet: call credentials: %v", err)
		}
		for k, v := range pairs {
			md.Append(k, v)
		}
	}
	md.Set(":authority", authority)
	md.Set("content-type", "application/grpc")
	md.Set("user-agent", "simnet")
	return md, nil
}

// withoutReserved copies what may travel: grpc-go drops these keys, and a proxy that copies headers relies on it.
func withoutReserved(md metadata.MD) metadata.MD {
	kept := metadata.MD{}
	for k, v := range md {
		switch k := strings.ToLower(k); {
		case strings.HasPrefix(k, ":"), k == "content-type", k == "user-agent", k == "te",
			k == "grpc-message-type", k == "grpc-encoding", k == "grpc-message", k == "grpc-status",
			k == "grpc-timeout", k == "grpc-status-details-bin":
		default:
			kept[k] = append(kept[k], v...)
		}
	}
	return kept
}

// clientStream is the caller's end of a call.
type clientStream struct {
	ctx      context.Context
	net      *Network
	call     *call
	options  callOptions
	desc     *grpc.StreamDesc
	sentLast bool
	finished bool
}

func (s *clientStream) Context() context.Context { return s.ctx }

// Header implements grpc.ClientStream.
func (s *clientStream) Header() (metadata.MD, error) {
	<-s.call.headerIn
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.call.header == nil && s.call.end != nil {
		return nil, s.call.end.Err()
	}
	return s.call.header.Copy(), nil
}

// Trailer implements grpc.ClientStream.
func (s *clientStream) Trailer() metadata.MD {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.call.trailer.Copy()
}

// SendMsg implements grpc.ClientStream. It waits while too much is unread.
func (s *clientStream) SendMsg(m any) error {
	if s.sentLast {
		return status.Error(codes.Internal, "simnet: SendMsg after the last message")
	}
	b, err := encode(s.options.codec, m)
	if err != nil {
		return err
	}
	select {
	case <-s.call.ended:
		return io.EOF // RecvMsg has the status
	case s.call.up.credit <- struct{}{}:
	}
	s.sentLast = !s.desc.ClientStreams
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.call.end != nil {
		return io.EOF
	}
	s.net.send(s.call, &s.call.up, frame{message: b, hasMessage: true, halfClose: s.sentLast})
	return nil
}

// CloseSend implements grpc.ClientStream.
func (s *clientStream) CloseSend() error {
	if s.sentLast {
		return nil
	}
	s.sentLast = true
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.call.end == nil {
		s.net.send(s.call, &s.call.up, frame{halfClose: true})
	}
	return nil
}

// RecvMsg implements grpc.ClientStream. A call with one answer waits for its status too, as grpc-go's does.
func (s *clientStream) RecvMsg(m any) error {
	b, err := s.next()
	if s.desc.ServerStreams {
		if err != nil {
			return s.finish(err)
		}
		return decode(s.options.codec, b, m)
	}
	if errors.Is(err, io.EOF) {
		return s.finish(status.Error(codes.Internal, "simnet: the call ended well, without an answer"))
	}
	if err != nil {
		return s.finish(err)
	}
	if err := decode(s.options.codec, b, m); err != nil {
		return s.abort(err)
	}
	_, err = s.next()
	switch {
	case errors.Is(err, io.EOF):
		return s.finish(nil)
	case err == nil:
		return s.abort(status.Error(codes.Internal, "simnet: more than one answer"))
	default:
		return s.finish(err)
	}
}

// next is the next message, or the end: io.EOF when it ended well.
func (s *clientStream) next() ([]byte, error) {
	for {
		s.net.mu.Lock()
		b, ok := s.call.down.pop()
		end := s.call.end
		s.net.mu.Unlock()
		switch {
		case ok:
			return b, nil
		case end != nil && end.Code() == codes.OK:
			return nil, io.EOF
		case end != nil:
			return nil, end.Err()
		}
		<-s.call.down.wake // the end of the context wakes it too
	}
}

// abort ends a call that the client cannot go on with.
func (s *clientStream) abort(err error) error {
	s.net.mu.Lock()
	s.net.giveUp(s.call, status.Convert(err))
	s.net.mu.Unlock()
	return s.finish(err)
}

// finish serves the options that want to know how the call ended, once.
func (s *clientStream) finish(err error) error {
	if s.finished {
		return err
	}
	s.finished = true
	s.net.mu.Lock()
	header, trailer := s.call.header.Copy(), s.call.trailer.Copy()
	s.net.mu.Unlock()
	for _, to := range s.options.headers {
		*to = header
	}
	for _, to := range s.options.trailers {
		*to = trailer
	}
	outcome := err
	if errors.Is(err, io.EOF) {
		outcome = nil
	}
	for _, f := range s.options.onFinish {
		f(outcome)
	}
	return err
}

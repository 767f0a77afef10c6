package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/rimlight/rimlight/internal/rpc/frame"
)

func (l *listener) edgeUnary(svc *service, m *grpc.MethodDesc) connect.ServerFunc {
	return func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		b := l.newBridge(ctx, stream)
		reply, err := l.callUnary(b.ctx, svc, m, b.RecvMsg)
		b.reply = reply
		return l.finish(b, err)
	}
}

func (l *listener) edgeStream(svc *service, d *grpc.StreamDesc) connect.ServerFunc {
	return func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		b := l.newBridge(ctx, stream)
		return l.finish(b, l.callStream(svc, d, b))
	}
}

func (l *listener) edgeUnknown(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	b := l.newBridge(ctx, stream)
	return l.finish(b, l.callUnknown(b.method, b))
}

// finish turns what the chain answered into what connect sends.
func (l *listener) finish(b *bridge, err error) error {
	if err == nil && b.reply != nil {
		err = b.send(b.reply)
	}
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); !ok { // the reply could not be sent: the chain has not seen this
		err = l.sanitise(b.ctx, b.method, err)
	}
	return connectError(err)
}

// connectError carries a status over: without this connect would answer UNKNOWN.
func connectError(err error) error {
	st := status.Convert(err)
	out := connect.NewError(connect.Code(st.Code()), st.Message())
	for _, d := range st.Proto().GetDetails() {
		if detail, err := connectproto.NewErrorDetail(d); err == nil { // an Any is taken as it is
			out = out.WithDetail(detail)
		}
	}
	return out
}

// bridge makes connect's stream a grpc.ServerStream.
type bridge struct {
	l      *listener
	ctx    context.Context
	method string
	stream connect.ServerStream
	// A unary reply leaves with its headers and trailers, so it waits until the handler is done: a forwarder knows the
	// trailers only after the message.
	unary bool
	reply any

	mu   sync.Mutex // connect's headers are not safe for concurrent use, grpc-go's are
	info *connect.CallInfo
	sent bool // the headers are on their way
}

var (
	_ grpc.ServerStream          = (*bridge)(nil)
	_ grpc.ServerTransportStream = transportStream{}
)

func (l *listener) newBridge(ctx context.Context, stream connect.ServerStream) *bridge {
	info, _ := connect.CallInfoForServerContext(ctx) // connect.Server.Call always puts one there
	b := &bridge{l: l, method: info.Spec.Procedure, stream: stream, info: info, unary: info.Spec.StreamType == connect.StreamTypeUnary}
	md := incoming(info.RequestHeader())
	if http, ok := info.TransportInfo.(*connecthttp.ServerInfo); ok {
		url := http.RequestURL()
		b.method = url.Path // the handlers for unknown methods serve every path
	}
	ctx = metadata.NewIncomingContext(ctx, md)
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: address(info.PeerAddr)})
	b.ctx = grpc.NewContextWithServerTransportStream(ctx, transportStream{b})
	return b
}

// Context implements grpc.ServerStream.
func (b *bridge) Context() context.Context { return b.ctx }

// SetHeader implements grpc.ServerStream.
func (b *bridge) SetHeader(md metadata.MD) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sent {
		return errors.New("rpc: the headers are sent already")
	}
	outgoing(b.info.ResponseHeader(), md)
	return nil
}

// SendHeader implements grpc.ServerStream.
func (b *bridge) SendHeader(md metadata.MD) error {
	if err := b.SetHeader(md); err != nil {
		return err
	}
	if b.unary {
		return nil
	}
	b.markSent()
	return b.sendError(b.stream.SendHeaders())
}

func (b *bridge) markSent() {
	b.mu.Lock()
	b.sent = true
	b.mu.Unlock()
}

// SetTrailer implements grpc.ServerStream.
func (b *bridge) SetTrailer(md metadata.MD) {
	b.mu.Lock()
	defer b.mu.Unlock()
	outgoing(b.info.ResponseTrailer(), md)
}

// RecvMsg implements grpc.ServerStream. Frames are the message's bytes in proto; a caller that speaks JSON has them
// translated, when this binary knows the method.
func (b *bridge) RecvMsg(m any) error {
	f, ok := m.(*frame.Frame)
	if !ok || b.info.Codec != connect.CodecNameJSON {
		return b.receiveError(b.stream.Receive(m))
	}
	msg, err := b.known(protoreflect.MethodDescriptor.Input)
	if err != nil {
		return err
	}
	if err := b.stream.Receive(msg); err != nil {
		return b.receiveError(err)
	}
	if f.Payload, err = proto.Marshal(msg); err != nil {
		return errMalformed() // a string that is not UTF-8
	}
	return nil
}

// SendMsg implements grpc.ServerStream.
func (b *bridge) SendMsg(m any) error {
	if !b.unary {
		return b.send(m)
	}
	if f, ok := m.(*frame.Frame); ok {
		m = &frame.Frame{Payload: f.Payload} // the caller may use its frame again
	}
	b.reply = m
	return nil
}

func (b *bridge) send(m any) error {
	b.markSent()
	f, ok := m.(*frame.Frame)
	if !ok || b.info.Codec != connect.CodecNameJSON {
		return b.sendError(b.stream.Send(m))
	}
	msg, err := b.known(protoreflect.MethodDescriptor.Output)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(f.Payload, msg); err != nil {
		return fmt.Errorf("translating the answer of %s to JSON: %w", b.method, err)
	}
	return b.sendError(b.stream.Send(msg))
}

// known makes an empty message of the method's type.
func (b *bridge) known(side func(protoreflect.MethodDescriptor) protoreflect.MessageDescriptor) (proto.Message, error) {
	if m, ok := methodDescriptor(b.method); ok {
		if t, err := protoregistry.GlobalTypes.FindMessageByName(side(m).FullName()); err == nil {
			return t.New().Interface(), nil
		}
	}
	return nil, errUnknownMethod(b.method, "this method is forwarded unread: call it with protobuf, it cannot be translated from JSON")
}

func (b *bridge) receiveError(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		b.l.edgeMetrics.gaveUp.WithLabelValues(gaveUpBody).Inc()
	}
	return receiveError(b.ctx, err, codes.Code(connect.CodeOf(err)), b.l.limits.recv(b.method))
}

// sendError tells a caller that went away from an answer that cannot be encoded, which is our fault.
func (b *bridge) sendError(err error) error {
	switch {
	case err == nil:
		return nil
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case connect.CodeOf(err) == connect.CodeInternal:
		return fmt.Errorf("sending the answer of %s: %w", b.method, err)
	default:
		return errCancelled()
	}
}

// transportStream lets grpc.SetHeader and its kin work in handlers.
type transportStream struct{ b *bridge }

// Method implements grpc.ServerTransportStream.
func (t transportStream) Method() string { return t.b.method }

// SetHeader implements grpc.ServerTransportStream.
func (t transportStream) SetHeader(md metadata.MD) error { return t.b.SetHeader(md) }

// SendHeader implements grpc.ServerTransportStream.
func (t transportStream) SendHeader(md metadata.MD) error { return t.b.SendHeader(md) }

// SetTrailer implements grpc.ServerTransportStream.
func (t transportStream) SetTrailer(md metadata.MD) error {
	t.b.SetTrailer(md)
	return nil
}

// hopHeaders belong to HTTP or to the protocol, not to the call.
var hopHeaders = map[string]bool{
	"accept": true, "accept-encoding": true, "connection": true, "content-encoding": true, "content-length": true,
	"cookie": true, "host": true, "keep-alive": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
}

const binarySuffix = "-bin"

// What gRPC lets be a key and, without the suffix, a value.
var (
	metadataKey   = regexp.MustCompile(`^[0-9a-z_.-]+$`)
	metadataValue = regexp.MustCompile(`^[\x20-\x7e]*$`)
)

// incoming makes metadata of request headers. Binary values are base64 in HTTP and raw in metadata. HTTP allows keys and
// values that metadata does not; they are left out, since a client that is handed them, as a router's is, fails the call.
func incoming(header *connect.Header) metadata.MD {
	md := make(metadata.MD, header.Len())
	for key, values := range header.All() {
		key = strings.ToLower(key)
		if hopHeaders[key] || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, "connect-") || strings.HasPrefix(key, "proxy-") ||
			!metadataKey.MatchString(key) {
			continue
		}
		if !strings.HasSuffix(key, binarySuffix) {
			for _, value := range values {
				if metadataValue.MatchString(value) {
					md.Append(key, value)
				}
			}
			continue
		}
		for _, joined := range values {
			for value := range strings.SplitSeq(joined, ",") {
				if raw, err := connect.DecodeBinaryHeader(strings.TrimSpace(value)); err == nil { // grpc-go drops broken ones too
					md.Append(key, string(raw))
				}
			}
		}
	}
	return md
}

// outgoing adds metadata to response headers or trailers.
func outgoing(header *connect.Header, md metadata.MD) {
	for key, values := range md {
		for _, value := range values {
			if strings.HasSuffix(key, binarySuffix) {
				value = connect.EncodeBinaryHeader([]byte(value))
			}
			header.Add(key, value)
		}
	}
}

// address parses what net/http knows of the other end.
func address(text string) net.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return namedAddr(text)
}

// namedAddr is an address of a network in memory.
type namedAddr string

// Network implements net.Addr.
func (namedAddr) Network() string { return "memory" }

// String implements net.Addr.
func (a namedAddr) String() string { return string(a) }

// protoCodec is connect's proto codec which also carries frames as they are.
type protoCodec struct{ *connectproto.BinaryCodec }

// MarshalWrite implements connect.Codec.
func (c protoCodec) MarshalWrite(ctx context.Context, dst io.Writer, msg any) error {
	if f, ok := msg.(*frame.Frame); ok {
		_, err := dst.Write(f.Payload)
		return err
	}
	return c.BinaryCodec.MarshalWrite(ctx, dst, msg)
}

// UnmarshalRead implements connect.Codec.
func (c protoCodec) UnmarshalRead(ctx context.Context, src io.Reader, msg any) error {
	f, ok := msg.(*frame.Frame)
	if !ok {
		return c.BinaryCodec.UnmarshalRead(ctx, src, msg)
	}
	payload, err := io.ReadAll(src)
	f.Payload = payload
	return err
}

package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// UntrustedError means: the server showed a certificate that is not to be trusted, and no call was sent to it.
type UntrustedError struct {
	Err error // crypto/tls's
}

// Error implements error.
func (e *UntrustedError) Error() string {
	return "the server's certificate is not trusted: " + e.Err.Error()
}

// Unwrap gives crypto/tls's error.
func (e *UntrustedError) Unwrap() error { return e.Err }

// GRPCStatus makes it UNAVAILABLE, as grpc-go has it.
func (e *UntrustedError) GRPCStatus() *status.Status { return status.New(codes.Unavailable, e.Error()) }

// handshakes are TLS handshakes of a client connection. grpc-go makes a sentence of what went wrong in one, and nothing
// but that comes back from a call, so the last distrust is kept here.
type handshakes struct {
	credentials.TransportCredentials
	distrust *atomic.Pointer[UntrustedError]
}

func newHandshakes(cfg *tls.Config) handshakes {
	return handshakes{credentials.NewTLS(cfg), &atomic.Pointer[UntrustedError]{}}
}

// ClientHandshake implements credentials.TransportCredentials.
func (h handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	var bad *tls.CertificateVerificationError
	switch {
	case errors.As(err, &bad):
		h.distrust.Store(&UntrustedError{Err: bad})
	case err == nil:
		h.distrust.Store(nil)
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.distrust}
}

// explain says why a call found no connection, if that is known.
func (h handshakes) explain(err error) error {
	if untrusted := h.distrust.Load(); untrusted != nil && status.Code(err) == codes.Unavailable {
		return untrusted
	}
	return err
}

func (h handshakes) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return h.explain(invoke(ctx, method, req, reply, cc, options...))
}

func (h handshakes) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, options...)
	return stream, h.explain(err)
}

// Package rpc listens and dials: one registration of a service, one interceptor chain, two listeners.
//
//	              Server.RegisterService (the generated RegisterXServer calls it)
//	                                    |
//	       chain: log, metrics, sanitise, recover, auth, decode, deadline, validate, extras
//	                  |                                     |
//	ServeInternal: grpc-go, for the platform     ServePublic: net/http and connect, for viewers:
//	itself                                       gRPC, gRPC-Web, Connect (JSON, proto)
//
// Invariants. A call meets the same chain on both listeners, so the same fault ends in the same status. Every status of
// a Rimlight service carries exactly one reason of rimlight.errors.v1. What a caller sends never ends in INTERNAL or
// UNKNOWN: bytes that are no message are MALFORMED, long ones MESSAGE_TOO_LARGE, methods that nobody serves
// UNKNOWN_METHOD. The statuses of other people's services, forwarded by the router, and of the gRPC infrastructure
// (health, reflection, channelz) pass untouched. Messages, metadata and tokens never reach a log.
//
// It does not choose a region, does not retry and does not know any business rule. One limit: bytes that break gRPC's own
// framing on the native listener are answered by grpc-go before any of our code runs, without a reason.
package rpc

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	// Name of the service in the log. Required.
	Name string
	// Log takes one record per failed call (debug: per call). Nil: slog.Default().
	Log *slog.Logger
	// Metrics takes the grpc_server_* series; several servers may share one registry. Nil: a registry of its own.
	Metrics prometheus.Registerer

	// Tokens are the bearer tokens that callers may show.
	Tokens auth.Tokens
	// Rules say which roles a method needs; a method without a rule is open.
	Rules auth.Rules

	// Public chooses the limits for callers that nobody knows: 64 streams a connection, 8 KiB of headers, messages of
	// 16 KiB. Otherwise, for the platform's own processes: 1,000, 16 KiB, 1 MiB. It also allows pages of every origin
	// to call ServePublic's port; without it only pages of the port itself can.
	Public bool
	// MaxRecvBytes is the longest message taken, in bytes, 0 to 64 MiB. 0: 16 KiB when Public, else 1 MiB.
	MaxRecvBytes int
	// Grace is how long calls may go on after the context of Serve* ended. 0: 5 s. Unary calls use it to finish, streams
	// are ended at once with UNAVAILABLE DRAINING, as only their clients know when they would end.
	Grace time.Duration

	// Unary and Stream are extra interceptors, run innermost: right around the handlers.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor

	// Unknown takes the calls to services that are not registered; it receives and sends *frame.Frame. Nil: they are
	// UNIMPLEMENTED, UNKNOWN_METHOD.
	Unknown grpc.StreamHandler
	// Forwarded are the full names of the services that Unknown serves: reflection lists them, the log names their
	// methods, and each has one label in the metrics.
	Forwarded []string
	// Reflection and Channelz serve gRPC's own services of these names. Both tell strangers about the process.
	Reflection bool
	Channelz   bool
	// HTTP takes what arrives at ServePublic and is no RPC: pages. Nil: 404.
	HTTP http.Handler
}

const (
	publicStreams      = 64
	publicHeaderBytes  = 8 << 10
	publicRecvBytes    = 16 << 10
	internalStreams    = 1000
	internalHeaderSize = 16 << 10
	internalRecvBytes  = 1 << 20
	maxRecvBytes       = 64 << 20

	defaultGrace = 5 * time.Second
)

// Validate reports every problem of the configuration.
func (c ServerConfig) Validate() error {
	var problems []error
	if c.Name == "" {
		problems = append(problems, errors.New("rpc: Name is required"))
	}
	if c.MaxRecvBytes < 0 || c.MaxRecvBytes > maxRecvBytes {
		problems = append(problems, fmt.Errorf("rpc: MaxRecvBytes is %d, must be 0 to %d", c.MaxRecvBytes, maxRecvBytes))
	}
	if c.Grace < 0 {
		problems = append(problems, fmt.Errorf("rpc: Grace is %v, must not be negative", c.Grace))
	}
	return errors.Join(problems...)
}

// limits are the figures that differ between the platform's own processes and strangers.
type limits struct {
	streams     uint32 // concurrent, per connection
	headerBytes int
	recvBytes   int // one message, decoded
}

func (c ServerConfig) limits() limits {
	l := limits{streams: internalStreams, headerBytes: internalHeaderSize, recvBytes: internalRecvBytes}
	if c.Public {
		l = limits{streams: publicStreams, headerBytes: publicHeaderBytes, recvBytes: publicRecvBytes}
	}
	if c.MaxRecvBytes > 0 {
		l.recvBytes = c.MaxRecvBytes
	}
	return l
}

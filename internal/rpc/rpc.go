// Package rpc listens and dials: one registration of a service, one interceptor chain, two listeners.
//
//	              Server.RegisterService (the generated RegisterXServer calls it)
//	                                    |
//	       chain: trace, log, metrics, sanitise, recover, auth, decode, deadline, validate, extras
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
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	// Name of the service in the log. Required.
	Name string
	// Log takes one record per failed call (debug: per call). Nil: slog.Default().
	Log *slog.Logger
	// Metrics takes the grpc_server_* series; several servers may share one registry. Nil: nothing is counted.
	Metrics prometheus.Registerer
	// Traces makes a span of every unary call, and of a stream of answers until its first: of those that arrive with a
	// traceparent, and of all on a Public server. Nil: of none.
	Traces *telemetry.Tracer

	// Tokens are the bearer tokens that callers may show.
	Tokens auth.Tokens
	// Rules say which roles a method needs; a method without a rule is open.
	Rules auth.Rules

	// Public chooses the limits for callers that nobody knows: 64 streams a connection, 8 KiB of headers, messages of
	// 16 KiB. Otherwise, for the platform's own processes: 1,000, 16 KiB, 1 MiB. It also allows pages of every origin
	// to call ServePublic's port; without it only pages of the port itself can.
	Public bool
	// MaxRecvBytes is the longest message taken for a service that is not the platform's, in bytes, 0 to 64 MiB. 0: 16 KiB
	// when Public, else 1 MiB, which the platform's own always have.
	MaxRecvBytes int
	// TLS secures ServePublic's port, with HTTP/2 and HTTP/1.1. Nil: plaintext.
	TLS *tls.Config
	// MaxConnections is how many connections ServePublic's port holds, 0 to 1,000,000; 0: 16,000. Those in the tenth above
	// have their calls refused with OVERLOADED, the others are closed. A process needs a file descriptor for each and a few
	// hundred of its own. Half of what a crowd needs turns viewers away; double is memory that an attacker may take. There is
	// no limit per address: behind one of a mobile carrier may be thousands of viewers.
	MaxConnections int
	// MaxStreams is how many streams a Public port holds over all connections, 0 to 10,000,000; 0: 20,000. More are refused
	// with OVERLOADED. bench/README.md has the memory of one. Unary calls do not count: they have deadlines.
	MaxStreams int
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
	publicTotalStreams = 20_000
	edgeConnections    = 16_000
	mostConnections    = 1_000_000
	mostStreams        = 10_000_000
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
	if c.MaxConnections < 0 || c.MaxConnections > mostConnections {
		problems = append(problems, fmt.Errorf("rpc: MaxConnections is %d, must be 0 to %d", c.MaxConnections, mostConnections))
	}
	if c.MaxStreams < 0 || c.MaxStreams > mostStreams {
		problems = append(problems, fmt.Errorf("rpc: MaxStreams is %d, must be 0 to %d", c.MaxStreams, mostStreams))
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
	recvBytes   int // one message of ours, decoded
	othersBytes int // and of other people's services

	connections, totalStreams int // of one port
}

func (c ServerConfig) limits() limits {
	l := limits{streams: internalStreams, headerBytes: internalHeaderSize, recvBytes: internalRecvBytes}
	if c.Public {
		l = limits{streams: publicStreams, headerBytes: publicHeaderBytes, recvBytes: publicRecvBytes}
	}
	l.connections, l.totalStreams = cmp.Or(c.MaxConnections, edgeConnections), cmp.Or(c.MaxStreams, publicTotalStreams)
	l.othersBytes = cmp.Or(c.MaxRecvBytes, l.recvBytes)
	return l
}

// recv is the longest message that a method takes, in bytes.
func (l limits) recv(fullMethod string) int {
	if strings.HasPrefix(fullMethod, "/rimlight.") {
		return l.recvBytes
	}
	return l.othersBytes
}

package rpc

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// latencyBuckets are finest around the platform's promises: 10 and 100 ms for a decision, 200 and 300 ms for a tap.
var latencyBuckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5}

// callMetrics are the series that gRPC's users know (grpc-ecosystem/go-grpc-middleware). Their labels are looked up once
// per method and not per call: a router's calls are short.
type callMetrics struct {
	started, handled, refused, received, sent *prometheus.CounterVec
	seconds                                   *prometheus.HistogramVec

	methods sync.Map // methodKey -> *methodMetrics; names are bounded, see Server.label
}

type methodKey struct{ kind, method string }

// methodMetrics are those of one method.
type methodMetrics struct {
	started, ok, received, sent prometheus.Counter
	seconds                     prometheus.Observer
	handled                     *prometheus.CounterVec // by code
	refused                     *prometheus.CounterVec // by reason
}

// newCallMetrics registers the series; servers may share a registry. Nil for none.
func newCallMetrics(registry prometheus.Registerer) *callMetrics {
	if registry == nil {
		return nil
	}
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return registered(registry, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help},
			append([]string{"grpc_type", "grpc_service", "grpc_method"}, more...)))
	}
	return &callMetrics{
		started: counter("grpc_server_started_total", "Total number of RPCs started on the server."),
		handled: counter("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.", "grpc_code"),
		refused: registered(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_rpc_refusals_total", Help: "Calls that did not end well, by the reason that their caller got.",
		}, []string{"grpc_service", "grpc_method", "reason"})),
		received: counter("grpc_server_msg_received_total", "Total number of RPC stream messages received on the server."),
		sent:     counter("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server."),
		seconds: registered(registry, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Buckets: latencyBuckets,
			Help: "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
		}, []string{"grpc_type", "grpc_service", "grpc_method"})),
	}
}

// of finds a method's series, or makes them with its first call.
func (c *callMetrics) of(kind, fullMethod string) *methodMetrics {
	key := methodKey{kind, fullMethod}
	if found, ok := c.methods.Load(key); ok {
		return found.(*methodMetrics) //nolint:forcetypeassert // nothing else is in there
	}
	service, method := split(fullMethod)
	m := &methodMetrics{
		started: c.started.WithLabelValues(kind, service, method), received: c.received.WithLabelValues(kind, service, method),
		sent: c.sent.WithLabelValues(kind, service, method), seconds: c.seconds.WithLabelValues(kind, service, method),
		handled: c.handled.MustCurryWith(prometheus.Labels{"grpc_type": kind, "grpc_service": service, "grpc_method": method}),
		refused: c.refused.MustCurryWith(prometheus.Labels{"grpc_service": service, "grpc_method": method}),
	}
	m.ok = m.handled.WithLabelValues(codes.OK.String())
	found, _ := c.methods.LoadOrStore(key, m)
	return found.(*methodMetrics) //nolint:forcetypeassert // as above
}

func (m *methodMetrics) ended(err error, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	if err == nil {
		m.ok.Inc()
		return
	}
	m.handled.WithLabelValues(status.Code(err).String()).Inc()
	if reason := rpcerr.Reason(err); reason != errorsv1.Reason_REASON_UNSPECIFIED { // somebody else's reasons are not bounded
		m.refused.WithLabelValues(strings.TrimPrefix(reason.String(), "REASON_")).Inc()
	}
}

func (c *callMetrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if c == nil {
		return handler(ctx, req)
	}
	m, start := c.of("unary", info.FullMethod), time.Now()
	m.started.Inc()
	m.received.Inc()
	reply, err := handler(ctx, req)
	if err == nil {
		m.sent.Inc()
	}
	m.ended(err, time.Since(start))
	return reply, err
}

func (c *callMetrics) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if c == nil {
		return handler(srv, ss)
	}
	m, start := c.of(streamKind(info), info.FullMethod), time.Now()
	m.started.Inc()
	err := handler(srv, counted{ss, m})
	m.ended(err, time.Since(start))
	return err
}

func streamKind(info *grpc.StreamServerInfo) string {
	switch {
	case info.IsClientStream && !info.IsServerStream:
		return "client_stream"
	case !info.IsClientStream && info.IsServerStream:
		return "server_stream"
	}
	return "bidi_stream"
}

// counted is a stream whose messages are counted.
type counted struct {
	grpc.ServerStream
	*methodMetrics
}

// SendMsg implements grpc.ServerStream.
func (s counted) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.sent.Inc()
	}
	return err
}

// RecvMsg implements grpc.ServerStream.
func (s counted) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.received.Inc()
	}
	return err
}

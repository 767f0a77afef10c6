package rpc

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// What a port that strangers reach gives up, and refuses: the labels of its metrics.
const (
	gaveUpRequest = "no_request" // the connection never brought a whole one, or trickled its next one
	gaveUpBody    = "body"
	gaveUpAnswer  = "answer" // nobody took it
	gaveUpIdle    = "idle"   // a stream

	refusedConnection = "connections"
	refusedStream     = "streams"
	refusedHeaders    = "headers"
)

// edgeMetrics tell what ServePublic's ports hold, and what they ended by themselves.
type edgeMetrics struct {
	connections, streams prometheus.Gauge
	gaveUp, refused      *prometheus.CounterVec
}

func registerEdgeMetrics(registry prometheus.Registerer) edgeMetrics {
	return edgeMetrics{
		connections: registered(registry, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rimlight_edge_connections", Help: "Open connections of viewers' and browsers' ports.",
		})),
		streams: registered(registry, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rimlight_edge_streams", Help: "Streams that a port for strangers holds.",
		})),
		gaveUp: registered(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_edge_gave_up_total",
			Help: "What was ended because the other end was slow: connections without a request, bodies, answers that nobody took, idle streams.",
		}, []string{"why"})),
		refused: registered(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rimlight_edge_refused_total",
			Help: "What was refused before any service saw it: connections and streams above the port's limit, headers.",
		}, []string{"why"})),
	}
}

// registered is the collector, or the one of its kind that another server of the registry brought.
func registered[C prometheus.Collector](registry prometheus.Registerer, c C) C {
	if registry == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if errors.As(registry.Register(c), &already) {
		if shared, ok := already.ExistingCollector.(C); ok {
			return shared
		}
	}
	return c
}

// surplusShare is how much of the limit on connections is kept for telling those above it, in their own protocol, when
// to come back: a tenth.
const surplusShare = 10

// overloadedRetry is when a refused caller may come back: idle streams and dead connections make room within seconds.
const overloadedRetry = 5 * time.Second

func errOverloaded(what string) error {
	return rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_OVERLOADED,
		"this port holds as many "+what+" as it may; come back later or ask another router", rpcerr.RetryAfter(overloadedRetry))
}

// guard is a listener that takes so many connections. Those a little above the limit are surplus: their calls are refused
// with a reason. Those above that are closed unheard.
type guard struct {
	net.Listener
	limit   int64
	metrics edgeMetrics
	open    atomic.Int64
}

// Accept implements net.Listener.
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		open := g.open.Add(1)
		if open > g.limit+max(1, g.limit/surplusShare) {
			g.open.Add(-1)
			g.metrics.refused.WithLabelValues(refusedConnection).Inc()
			_ = c.Close() // a stranger's connection that was never used
			continue
		}
		g.metrics.connections.Inc()
		return &guardedConn{Conn: c, guard: g, surplus: open > g.limit}, nil
	}
}

// guardedConn is a connection of a guard. It notices a caller who keeps it without ever finishing a request.
type guardedConn struct {
	net.Conn
	guard   *guard
	surplus bool

	asked  atomic.Bool // a request came in whole, at least its headers
	left   atomic.Bool // the other end closed or broke it
	idle   atomic.Bool // HTTP/1.1 waits for the next request
	partly atomic.Bool // of which something is here
	closed sync.Once
}

// Read implements net.Conn.
func (c *guardedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.partly.Store(true)
	}
	switch {
	case err == nil:
	case !errors.Is(err, os.ErrDeadlineExceeded):
		c.left.Store(true)
	case c.idle.Load() && c.partly.Load():
		c.asked.Store(false)
	}
	return n, err
}

// Close implements net.Conn.
func (c *guardedConn) Close() error {
	c.closed.Do(func() {
		c.guard.open.Add(-1)
		c.guard.metrics.connections.Dec()
		if !c.asked.Load() && !c.left.Load() {
			c.guard.metrics.gaveUp.WithLabelValues(gaveUpRequest).Inc()
		}
	})
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection so that its last answer arrives.
func (c *guardedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// unwrap finds the guarded connection under TLS.
func unwrap(c net.Conn) *guardedConn {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secure.NetConn()
	}
	guarded, _ := c.(*guardedConn)
	return guarded
}

// connState follows net/http's word on a connection.
func connState(c net.Conn, state http.ConnState) {
	if g := unwrap(c); g != nil {
		g.idle.Store(state == http.StateIdle)
		g.partly.CompareAndSwap(state == http.StateIdle, false)
	}
}

type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, unwrap(c))
}

// connOf is the connection that a request came on.
func connOf(r *http.Request) *guardedConn {
	c, _ := r.Context().Value(connKey{}).(*guardedConn)
	return c
}

// answerWriter gives up on a caller who does not take the answer: a window of HTTP/2 that stays shut, or a socket that
// nobody reads, would hold the call for ever. Its handler is the only one to call it.
type answerWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	gaveUp  prometheus.Counter

	mu      sync.Mutex
	writing bool
	timer   *time.Timer // made with the first write
}

func newAnswerWriter(w http.ResponseWriter, r *http.Request, gaveUp prometheus.Counter) *answerWriter {
	a := &answerWriter{ResponseWriter: w, control: http.NewResponseController(w), gaveUp: gaveUp}
	if r.ProtoMajor < 2 {
		_ = a.control.SetWriteDeadline(time.Time{}) // the last request's; a writer without deadlines has none
	}
	return a
}

// within bounds one write.
func (a *answerWriter) within(write func() error) error {
	a.mu.Lock()
	a.writing = true
	if a.timer == nil {
		a.timer = time.AfterFunc(httpWriteTimeout, a.giveUp)
	} else {
		a.timer.Reset(httpWriteTimeout)
	}
	a.mu.Unlock()
	err := write()
	a.mu.Lock()
	a.writing = false
	a.timer.Stop()
	a.mu.Unlock()
	return err
}

func (a *answerWriter) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.writing { // else the write was done just now, and its writer may be gone
		a.gaveUp.Inc()
		_ = a.control.SetWriteDeadline(time.Now()) // no error: the write waits, so there is something to end
	}
}

// end bounds what net/http itself still writes once the handler is done.
func (a *answerWriter) end() { _ = a.control.SetWriteDeadline(time.Now().Add(httpWriteTimeout)) }

// Write implements http.ResponseWriter.
func (a *answerWriter) Write(p []byte) (n int, err error) {
	err = a.within(func() error {
		n, err = a.ResponseWriter.Write(p)
		return err
	})
	return n, err
}

// Flush implements http.Flusher.
func (a *answerWriter) Flush() { _ = a.FlushError() }

// FlushError implements what http.ResponseController looks for.
func (a *answerWriter) FlushError() error { return a.within(a.control.Flush) }

// Unwrap gives http.ResponseController the deadlines.
func (a *answerWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

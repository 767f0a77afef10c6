// Package forward is the router's data plane: it takes a call, asks where it should go, and passes it on.
//
//	viewer <--frames--> Forwarder <--frames--> region node      OfferService: hints, deadline, retries, hedges
//	                        |  \-------------> any backend      forwarded services: transparent
//	                        |  \-------------> the centre       central services: transparent, no choice
//	                        +--> arbiter.Pick over measure's snapshot; the outcome goes back to measure
//
// Messages are bytes here and stay as they came; of an OfferService request only field 1, RoutingHints, is read, and
// hints that cannot be read do not stop a call: the node rejects what is no message. Metadata, response headers,
// trailers, status details, cancellation and deadlines pass through. The trailer "rimlight-load-bin" is for the router
// and ends here.
//
// A call is tried again at another node only if its method's idempotency_level allows it and the caller has seen nothing
// yet: after an attempt failed, or beside it when a unary answer is later than its predicted 99th percentile (a hedge,
// always in another region; the first good answer ends the other attempt). Two nodes are asked at most, and a third if
// nothing was heard of either. If all attempts fail, the most telling status is answered. A retried or hedged redemption
// carries the same token; SOLD_OUT from the second node is answered even if the first one's answer was lost, since the
// token still finds the purchase at the verifier.
//
// Retries of failures, silence and sheds, and hedges, come out of budgets that calls which went well pay into: when every
// region is full, the shed is passed on, with its reason and when to come back.
//
// Calls of forwarded services are tried elsewhere only while nothing of them was sent.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

// Headers of every arbitrated answer, and the trailer in which a node reports its load.
const (
	HeaderDecision = "rimlight-decision"
	HeaderRegion   = "rimlight-region"
	TrailerLoad    = "rimlight-load-bin"
)

// Config is how calls are forwarded. The zero value takes every default and forwards OfferService alone.
type Config struct {
	// Router is this router's name; decision ids begin with it.
	Router string
	// Services are the full names of further services that are forwarded to the regions, for example
	// "echo.v1.EchoService".
	Services []string
	// DefaultTimeout is what a unary OfferService call without a deadline gets. Default 2 s.
	DefaultTimeout time.Duration
	// ReturnTrip is taken off a unary OfferService call's deadline before it goes to a region, so that a late answer's
	// status still reaches the caller. Default 5 ms.
	ReturnTrip time.Duration
	// Floor is the least time with which a unary OfferService call is forwarded at all. Default 10 ms.
	Floor time.Duration
	// AttemptFloor is the least time that a first attempt gets before another node is asked, where the prediction says
	// less. Default 250 ms. Half retries calls that a garbage collection held up; double leaves a viewer waiting longer
	// for a node that died silently.
	AttemptFloor time.Duration
	// HedgeFloor is the least time before a late answer is asked for a second time elsewhere; else the predicted 99th
	// percentile says when. Default 10 ms. Half doubles calls that a busy scheduler held up.
	HedgeFloor time.Duration
	// HedgeShare is how many hedges a router may make per call that went well, from 0 to 1; 40 may be saved up. Default 0.02; negative:
	// none. Less than 0.01 leaves nothing saved up for a region that dies: a calm platform hedges one call in a hundred.
	HedgeShare float64
	// RetryShare is how many further attempts a router may make per call that went well, from 0 to 1, where a node failed,
	// was silent or shed; 500 may be saved up. Default 0.2; negative: none. Half leaves viewers with errors while a region
	// that carries a third of the calls dies; double is a storm of twice as many calls when every region is full.
	RetryShare float64
	// MaxMessageBytes is the largest message taken from a backend. Default 4 MiB.
	MaxMessageBytes int
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.DefaultTimeout, 2 * time.Second},
		{&c.ReturnTrip, 5 * time.Millisecond},
		{&c.Floor, 10 * time.Millisecond},
		{&c.AttemptFloor, 250 * time.Millisecond},
		{&c.HedgeFloor, 10 * time.Millisecond},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.HedgeShare == 0 {
		c.HedgeShare = 0.02
	}
	if c.RetryShare == 0 {
		c.RetryShare = 0.2
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = 4 << 20
	}
	return c
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Router == "" || strings.Contains(c.Router, "/") {
		errs = append(errs, fmt.Errorf("Router: %q must be a name without slash", c.Router))
	}
	for _, s := range c.Services {
		if s == "" || strings.Contains(s, "/") {
			errs = append(errs, fmt.Errorf("Services: %q is no full service name", s))
		}
	}
	for name, d := range map[string]time.Duration{
		"DefaultTimeout": c.DefaultTimeout, "ReturnTrip": c.ReturnTrip, "Floor": c.Floor, "AttemptFloor": c.AttemptFloor,
		"HedgeFloor": c.HedgeFloor,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is negative", name, d))
		}
	}
	if c.RetryShare > 1 {
		errs = append(errs, fmt.Errorf("RetryShare: %v is more than every call", c.RetryShare))
	}
	if c.HedgeShare > 1 {
		errs = append(errs, fmt.Errorf("HedgeShare: %v is more than every call", c.HedgeShare))
	}
	if c.MaxMessageBytes < 0 {
		errs = append(errs, fmt.Errorf("MaxMessageBytes: %d is negative", c.MaxMessageBytes))
	}
	return errors.Join(errs...)
}

// Measurements is what the data plane reads from and tells to router/measure.
type Measurements interface {
	Snapshot() *arbiter.Snapshot
	Begin(key string, awaited bool) (sent time.Duration)
	Observe(key string, o measure.Outcome)
}

// Policy chooses where calls go, and hears of every attempt. Nil in Deps is the arbiter, which needs no more than the
// measurements; bench/arbitration puts other balancers in its place. Implementations are safe for concurrent use and do
// not block.
type Policy interface {
	// Pick chooses as arbiter.Pick does. A request that names a region in Hedging asks for a second copy elsewhere.
	Pick(s *arbiter.Snapshot, r arbiter.Request, draw float64) arbiter.Choice
	// Sent tells that an attempt goes to the node with this key; Done follows once, and again with a Late outcome.
	Sent(key string)
	Done(key string, o measure.Outcome)
}

// production is the arbiter as a Policy.
type production struct{}

func (production) Pick(s *arbiter.Snapshot, r arbiter.Request, draw float64) arbiter.Choice {
	return arbiter.Pick(s, r, draw)
}
func (production) Sent(string)                  {}
func (production) Done(string, measure.Outcome) {}

// Deps is what the data plane needs of others.
type Deps struct {
	Measured Measurements
	// Policy chooses; nil: router/arbiter.
	Policy Policy
	// Conn is the connection to a node by its key in the snapshot; nil when it is gone.
	Conn func(key string) grpc.ClientConnInterface
	// Central services by full name, forwarded without a choice, on the operator port only. May be nil.
	Central map[string]grpc.ClientConnInterface
	// Record takes every arbitrated call once its answer, or a stream's first message, is known. It must not block, and
	// nobody changes the decision afterwards.
	Record func(*Decision)

	Now     func() time.Time // stamps of decisions
	Random  io.Reader        // decision ids; safe for concurrent use
	Draw    func() float64   // in [0,1), breaks ties; safe for concurrent use
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: nowhere
}

// Forwarder is the data plane. Safe for concurrent use.
type Forwarder struct {
	config    Config
	deps      Deps
	offers    map[string]method // of OfferService, by full method name
	foreign   map[string]bool   // by full service name
	metrics   metrics
	hedges    *budget
	retries   *budget
	ejections ejections
	options   []grpc.CallOption

	stopping context.Context // ends streams, not unary calls
	stop     context.CancelFunc
}

// New makes a data plane. It starts nothing.
func New(config Config, deps Deps) (*Forwarder, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	offers := offerMethods()
	labels := slices.Clone(config.Services)
	for _, m := range offers {
		labels = append(labels, m.label)
	}
	f := &Forwarder{
		config: config.withDefaults(), deps: deps, offers: offers, foreign: map[string]bool{},
		metrics: newMetrics(deps.Metrics, labels),
	}
	for _, s := range config.Services {
		f.foreign[s] = true
	}
	if f.deps.Policy == nil {
		f.deps.Policy = production{}
	}
	f.hedges = newBudget(f.config.HedgeShare, hedgeBurst)
	f.retries = newBudget(f.config.RetryShare, retryBurst)
	f.options = callOptions(f.config.MaxMessageBytes)
	f.stopping, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// Stop ends all streams with UNAVAILABLE DRAINING, so that their clients resume elsewhere. Unary calls go on: they are
// short, and the listener waits for them.
func (f *Forwarder) Stop() { f.stop() }

// HandleOperator is Handle for the operator port: it forwards the central services, too. Viewers do not reach those.
func (f *Forwarder) HandleOperator(srv any, stream grpc.ServerStream) error {
	if name, ok := grpc.MethodFromServerStream(stream); ok {
		service, _ := splitMethod(name)
		if conn := f.deps.Central[service]; conn != nil {
			return f.direct(stream, name, conn)
		}
	}
	return f.Handle(srv, stream)
}

// Handle implements grpc.StreamHandler: it forwards calls of OfferService and of the configured services. The server
// side must use frame.Codec. Before it returns, only a goroutine that waits in stream.RecvMsg may be left, which ends
// with the stream.
func (f *Forwarder) Handle(_ any, stream grpc.ServerStream) error {
	name, ok := grpc.MethodFromServerStream(stream)
	if !ok {
		return rpcerr.New(codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD, "The call names no method.")
	}
	service, _ := splitMethod(name)
	if m, ok := f.offers[name]; ok {
		return f.observed(m.label, func() error { return f.offer(stream, name, m) })
	}
	if f.foreign[service] {
		return f.observed(service, func() error { return f.transparent(stream, name) })
	}
	return rpcerr.New(codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD,
		"This router does not serve the method.", rpcerr.Meta("method", name))
}

// splitMethod splits "/package.Service/Method".
func splitMethod(name string) (service, method string) {
	service, method, _ = strings.Cut(strings.TrimPrefix(name, "/"), "/")
	return service, method
}

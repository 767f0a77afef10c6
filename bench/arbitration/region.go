package main

import (
	"context"
	"errors"
	"hash/fnv"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/router/sim"
)

var errAway = errors.New("the verifier is away") // nobody buys here

// startRegion opens a node as process.StartRegion does, with the plan's work before each decision.
func startRegion(ctx context.Context, j job, plan *sim.Plan, now *clock) (*service, error) {
	disk, identity, err := journal.Open(ctx, filepath.Join(j.Dir, plan.Regions[j.Index]), journal.Options{})
	if err != nil {
		return nil, err
	}
	centre, err := rpc.Dial(j.Fulfillment, rpc.DialConfig{Token: j.Tokens[auth.Service]})
	if err != nil {
		return nil, err
	}
	verifier, err := rpc.Dial("verifier", rpc.DialConfig{
		Dialer: func(context.Context, string) (net.Conn, error) { return nil, errAway },
	})
	if err != nil {
		return nil, err
	}
	node, err := region.New(region.Config{Region: plan.Regions[j.Index], Parallelism: plan.Slots[j.Index], DrainTimeout: time.Millisecond}, region.Deps{
		Journal: disk, Identity: identity, Log: silent(), Verifier: verifierv1.NewVerifierServiceClient(verifier),
		Stock: fulfillmentv1.NewStockServiceClient(centre), Catalog: fulfillmentv1.NewCatalogServiceClient(centre),
	})
	if err != nil {
		return nil, err
	}
	w := newWork(plan, j.Index, now)
	server, err := rpc.NewServer(rpc.ServerConfig{
		Name: "region", Log: silent(), Tokens: j.Tokens, Rules: region.Rules(),
		Unary: []grpc.UnaryServerInterceptor{node.UnaryInterceptor(), w.intercept}, Stream: []grpc.StreamServerInterceptor{node.StreamInterceptor()},
	})
	if err != nil {
		return nil, err
	}
	node.Register(server)
	lis, err := net.Listen("tcp", j.Listen)
	if err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		err := process.RunStages(ctx,
			process.Stage{Name: "the node's RPCs", Run: func(ctx context.Context) error { return server.ServeInternal(ctx, lis) }},
			process.Stage{Name: "the node", Run: node.Run})
		return errors.Join(err, centre.Close(), verifier.Close(), disk.Close())
	}
	return &service{addr: lis.Addr().String(), run: run}, nil
}

// work makes a node as busy as the simulator's: so many calls at once, each for a drawn time, a bounded queue before them.
// It sleeps instead of computing, since the machine's two cores are all regions' together.
type work struct {
	plan   *sim.Plan
	region int
	now    *clock
	slots  chan struct{}
	inside atomic.Int64
}

func newWork(plan *sim.Plan, region int, now *clock) *work {
	return &work{plan: plan, region: region, now: now, slots: make(chan struct{}, plan.Slots[region])}
}

const fullRetry = 100 * time.Millisecond // what a full queue takes to empty

func (w *work) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	question, ok := request.(*offerv1.RequestOfferRequest)
	if !ok {
		return handler(ctx, request)
	}
	defer w.inside.Add(-1)
	if w.inside.Add(1) > int64(w.plan.Slots[w.region]+w.plan.Waiting[w.region]) {
		return nil, rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_OVERLOADED, "More calls than the region takes at once.", rpcerr.RetryAfter(fullRetry))
	}
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done(): // nobody waits any more
		return nil, ctx.Err()
	}
	defer func() { <-w.slots }()
	time.Sleep(w.takes(question.GetHints().GetRequestId()))
	return handler(ctx, request)
}

// takes is how long a call's work is, with what goes wrong now.
func (w *work) takes(id string) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	call := h.Sum64()
	d := float64(sim.Work(w.plan.Work, call))
	for _, f := range w.plan.Faults {
		if f.Region != w.region || !active(f, w.now.now()) {
			continue
		}
		if f.Kind == "slow" || f.Kind == "gray" && sim.Luck(call, uint64(w.region)) < f.Share {
			d *= f.Factor
		}
	}
	return time.Duration(d)
}

func active(f sim.PlannedFault, now time.Duration) bool { return f.From <= now && now < f.To }

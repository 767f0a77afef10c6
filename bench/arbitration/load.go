package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/sim"
)

// measured is what came of a run's calls.
type measured struct {
	mu      sync.Mutex
	tally   *sim.Tally
	latency *hdrhistogram.Histogram // us, of the calls in the figures
	late    *hdrhistogram.Histogram // us, from the schedule to the start
	calls   int                     // also those before the figures begin
}

// newHistogram is good for 1 us to a minute, at three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 3)
}

// quantile in ms.
func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	return float64(h.ValueAtQuantile(q)) / 1000
}

func (m *measured) call(plan *sim.Plan, at, late, took time.Duration, v sim.Verdict, region int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	m.tally.Call(at, took, v, region)
	if !m.tally.Counts(at) {
		return nil
	}
	if v != sim.Answered { // failing fast earns nothing
		took = plan.Patience
	}
	return errors.Join(m.latency.RecordValue(max(1, took.Microseconds())), m.late.RecordValue(max(1, late.Microseconds())))
}

// callAll lets the viewers of every router call: on schedule, whether or not earlier calls came back.
func (p *platform) callAll(ctx context.Context, at time.Time) (*measured, error) {
	m := &measured{tally: p.plan.NewTally(), latency: newHistogram(), late: newHistogram()}
	var viewers sync.WaitGroup
	defer viewers.Wait()
	errs := make([]error, len(p.fronts))
	for i, front := range p.fronts {
		conn, err := rpc.Dial(front, rpc.DialConfig{})
		if err != nil {
			return nil, err
		}
		conn.Connect()
		viewers.Go(func() {
			errs[i] = errors.Join(p.callOne(ctx, m, offerv1.NewOfferServiceClient(conn), i, at), conn.Close())
		})
	}
	viewers.Wait()
	return m, errors.Join(append(errs, ctx.Err())...)
}

// callOne makes one router's calls: a Poisson process, the same for every policy.
func (p *platform) callOne(ctx context.Context, m *measured, offers offerv1.OfferServiceClient, router int, start time.Time) error {
	rng := mathrand.New(mathrand.NewPCG(uint64(router), 1))
	var calls sync.WaitGroup
	var problem atomic.Pointer[error]
	for at := time.Duration(0); ; {
		at += time.Duration(rng.ExpFloat64() / p.plan.Rates[router] * float64(time.Second))
		scheduled := start.Add(at)
		if at > p.plan.End || !sleepUntil(ctx, scheduled) {
			break
		}
		calls.Go(func() {
			late := time.Since(scheduled)
			v, region := p.ask(ctx, offers, scheduled)
			if err := m.call(p.plan, at, late, time.Since(scheduled), v, region); err != nil {
				problem.Store(&err)
			}
		})
	}
	calls.Wait()
	if err := problem.Load(); err != nil {
		return *err
	}
	return nil
}

// ask makes one call within a viewer's patience, and tells which region answered; -1: none.
func (p *platform) ask(ctx context.Context, offers offerv1.OfferServiceClient, scheduled time.Time) (sim.Verdict, int) {
	ctx, cancel := context.WithDeadline(ctx, scheduled.Add(p.plan.Patience))
	defer cancel()
	session := make([]byte, 16)
	binary.BigEndian.PutUint64(session, mathrand.Uint64())
	var header metadata.MD
	answer, err := offers.RequestOffer(ctx, &offerv1.RequestOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: p.drop, RequestId: ids.NewV7(scheduled, rand.Reader)}, ViewerSessionId: session,
	}, grpc.Header(&header))
	region := -1
	if name := header.Get(forward.HeaderRegion); len(name) > 0 {
		region = slices.Index(p.plan.Regions, name[0])
	}
	switch {
	case err == nil && answer.GetGranted() != nil:
		return sim.Answered, region
	case status.Code(err) == codes.ResourceExhausted:
		return sim.Exhausted, region
	case status.Code(err) == codes.DeadlineExceeded:
		return sim.TimedOut, region
	case status.Code(err) == codes.Unavailable:
		return sim.Broken, region
	default: // also an offer that was refused: nobody should be
		return sim.Failed, region
	}
}

package forward_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

// moody is a region node whose service, load and luck change every other second. It implements both ends: the
// connection for calls and, by its table entry, the probes.
type moody struct {
	path time.Duration
	seed uint64
	base time.Time
}

// mood is how it is now: the same for everybody who asks within two seconds.
func (m *moody) mood() *mathrand.Rand {
	return mathrand.New(mathrand.NewPCG(m.seed, uint64(time.Since(m.base)/(2*time.Second))))
}

func (m *moody) load(r *mathrand.Rand) *regionv1.LoadReport {
	service := time.Duration(1+r.IntN(8)) * ms
	return &regionv1.LoadReport{
		Residence: durationpb.New(service), ServiceTime: durationpb.New(service), InFlight: uint32(r.IntN(8)), Parallelism: 4,
		ArrivalsPerSecond: r.Float64() * 2 * 4 / service.Seconds(),
	}
}

// Invoke implements grpc.ClientConnInterface.
//
//rimlight:bubble its only caller is a bubble
func (m *moody) Invoke(ctx context.Context, _ string, _, _ any, options ...grpc.CallOption) error {
	r := m.mood()
	load, luck := m.load(r), r.IntN(10)
	wait := m.path + load.GetResidence().AsDuration()
	if luck == 0 {
		wait = time.Minute // a black hole
	}
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-time.After(wait):
	}
	switch luck {
	case 1:
		return status.Error(codes.Unavailable, "connection reset")
	case 2:
		return typed(codes.Unavailable, "STORE_UNAVAILABLE")
	}
	raw, err := proto.Marshal(load)
	if err != nil {
		return err
	}
	for _, o := range options {
		if t, ok := o.(grpc.TrailerCallOption); ok {
			*t.TrailerAddr = metadata.Pairs(forward.TrailerLoad, string(raw))
		}
	}
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (m *moody) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unavailable, "no streams here")
}

// moods implements measure.Prober.
type moods map[string]*moody

// Connect implements measure.Prober.
func (moods) Connect(context.Context, measure.Target) error { return nil }

// Probe implements measure.Prober.
func (w moods) Probe(ctx context.Context, t measure.Target) (*regionv1.ProbeResponse, error) {
	m := w[t.Key()]
	load := m.load(m.mood())
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(m.path + load.GetResidence().AsDuration()):
	}
	return &regionv1.ProbeResponse{Region: t.Region, Load: load}, nil
}

// oneCall is a unary call's server side.
type oneCall struct {
	grpc.ServerStream
	ctx context.Context
}

// calledBy gives a context that names the method, as grpc's server does.
type calledBy struct{ grpc.ServerTransportStream }

func (calledBy) Method() string { return redeemOffer }

func (c oneCall) Context() context.Context     { return c.ctx }
func (c oneCall) RecvMsg(any) error            { return nil }
func (c oneCall) SendMsg(any) error            { return nil }
func (c oneCall) SetHeader(metadata.MD) error  { return nil }
func (c oneCall) SendHeader(metadata.MD) error { return nil }
func (c oneCall) SetTrailer(metadata.MD)       {}

// TestRecordedDecisionsReplay: 100,000 decisions, recorded by the real data plane over the real measurements of a
// platform in every kind of trouble, give the same choices again.
//
//rimlight:bubble it is one
func TestRecordedDecisionsReplay(t *testing.T) {
	calls := 100_000
	if testing.Short() {
		calls = 5_000
	}
	synctest.Test(t, func(t *testing.T) {
		world := moods{}
		var targets []measure.Target
		for i, name := range []string{"near", "middle", "far", "moon"} {
			target := measure.Target{Region: name, Address: name}
			targets = append(targets, target)
			world[target.Key()] = &moody{path: time.Duration(5+25*i) * ms, seed: uint64(i), base: time.Now()}
		}
		random := mathrand.New(mathrand.NewPCG(1, 1))
		table, err := measure.New(measure.Config{}, measure.Deps{Prober: world, Now: time.Now, Random: random, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		table.Set(targets)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := table.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		var mu sync.Mutex // guards draws and decisions
		draws := mathrand.New(mathrand.NewPCG(2, 2))
		decisions := make([]*forward.Decision, 0, calls)
		f, err := forward.New(forward.Config{Router: "r1", HedgeShare: 1}, forward.Deps{
			Measured: table, Conn: func(key string) grpc.ClientConnInterface { return world[key] },
			Record: func(d *forward.Decision) {
				mu.Lock()
				defer mu.Unlock()
				decisions = append(decisions, d)
			},
			Draw: func() float64 {
				mu.Lock()
				defer mu.Unlock()
				return draws.Float64()
			},
			Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		<-table.Ready()
		var viewers sync.WaitGroup
		for i := range calls {
			budget := time.Duration(30+i%20*20) * ms
			viewers.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, budget)
				defer cancel()
				_ = f.Handle(nil, oneCall{ctx: grpc.NewContextWithServerTransportStream(ctx, calledBy{})}) // it may fail: so do the nodes
			})
			time.Sleep(2 * ms)
		}
		viewers.Wait()
		cancel()
		running.Wait()
		replay(t, decisions, calls)
	})
}

func replay(t *testing.T, decisions []*forward.Decision, calls int) {
	if len(decisions) != calls {
		t.Errorf("%d decisions of %d calls were recorded", len(decisions), calls)
	}
	regimes := map[arbiter.Regime]int{}
	for _, d := range decisions {
		for i, a := range d.Attempts {
			regimes[a.Choice.Regime]++
			if again := arbiter.Explain(a.Snapshot, a.Request, a.Draw); again.Choice != a.Choice {
				t.Fatalf("%s, attempt %d: chose %+v, replays to %+v", d.ID, i+1, a.Choice, again.Choice)
			}
		}
	}
	t.Logf("%v", regimes)
	if testing.Short() {
		return // too few for every kind of trouble
	}
	for _, want := range []arbiter.Regime{
		arbiter.Normal, arbiter.Spill, arbiter.Suspected, arbiter.Hedge, arbiter.Panic, arbiter.LateExpected, arbiter.None,
	} {
		if regimes[want] == 0 {
			t.Errorf("no choice was made under %v: %v", want, regimes)
		}
	}
}

package forward_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

// regionNode answers probes and calls after its service time, with its load; a silent one never.
func regionNode(name string, service time.Duration, calls *atomic.Int32, silent func() bool) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		if err := stream.RecvMsg(new(frame.Frame)); err != nil {
			return err
		}
		if silent() {
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		select {
		case <-time.After(service):
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		load := &regionv1.LoadReport{Residence: durationpb.New(service), ServiceTime: durationpb.New(service), Parallelism: 8}
		if method == regionv1.RegionService_Probe_FullMethodName {
			return stream.SendMsg(&regionv1.ProbeResponse{Region: name, Mode: regionv1.RegionMode_REGION_MODE_SERVING, Load: load})
		}
		report, err := proto.Marshal(load)
		if err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs(forward.TrailerLoad, string(report)))
		calls.Add(1)
		return stream.SendMsg(&frame.Frame{Payload: []byte(name)})
	}
}

// TestNoCallFailsWhileARegionDies: three regions under steady traffic, the nearest one dies in the middle of it. The
// real table, prober and data plane over real grpc, in virtual time.
func TestNoCallFailsWhileARegionDies(t *testing.T) {
	for _, tt := range []struct {
		rule string
		dead int // the nearest ones
		die  func(*server, *atomic.Bool)
	}{
		{"its connections break", 1, func(s *server, _ *atomic.Bool) { s.grpc.Stop() }},
		{"it falls silent", 1, func(_ *server, silent *atomic.Bool) { silent.Store(true) }},
		{"the connections of two break at once", 2, func(s *server, _ *atomic.Bool) { s.grpc.Stop() }},
		{"two fall silent at once", 2, func(_ *server, silent *atomic.Bool) { silent.Store(true) }},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { dyingRegions(t, tt.dead, tt.die) })
		})
	}
}

//rimlight:bubble its callers are bubbles
func dyingRegions(t *testing.T, dead int, die func(*server, *atomic.Bool)) {
	var silent atomic.Bool // the dead
	nodes := map[string]*server{}
	var targets []measure.Target
	calls := map[string]*atomic.Int32{}
	for i, name := range []string{"near", "middle", "far"} {
		calls[name] = new(atomic.Int32)
		target := measure.Target{Region: name, Address: name}
		nodes[target.Key()] = serve(t, regionNode(name, time.Duration(5+20*i)*ms, calls[name], func() bool { return i < dead && silent.Load() }))
		targets = append(targets, target)
	}
	conn := func(key string) grpc.ClientConnInterface { return nodes[key].conn }
	table, err := measure.New(measure.Config{}, measure.Deps{
		Prober: &forward.Prober{Router: "r1", Conn: conn}, Now: time.Now, Random: mathrand.New(mathrand.NewPCG(1, 1)),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	table.Set(targets)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := table.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	f, err := forward.New(forward.Config{Router: "r1"}, forward.Deps{
		Measured: table, Conn: conn, Record: func(*forward.Decision) {}, Now: time.Now, Random: rand.Reader,
		Draw: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	router := serve(t, f.Handle)
	<-table.Ready()

	var viewers sync.WaitGroup
	for i := range 1000 { // one every 5 ms, so some are in flight at the moment of death
		if i == 400 {
			for _, target := range targets[:dead] {
				viewers.Go(func() { die(nodes[target.Key()], &silent) })
			}
		}
		viewers.Go(func() {
			answer := new(frame.Frame)
			if err := router.conn.Invoke(ctx, redeemOffer, &frame.Frame{}, answer); err != nil {
				t.Errorf("call %d at %v: %v", i, time.Now(), err)
			}
		})
		time.Sleep(5 * ms)
	}
	viewers.Wait()
	if n := calls["near"].Load(); n < 350 {
		t.Errorf("near answered %d calls before it died, want about 400", n)
	}
	next := targets[dead].Region
	if n := calls[next].Load(); n < 580 {
		t.Errorf("%s answered %d calls, want about 600", next, n)
	}
	t.Logf("near %d, middle %d, far %d", calls["near"].Load(), calls["middle"].Load(), calls["far"].Load())
}

// TestAWatcherResumesElsewhere: a watcher whose node dies gets UNAVAILABLE once and goes on elsewhere.
func TestAWatcherResumesElsewhere(t *testing.T) {
	dead := make(chan struct{})
	watch := func(name string) grpc.StreamHandler {
		return func(_ any, stream grpc.ServerStream) error {
			if err := stream.SendMsg(&frame.Frame{Payload: []byte(name)}); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		}
	}
	w := newWorld(t, forward.Config{}, node{"near", watch("near")}, node{"far", watch("far")})
	var seen bytes.Buffer
	for attempt := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := w.viewer.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, watchDrops)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.SendMsg(&frame.Frame{}), stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
		f := new(frame.Frame)
		if err := stream.RecvMsg(f); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&seen, "%s ", f.Payload)
		if attempt == 0 {
			go func() {
				defer close(dead)
				w.nodes["near"].grpc.Stop()
			}()
			if err := stream.RecvMsg(new(frame.Frame)); err == nil || errors.Is(err, io.EOF) {
				t.Fatalf("got %v, want UNAVAILABLE", err)
			}
			<-dead
		}
		cancel()
	}
	if seen.String() != "near far " {
		t.Errorf("got %q", seen.String())
	}
}

// BenchmarkUnary compares a unary call through the data plane with the same call straight to the node. The ratio of
// the two cpu-us/op is the price of the router; wall time on loopback says little.
func BenchmarkUnary(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 400)
	w := newWorld(b, forward.Config{}, node{"near", answers(string(payload))})
	for name, conn := range map[string]*grpc.ClientConn{"direct": w.nodes["near"].conn, "router": w.viewer} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			request := &frame.Frame{Payload: payload}
			start := cpu(b)
			for b.Loop() {
				if err := conn.Invoke(b.Context(), requestOffer, request, new(frame.Frame)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(os.NewSyscallError("getrusage", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

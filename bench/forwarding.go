package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
)

// measureForwarding compares the same calls straight to the node, to the node's public listener, and through a router.
func measureForwarding(ctx context.Context, s settings) (section, error) {
	var result section
	err := inWorld(ctx, s.dir, func(w *world) error {
		drop, err := w.openDrop(ctx, s.pick(1000, 100))
		if err != nil {
			return err
		}
		return w.throughRouter(ctx, func(router *grpc.ClientConn) error {
			edge, err := w.dial(w.edge, rpc.DialConfig{Timeout: callTimeout})
			if err != nil {
				return err
			}
			via := func(name string, conn *grpc.ClientConn) contender {
				client := offerv1.NewOfferServiceClient(conn)
				return contender{name: name, call: func(ctx context.Context) error { return granted(client.RequestOffer(ctx, w.offer(drop))) }}
			}
			cpu, err := compareCPU(ctx, s.pick(15, 1), s.pick(4000, 100), via("direct", w.conn), via("edge", edge), via("router", router))
			if err != nil {
				return err
			}
			result = forwardingSection(cpu)
			return nil
		})
	})
	return result, err
}

// throughRouter runs fn beside a router that knows the world's node, without delay and gossip.
func (w *world) throughRouter(ctx context.Context, fn func(*grpc.ClientConn) error) error {
	router, err := process.StartRouter(ctx, process.Router{
		Common: process.Common{Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()},
		Name:   "bench", AdminListen: "127.0.0.1:0", Regions: map[string]string{"bench": w.addr},
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	go func() { stopped <- router.Run(running) }()
	err = w.besideRouter(ctx, router, fn)
	stop()
	return errors.Join(err, <-stopped)
}

func (w *world) besideRouter(ctx context.Context, router *process.RouterProcess, fn func(*grpc.ClientConn) error) (err error) {
	select {
	case <-router.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	conn, err := rpc.Dial(router.Addr(), rpc.DialConfig{Timeout: callTimeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return fn(conn)
}

func forwardingSection(cpu [][]time.Duration) section {
	direct, edge, router := cpu[0], cpu[1], cpu[2]
	t := table{header: []string{"CPU per RequestOffer", "median µs", "lowest to highest round", "more than direct, µs", "ratio to direct"}}
	for _, row := range []struct {
		name string
		cpu  []time.Duration
	}{
		{"direct: the node's native listener (grpc-go)", direct},
		{"the node's public listener (net/http), no router", edge},
		{"through a router: public listener, choice, native hop", router},
	} {
		t.add(row.name, micros(median(row.cpu)), spread(row.cpu, micros), micros(median(differences(row.cpu, direct))), times(ratio(row.cpu, direct)))
	}
	return section{
		tables: []table{t},
		aim: fmt.Sprintf("The public listener alone costs %s µs; choosing, forwarding and the second hop %s µs.",
			micros(median(differences(edge, direct))), micros(median(differences(router, edge)))),
		cannot: fmt.Sprintf("what a router costs with many regions to choose from, with streams, with TLS, or with a browser's protocols: there is one "+
			"region, one gRPC connection and %d callers. Client, router and node share one process, so a garbage collection of one is paid by all.", callers),
	}
}

func differences(a, b []time.Duration) []time.Duration {
	out := make([]time.Duration, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}

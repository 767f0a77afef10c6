package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

// world is a node with fulfillment beside it, both on disk and over real connections, and with a verifier that is away:
// a node accepts without it, and settling on the same two cores would be measured too. A world that settles has a verifier
// that comes when it is told to.
type world struct {
	settles  bool
	database sqldb.PostgresConfig // of a world that settles; without a URL: files
	verifier verifierv1.VerifierServiceClient
	// realistic: its payment provider is as slow as a real one, and page is where customers confirm.
	realistic bool
	page      verifierv1.TestPaymentServiceClient
	back      atomic.Bool // the verifier is not away any more

	node    *region.Node
	addr    string // the native listener
	edge    string // the public one, of the same node
	conn    *grpc.ClientConn
	catalog fulfillmentv1.CatalogServiceClient
	echo    *echo

	sessions atomic.Uint64
	closers  []func() error
}

var errAway = errors.New("the verifier is away")

// inWorld runs fn in a world that lives for as long.
func inWorld(ctx context.Context, dir string, fn func(*world) error) error {
	return (&world{}).in(ctx, dir, fn)
}

func (w *world) in(ctx context.Context, dir string, fn func(*world) error) (err error) {
	w.echo = &echo{}
	stages, err := w.open(ctx, dir)
	defer func() {
		for i := len(w.closers) - 1; i >= 0; i-- {
			err = errors.Join(err, w.closers[i]())
		}
	}()
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	go func() { stopped <- process.RunStages(running, stages...) }()
	err = fn(w)
	err = errors.Join(err, w.conn.Close()) // or the listeners would wait for it
	stop()
	return errors.Join(err, <-stopped)
}

func (w *world) onClose(fn func() error) { w.closers = append(w.closers, fn) }

func (w *world) open(ctx context.Context, dir string) ([]process.Stage, error) {
	tokens, silent := auth.NewTokens(), slog.New(slog.DiscardHandler)
	common := process.Common{
		Listen: "127.0.0.1:0", DataDir: filepath.Join(dir, "centre"), Database: w.database, Tokens: tokens, Log: silent, Metrics: prometheus.NewRegistry(),
	}
	fulfillment, err := process.StartFulfillment(ctx, process.Fulfillment{Common: common})
	if err != nil {
		return nil, err
	}
	stages := []process.Stage{{Name: "fulfillment", Run: fulfillment.Run}}
	centre, err := w.dial(fulfillment.Addr(), rpc.DialConfig{Token: tokens[auth.Service]})
	if err != nil {
		return nil, err
	}
	producer, err := w.dial(fulfillment.Addr(), rpc.DialConfig{Token: tokens[auth.Producer], Timeout: callTimeout})
	if err != nil {
		return nil, err
	}
	w.catalog = fulfillmentv1.NewCatalogServiceClient(producer)
	verifierAddr := "away"
	if w.settles {
		common.Metrics = prometheus.NewRegistry()
		verifier, err := process.StartVerifier(ctx, process.Verifier{
			Common: common, Fulfillment: fulfillment.Addr(), Profile: "dev", PaymentRealistic: w.realistic,
		})
		if err != nil {
			return stages, err
		}
		stages = append([]process.Stage{{Name: "the verifier", Run: verifier.Run}}, stages...)
		verifierAddr = verifier.Addr()
		direct, err := w.dial(verifierAddr, rpc.DialConfig{Token: tokens[auth.Service]})
		if err != nil {
			return stages, err
		}
		w.verifier, w.page = verifierv1.NewVerifierServiceClient(direct), verifierv1.NewTestPaymentServiceClient(direct)
	}
	verifier, err := w.dial(verifierAddr, rpc.DialConfig{Token: tokens[auth.Service], TrustNetwork: true, Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
		if !w.back.Load() {
			return nil, errAway
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}})
	if err != nil {
		return nil, err
	}
	disk, identity, err := journal.Open(ctx, filepath.Join(dir, "region"), journal.Options{})
	if err != nil {
		return nil, err
	}
	w.onClose(disk.Close)
	w.node, err = region.New(region.Config{Region: "bench", DrainTimeout: time.Millisecond}, region.Deps{
		Journal: disk, Identity: identity, Log: silent,
		Stock: fulfillmentv1.NewStockServiceClient(centre), Catalog: fulfillmentv1.NewCatalogServiceClient(centre),
		Verifier: verifierv1.NewVerifierServiceClient(verifier),
	})
	if err != nil {
		return nil, err
	}
	native, edge, err := w.listen(tokens, silent)
	if err != nil {
		return nil, err
	}
	// In the order of stopping: who takes work in goes first.
	stages = append([]process.Stage{native, edge, {Name: "the node", Run: w.node.Run}}, stages...)
	w.conn, err = rpc.Dial(w.addr, rpc.DialConfig{Timeout: callTimeout})
	return stages, err
}

// callTimeout is far above any answer: a figure is not made of calls that gave up.
const callTimeout = 30 * time.Second

// listen opens the node's two listeners: the one that routers use, and one with a viewer's limits.
func (w *world) listen(tokens auth.Tokens, log *slog.Logger) (native, edge process.Stage, err error) {
	serve := func(public bool) (*rpc.Server, net.Listener, error) {
		server, err := rpc.NewServer(rpc.ServerConfig{
			Name: "bench", Log: log, Tokens: tokens, Rules: region.Rules(), Public: public,
			Unary: []grpc.UnaryServerInterceptor{w.node.UnaryInterceptor()}, Stream: []grpc.StreamServerInterceptor{w.node.StreamInterceptor()},
		})
		if err != nil {
			return nil, nil, err
		}
		w.node.Register(server)
		w.echo.register(server)
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		return server, lis, err
	}
	inner, innerLis, err := serve(false)
	if err != nil {
		return native, edge, err
	}
	outer, outerLis, err := serve(true)
	if err != nil {
		return native, edge, errors.Join(err, innerLis.Close())
	}
	w.addr, w.edge = innerLis.Addr().String(), outerLis.Addr().String()
	native = process.Stage{Name: "the native listener", Run: func(ctx context.Context) error { return inner.ServeInternal(ctx, innerLis) }}
	edge = process.Stage{Name: "the public listener", Run: func(ctx context.Context) error { return outer.ServePublic(ctx, outerLis) }}
	return native, edge, nil
}

func (w *world) dial(addr string, cfg rpc.DialConfig) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(addr, cfg)
	if err != nil {
		return nil, err
	}
	w.onClose(conn.Close)
	return conn, nil
}

// openDrop plans a drop that is open at once, and waits until the node sells it.
func (w *world) openDrop(ctx context.Context, units int) (string, error) {
	created, err := w.catalog.CreateDrop(ctx, &fulfillmentv1.CreateDropRequest{
		RequestId: ids.NewV7(time.Now(), rand.Reader), ChannelId: "bench", Title: "Signed session recording",
		Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}, Units: uint32(units),
		OpenTime: timestamppb.Now(), Duration: durationpb.New(time.Hour),
		Arms: []*fulfillmentv1.OfferArm{{Name: "five", Weight: 1, TokenTtl: durationpb.New(5 * time.Minute)}},
	})
	if err != nil {
		return "", fmt.Errorf("planning a drop: %w", err)
	}
	drop := created.GetDrop().GetDrop().GetDropId()
	return drop, w.waitStock(ctx, drop, 1)
}

// stockPatience is how long a lease may take to arrive: it takes milliseconds.
const stockPatience = 30 * time.Second

// waitStock waits until the node holds so many units of a drop.
func (w *world) waitStock(ctx context.Context, drop string, units int) error {
	ctx, cancel := context.WithTimeout(ctx, stockPatience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		probe, err := w.node.Probe(ctx, &regionv1.ProbeRequest{Router: "bench"}) // refuses until the node has joined
		for _, s := range probe.GetStock() {
			if s.GetDropId() == drop && int(s.GetUntouched()) >= units {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d units: %w", units, errors.Join(ctx.Err(), err))
		}
	}
}

// offer is a viewer's question.
func (w *world) offer(drop string) *offerv1.RequestOfferRequest {
	session := make([]byte, 16)
	binary.BigEndian.PutUint64(session[8:], w.sessions.Add(1))
	return &offerv1.RequestOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop, RequestId: ids.NewV7(time.Now(), rand.Reader)}, ViewerSessionId: session,
	}
}

// alwaysHeld is how many units a lone node has of a drop of 100,000 until half of them are sold: it asks for more at half
// a lease.
const alwaysHeld = 3000

// taps prepares redemptions by as many viewers, and waits until the node has units for the first of them; at a slow rate
// the others arrive in time.
func (w *world) taps(ctx context.Context, drop string, n int) ([]*offerv1.RedeemOfferRequest, error) {
	if err := w.waitStock(ctx, drop, min(n, alwaysHeld)); err != nil {
		return nil, err
	}
	taps := make([]*offerv1.RedeemOfferRequest, n)
	_, err := closedLoop(ctx, callers, n, func(ctx context.Context, i int) error {
		question := w.offer(drop)
		answer, err := w.node.RequestOffer(ctx, question)
		if err != nil {
			return err
		}
		taps[i] = &offerv1.RedeemOfferRequest{
			Hints: question.GetHints(), OfferToken: answer.GetGranted().GetOfferToken(),
			ViewerSessionId: question.GetViewerSessionId(), PaymentReference: "tp_ok",
		}
		return nil
	})
	return taps, err
}

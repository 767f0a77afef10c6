package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

const (
	service      = "/rimlight.offer.v1.OfferService/"
	requestOffer = service + "RequestOffer"
	redeemOffer  = service + "RedeemOffer"
	listKeys     = service + "ListKeys"
	watchDrops   = service + "WatchDrops"
	session      = "0123456789abcdef"
	drop         = "018f4a3e-7c1d-7b2a-9e4f-0123456789ab"
	requestID    = "018f4a3e-7c1d-7b2a-9e4f-ba9876543210"
)

// offers answers as the session credential wishes.
type offers struct {
	offerv1.UnimplementedOfferServiceServer
}

func (offers) RequestOffer(ctx context.Context, req *offerv1.RequestOfferRequest) (*offerv1.RequestOfferResponse, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	var remaining string
	if d, ok := ctx.Deadline(); ok {
		remaining = time.Until(d).Round(time.Second).String()
	}
	header := metadata.Pairs("rimlight-region", "here", "deadline", remaining, "role", string(auth.FromContext(ctx)))
	if echo := in.Get("echo-bin"); len(echo) > 0 {
		header.Append("echo-bin", echo[0])
	}
	if err := grpc.SetHeader(ctx, header); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("rimlight-decision", "d1", "load-bin", "\x00\xff")); err != nil {
		return nil, err
	}
	switch wish := req.GetSessionCredential(); wish {
	case "panic":
		panic("secret-canary")
	case "untyped":
		return nil, errors.New("secret-canary: connection to database lost")
	case "wrapped":
		return nil, fmt.Errorf("secret-canary: %w", rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND, "no such drop"))
	case "typed":
		return nil, rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_NO_UNIT_HERE, "no unit: 50 % über",
			rpcerr.Meta("drop_id", wish), rpcerr.RetryAfter(time.Second))
	case "context":
		return nil, fmt.Errorf("reading: %w", context.DeadlineExceeded)
	case "bare":
		return nil, status.Error(codes.Unknown, "secret-canary")
	case "unreachable":
		return nil, status.Error(codes.Unavailable, "secret-canary 10.0.0.7 refused")
	case "big":
		return &offerv1.RequestOfferResponse{Decision: &offerv1.RequestOfferResponse_Granted{
			Granted: &offerv1.OfferGranted{OfferToken: strings.Repeat("x", 100_000)}}}, nil
	}
	return &offerv1.RequestOfferResponse{Decision: &offerv1.RequestOfferResponse_Granted{
		Granted: &offerv1.OfferGranted{OfferToken: req.GetHints().GetRequestId()}}}, nil
}

func (offers) WatchDrops(req *offerv1.WatchDropsRequest, stream grpc.ServerStreamingServer[offerv1.WatchDropsResponse]) error {
	stream.SetTrailer(metadata.Pairs("rimlight-decision", "d1"))
	for i := range 3 {
		if err := stream.Send(&offerv1.WatchDropsResponse{ResumeToken: fmt.Sprint(i)}); err != nil {
			return err
		}
	}
	switch req.GetChannelId() {
	case "fail":
		return rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND, "gone")
	case "panic":
		panic("secret-canary")
	case "wait":
		<-stream.Context().Done()
		return stream.Context().Err()
	case "gone":
		<-stream.Context().Done()
		return status.Error(codes.Unavailable, "transport is closing") // as Send says
	}
	return nil
}

// forward stands for the router: it echoes every frame, and fails like somebody else's service when asked.
func forward(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	for {
		var f frame.Frame
		err := ss.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			ss.SetTrailer(metadata.Pairs("rimlight-decision", "d2"))
			return nil
		}
		if err != nil {
			return err
		}
		if strings.HasSuffix(method, "/Fail") {
			return status.Error(codes.DataLoss, "their own words")
		}
		if err := ss.SendMsg(&f); err != nil {
			return err
		}
	}
}

// world is one server on both listeners.
type world struct {
	native, edge string
	tokens       auth.Tokens
	log          *logBuffer
	stop         func() (native, edge error) // ends both, once
}

type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t testing.TB, change func(*rpc.ServerConfig), register func(grpc.ServiceRegistrar)) *world {
	t.Helper()
	w := &world{tokens: auth.NewTokens(), log: &logBuffer{}}
	cfg := rpc.ServerConfig{
		Name: "test", Public: true, Tokens: w.tokens,
		Rules: auth.Rules{redeemOffer: {auth.Producer}},
		Log:   slog.New(slog.NewJSONHandler(w.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if register == nil {
		register = func(r grpc.ServiceRegistrar) { offerv1.RegisterOfferServiceServer(r, offers{}) }
	}
	register(s)
	ctx, cancel := context.WithCancel(context.Background())
	listen := func() net.Listener {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return lis
	}
	a, b := listen(), listen()
	w.native, w.edge = a.Addr().String(), b.Addr().String()
	nativeDone, edgeDone := make(chan error, 1), make(chan error, 1)
	go func() { nativeDone <- s.ServeInternal(ctx, a) }()
	go func() { edgeDone <- s.ServePublic(ctx, b) }()
	w.stop = sync.OnceValues(func() (error, error) {
		cancel()
		return <-nativeDone, <-edgeDone
	})
	t.Cleanup(func() {
		if a, b := w.stop(); a != nil || b != nil {
			t.Errorf("stopping: native %v, edge %v", a, b)
		}
	})
	return w
}

func dial(t testing.TB, target string, cfg rpc.DialConfig) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

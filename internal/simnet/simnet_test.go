package simnet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/simnet"
)

const (
	delay = 50 * time.Millisecond
	grain = time.Millisecond // far above the network's own microsecond, far below any delay
)

// server is a handler of every kind of call. Each field replaces what a call does.
type server struct {
	grpc_testing.UnimplementedTestServiceServer
	unary  func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error)
	stream func(grpc_testing.TestService_FullDuplexCallServer) error
}

func (s *server) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if s.unary != nil {
		return s.unary(ctx, r)
	}
	return &grpc_testing.SimpleResponse{Payload: r.GetPayload()}, nil
}

func (s *server) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, out grpc_testing.TestService_StreamingOutputCallServer) error {
	for _, p := range r.GetResponseParameters() {
		if err := out.Send(answer(make([]byte, p.GetSize()))); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) StreamingInputCall(in grpc_testing.TestService_StreamingInputCallServer) error {
	var total int32
	for {
		r, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: total})
		}
		if err != nil {
			return err
		}
		total += int32(len(r.GetPayload().GetBody()))
	}
}

func (s *server) FullDuplexCall(both grpc_testing.TestService_FullDuplexCallServer) error {
	if s.stream != nil {
		return s.stream(both)
	}
	return echo(both)
}

func echo(both grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		r, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := both.Send(answer(r.GetPayload().GetBody())); err != nil {
			return err
		}
	}
}

func answer(body []byte) *grpc_testing.StreamingOutputCallResponse {
	return &grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: body}}
}

func ask(body string) *grpc_testing.SimpleRequest {
	return &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: []byte(body)}}
}

func say(body string) *grpc_testing.StreamingOutputCallRequest {
	return &grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: []byte(body)}}
}

// world runs a test in a bubble with a client "c" and a server "s", and closes the network: a goroutine that is left
// over would deadlock the bubble.
func world(t *testing.T, cfg simnet.Config, s *server, f func(*testing.T, *simnet.Network, grpc_testing.TestServiceClient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(cfg)
		defer n.Close()
		grpc_testing.RegisterTestServiceServer(n.Host("s"), s)
		f(t, n, grpc_testing.NewTestServiceClient(n.Conn("c", "s")))
	})
}

func links(l simnet.Link) simnet.Config {
	return simnet.Config{Link: func(string, string) simnet.Link { return l }}
}

var slow = links(simnet.Link{Delay: delay})

// took checks a duration of virtual time.
func took(t *testing.T, what string, begin time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(begin); got < want || got > want+grain {
		t.Errorf("%s took %s, want %s", what, got, want)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s ended in %s (%v), want %s", what, got, err, want)
	}
}

func TestAUnaryCallTakesTheDelayBothWays(t *testing.T) {
	cfg := simnet.Config{Link: func(from, _ string) simnet.Link {
		if from == "c" {
			return simnet.Link{Delay: delay}
		}
		return simnet.Link{Delay: 2 * delay}
	}}
	world(t, cfg, &server{}, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		begin := time.Now()
		got, err := c.UnaryCall(t.Context(), ask("hello"))
		if err != nil || string(got.GetPayload().GetBody()) != "hello" {
			t.Fatalf("got %v, %v", got, err)
		}
		took(t, "the call", begin, 3*delay)
		n.SetLink("c", "s", simnet.Link{})
		begin = time.Now()
		if _, err := c.UnaryCall(t.Context(), ask("hello")); err != nil {
			t.Fatal(err)
		}
		took(t, "the call over a better link", begin, 2*delay)
	})
}

func TestMessagesAreNeverShared(t *testing.T) {
	var kept *grpc_testing.SimpleRequest
	s := &server{unary: func(_ context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		kept = r
		return &grpc_testing.SimpleResponse{Payload: r.GetPayload()}, nil
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		sent := ask("hello")
		got, err := c.UnaryCall(t.Context(), sent)
		if err != nil {
			t.Fatal(err)
		}
		got.Payload.Body[0], sent.Payload.Body[1] = '!', '!'
		if string(kept.GetPayload().GetBody()) != "hello" {
			t.Errorf("the handler's message became %q", kept.GetPayload().GetBody())
		}
	})
}

func TestServerStreaming(t *testing.T) {
	world(t, slow, &server{}, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		const messages = 200 // more than a window
		request := &grpc_testing.StreamingOutputCallRequest{}
		for i := range messages {
			request.ResponseParameters = append(request.ResponseParameters, &grpc_testing.ResponseParameters{Size: int32(i)})
		}
		out, err := c.StreamingOutputCall(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			got, err := out.Recv()
			if err != nil || len(got.GetPayload().GetBody()) != i {
				t.Fatalf("message %d: %d bytes, %v", i, len(got.GetPayload().GetBody()), err)
			}
		}
		if _, err := out.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last message: %v", err)
		}
	})
}

func TestClientStreaming(t *testing.T) {
	world(t, slow, &server{}, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		in, err := c.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			if err := in.Send(&grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: []byte("xy")}}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := in.CloseAndRecv()
		if err != nil || got.GetAggregatedPayloadSize() != 400 {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestStreamingBothWays(t *testing.T) {
	world(t, slow, &server{}, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		both, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for i := range 3 {
			if err := both.Send(say(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			got, err := both.Recv()
			if err != nil || string(got.GetPayload().GetBody()) != fmt.Sprint(i) {
				t.Fatalf("got %v, %v", got, err)
			}
		}
		took(t, "three round trips", begin, 6*delay)
		if err := both.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the half-close: %v", err)
		}
	})
}

func TestAMethodThatNobodyImplements(t *testing.T) {
	world(t, slow, &server{}, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		_, err := c.EmptyCall(t.Context(), &grpc_testing.Empty{})
		wantCode(t, "the call", err, codes.Unimplemented)
	})
}

func TestStreamsStayInOrderUnderJitter(t *testing.T) {
	world(t, links(simnet.Link{Delay: delay, Jitter: delay}), &server{}, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		both, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if err := both.Send(say(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 50 {
			got, err := both.Recv()
			if err != nil || string(got.GetPayload().GetBody()) != fmt.Sprint(i) {
				t.Fatalf("message %d: got %v, %v", i, got, err)
			}
		}
	})
}

func TestASenderWaitsForItsReader(t *testing.T) {
	sent := 0
	s := &server{stream: func(both grpc_testing.TestService_FullDuplexCallServer) error {
		for both.Context().Err() == nil {
			if err := both.Send(answer(nil)); err != nil {
				return err
			}
			sent++
		}
		return nil
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := c.FullDuplexCall(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if sent == 0 || sent > 1000 {
			t.Errorf("%d messages were sent to a client that reads none", sent)
		}
	})
}

func TestMetadataTravelsBothWays(t *testing.T) {
	var got metadata.MD
	s := &server{unary: func(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		err := errors.Join(
			grpc.SetHeader(ctx, metadata.Pairs("h", "1")),
			grpc.SendHeader(ctx, metadata.Pairs("h", "2")),
			grpc.SetTrailer(ctx, metadata.Pairs("t-bin", "\x00\xff")),
		)
		if grpc.SetHeader(ctx, metadata.Pairs("late", "1")) == nil {
			err = errors.Join(err, errors.New("a header after the header was taken"))
		}
		return &grpc_testing.SimpleResponse{}, err
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "A", "1", "a", "2", "b-bin", "\x00\xff", "content-type", "text/plain")
		var header, trailer metadata.MD
		if _, err := c.UnaryCall(ctx, ask(""), grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string][]string{
			"a": {"1", "2"}, "b-bin": {"\x00\xff"}, ":authority": {"s"}, "content-type": {"application/grpc"},
		} {
			if fmt.Sprint(got[key]) != fmt.Sprint(want) {
				t.Errorf("incoming %s: got %q, want %q", key, got[key], want)
			}
		}
		if fmt.Sprint(header["h"]) != "[1 2]" || trailer.Get("t-bin")[0] != "\x00\xff" {
			t.Errorf("header %v, trailer %v", header, trailer)
		}
	})
}

func TestAStreamsHeaderComesBeforeItsMessages(t *testing.T) {
	s := &server{stream: func(both grpc_testing.TestService_FullDuplexCallServer) error {
		if err := both.SendHeader(metadata.Pairs("h", "1")); err != nil {
			return err
		}
		both.SetTrailer(metadata.Pairs("t", "1"))
		<-time.After(time.Second)
		return status.Error(codes.Aborted, "enough")
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		begin := time.Now()
		both, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		header, err := both.Header()
		if err != nil || header.Get("h")[0] != "1" {
			t.Fatalf("header %v, %v", header, err)
		}
		took(t, "the header", begin, 2*delay)
		_, err = both.Recv()
		wantCode(t, "the stream", err, codes.Aborted)
		took(t, "the stream", begin, 2*delay+time.Second)
		if both.Trailer().Get("t")[0] != "1" {
			t.Errorf("trailer %v", both.Trailer())
		}
	})
}

func TestStatusDetailsAndBytesSurvive(t *testing.T) {
	info := &errdetails.ErrorInfo{Reason: "SOLD_OUT", Domain: "rimlight.dev", Metadata: map[string]string{"k": "v"}}
	want, err := status.New(codes.FailedPrecondition, "sold out").WithDetails(info)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{stream: func(grpc_testing.TestService_FullDuplexCallServer) error { return want.Err() }}
	s.unary = func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		if err := grpc.SetHeader(ctx, metadata.Pairs("h", "1")); err != nil {
			return nil, err
		}
		if err := grpc.SetTrailer(ctx, metadata.Pairs("t", "1")); err != nil {
			return nil, err
		}
		return nil, want.Err()
	}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		var header, trailer metadata.MD
		_, err := c.UnaryCall(t.Context(), ask(""), grpc.Header(&header), grpc.Trailer(&trailer))
		both, openErr := c.FullDuplexCall(t.Context())
		if openErr != nil {
			t.Fatal(openErr)
		}
		_, streamErr := both.Recv()
		for what, err := range map[string]error{"unary": err, "stream": streamErr} {
			got := status.Convert(err)
			if got.Code() != want.Code() || got.Message() != want.Message() || len(got.Details()) != 1 ||
				fmt.Sprint(got.Details()[0]) != fmt.Sprint(info) {
				t.Errorf("%s: got %v with %v", what, got, got.Details())
			}
		}
		if header.Get("h") == nil || trailer.Get("t") == nil {
			t.Errorf("a failed call's header %v, trailer %v", header, trailer)
		}
	})
}

func TestAnUntypedErrorIsUnknownAsInGRPC(t *testing.T) {
	s := &server{unary: func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		return nil, errors.New("plain")
	}}
	world(t, slow, s, func(t *testing.T, _ *simnet.Network, c grpc_testing.TestServiceClient) {
		_, err := c.UnaryCall(t.Context(), ask(""))
		wantCode(t, "the call", err, codes.Unknown)
	})
}

func TestDeadlinesAndCancellationReachTheHandler(t *testing.T) {
	type seen struct {
		budget time.Duration
		ended  time.Duration
		err    error
	}
	for name, c := range map[string]struct {
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		code   codes.Code
		ends   time.Duration // at the caller
		budget time.Duration
	}{
		"a deadline": {
			func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, time.Second)
			},
			codes.DeadlineExceeded, time.Second, time.Second,
		},
		"a cancellation": {
			func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			}, codes.Canceled, time.Second, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got seen
			var start time.Time
			watch := func(ctx context.Context) {
				if d, ok := ctx.Deadline(); ok {
					got.budget = time.Until(d)
				}
				<-ctx.Done()
				got.ended, got.err = time.Since(start), ctx.Err()
			}
			s := &server{
				unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
					watch(ctx)
					return nil, ctx.Err()
				},
				stream: func(both grpc_testing.TestService_FullDuplexCallServer) error {
					watch(both.Context())
					return nil
				},
			}
			world(t, slow, s, func(t *testing.T, _ *simnet.Network, client grpc_testing.TestServiceClient) {
				for kind, call := range map[string]func(context.Context) error{
					"unary": func(ctx context.Context) error {
						_, err := client.UnaryCall(ctx, ask(""))
						return err
					},
					"stream": func(ctx context.Context) error {
						both, err := client.FullDuplexCall(ctx)
						if err != nil {
							return err
						}
						_, err = both.Recv()
						return err
					},
				} {
					start, got = time.Now(), seen{}
					ctx, cancel := c.ctx(t.Context())
					err := call(ctx)
					wantCode(t, kind, err, c.code)
					took(t, kind, start, c.ends)
					time.Sleep(2 * delay)
					synctest.Wait()
					if got.err == nil || got.ended < c.ends || got.ended > c.ends+delay+grain || got.budget != c.budget {
						t.Errorf("%s: the handler saw %+v", kind, got)
					}
					cancel()
				}
			})
		})
	}
}

func TestInterceptorsRunOutermostFirst(t *testing.T) {
	var order []string
	unary := func(name string) grpc.UnaryServerInterceptor {
		return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			order = append(order, name, info.FullMethod)
			return next(ctx, req)
		}
	}
	stream := func(name string) grpc.StreamServerInterceptor {
		return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			order = append(order, name)
			return next(srv, ss)
		}
	}
	world(t, slow, &server{}, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		n.Host("s").Configure(simnet.ServerOptions{
			Unary:  []grpc.UnaryServerInterceptor{unary("u1"), unary("u2")},
			Stream: []grpc.StreamServerInterceptor{stream("s1"), stream("s2")},
		})
		if _, err := c.UnaryCall(t.Context(), ask("")); err != nil {
			t.Fatal(err)
		}
		both, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := both.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		const method = "/grpc.testing.TestService/UnaryCall"
		if want := fmt.Sprint([]string{"u1", method, "u2", method, "s1", "s2"}); fmt.Sprint(order) != want {
			t.Errorf("got %v, want %v", order, want)
		}
	})
}

func TestCloseEndsCallsAndWaitsForHandlers(t *testing.T) {
	var left atomic.Int32
	left.Store(2)
	s := &server{
		unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
			defer left.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		},
		stream: func(both grpc_testing.TestService_FullDuplexCallServer) error {
			defer left.Add(-1)
			_, err := both.Recv()
			return err
		},
	}
	world(t, slow, s, func(t *testing.T, n *simnet.Network, c grpc_testing.TestServiceClient) {
		var calls sync.WaitGroup
		calls.Go(func() {
			_, err := c.UnaryCall(t.Context(), ask(""))
			wantCode(t, "the call", err, codes.Canceled)
		})
		both, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		n.Close()
		if got := left.Load(); got != 0 {
			t.Errorf("%d handlers outlive Close", got)
		}
		calls.Wait()
		_, err = both.Recv()
		wantCode(t, "the stream", err, codes.Canceled)
		_, err = c.UnaryCall(t.Context(), ask(""))
		wantCode(t, "a later call", err, codes.Canceled)
	})
}

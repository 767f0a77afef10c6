package simnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/simnet"
)

// A proxy carries every kind of call as a stream of frames, as the router does.
func TestAProxyOfFramesPreservesTheCall(t *testing.T) {
	s := &server{unary: func(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("t", "1")); err != nil {
			return nil, err
		}
		if bytes.Equal(r.GetPayload().GetBody(), []byte("fail")) {
			return nil, status.Error(codes.Aborted, "as asked")
		}
		return &grpc_testing.SimpleResponse{Payload: r.GetPayload()}, nil
	}}
	world(t, slow, s, func(t *testing.T, n *simnet.Network, _ grpc_testing.TestServiceClient) {
		backend := n.Conn("proxy", "s", grpc.ForceCodecV2(frame.Codec{}))
		n.Host("proxy").Configure(simnet.ServerOptions{
			Codec: frame.Codec{},
			Unknown: func(_ any, in grpc.ServerStream) error {
				method, _ := grpc.MethodFromServerStream(in)
				out, err := backend.NewStream(in.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
				if err != nil {
					return err
				}
				var f frame.Frame
				for {
					if err := in.RecvMsg(&f); err != nil {
						break
					}
					if err := out.SendMsg(&f); err != nil {
						break
					}
				}
				if err := out.CloseSend(); err != nil {
					return err
				}
				for {
					if err := out.RecvMsg(&f); err != nil {
						in.SetTrailer(out.Trailer())
						if errors.Is(err, io.EOF) {
							return nil
						}
						return err
					}
					if err := in.SendMsg(&f); err != nil {
						return err
					}
				}
			},
		})
		c := grpc_testing.NewTestServiceClient(n.Conn("c", "proxy"))
		var trailer metadata.MD
		begin := time.Now()
		got, err := c.UnaryCall(t.Context(), ask("hello"), grpc.Trailer(&trailer))
		if err != nil || string(got.GetPayload().GetBody()) != "hello" || trailer.Get("t") == nil {
			t.Errorf("got %v, %v, trailer %v", got, err, trailer)
		}
		took(t, "a call through the proxy", begin, 4*delay)
		_, err = c.UnaryCall(t.Context(), ask("fail"))
		wantCode(t, "a failing call through the proxy", err, codes.Aborted)
	})
}

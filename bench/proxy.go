package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/rimlight/rimlight/internal/rpc/frame"
)

// proxyArg makes this program the rival of a router: a transparent proxy as grpc-go is meant for it, an unknown-service
// handler and a client that hand the bytes on. It has grpc-go's defaults and does nothing else.
const proxyArg = "grpc-proxy"

// runProxy serves until SIGTERM. Its arguments are the node's address and the files of its certificate.
func runProxy(args []string) error {
	if len(args) != 3 {
		return errors.New("needs ADDRESS CERTIFICATE KEY")
	}
	secure, err := credentials.NewServerTLSFromFile(args[1], args[2])
	if err != nil {
		return err
	}
	backend, err := grpc.NewClient(args[0], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{})))
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	server := grpc.NewServer(grpc.Creds(secure), grpc.ForceServerCodecV2(frame.Codec{}), grpc.UnknownServiceHandler(passOn(backend)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, server.Stop)()
	fmt.Fprintf(os.Stderr, "the proxy%s%s\n", listens, lis.Addr())
	return errors.Join(server.Serve(lis), backend.Close())
}

// passOn forwards a call of any shape.
func passOn(backend *grpc.ClientConn) grpc.StreamHandler {
	anyShape := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	return func(_ any, caller grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(caller)
		md, _ := metadata.FromIncomingContext(caller.Context())
		ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(caller.Context(), md))
		defer cancel()
		callee, err := backend.NewStream(ctx, anyShape, method)
		if err != nil {
			return err
		}
		go func() { // ends with the call: its stream is closed when the handler returns
			if err := passRequests(caller, callee); err != nil {
				cancel()
			}
		}()
		header, err := callee.Header()
		if err != nil {
			return err
		}
		if err := caller.SetHeader(header); err != nil { // leaves with the first message
			return err
		}
		for {
			var f frame.Frame
			if err := callee.RecvMsg(&f); err != nil {
				caller.SetTrailer(callee.Trailer())
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := caller.SendMsg(&f); err != nil {
				return err
			}
		}
	}
}

func passRequests(caller grpc.ServerStream, callee grpc.ClientStream) error {
	for {
		var f frame.Frame
		err := caller.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			return callee.CloseSend()
		}
		if err != nil {
			return err
		}
		if err := callee.SendMsg(&f); err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why
			return err
		}
	}
}

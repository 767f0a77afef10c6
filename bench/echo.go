package main

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// echo answers RequestOffer's message with a message that was made before: what a call of these sizes costs when nobody
// decides or signs. It is in the platform's namespace, so that every interceptor treats it as one of its own.
type echo struct {
	answer atomic.Pointer[offerv1.RequestOfferResponse]
}

const (
	echoService = "rimlight.bench.v1.EchoService"
	echoMethod  = "/" + echoService + "/Echo"
)

func (e *echo) register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: echoService,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Echo",
			Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
				return e.handle(ctx, decode, intercept)
			},
		}},
	}, e)
}

func (e *echo) handle(ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	request := new(offerv1.RequestOfferRequest)
	if err := decode(request); err != nil {
		return nil, err
	}
	info := &grpc.UnaryServerInfo{Server: e, FullMethod: echoMethod}
	return intercept(ctx, request, info, func(context.Context, any) (any, error) { return e.answer.Load(), nil })
}

func (e *echo) call(ctx context.Context, conn *grpc.ClientConn, request *offerv1.RequestOfferRequest) error {
	return conn.Invoke(ctx, echoMethod, request, new(offerv1.RequestOfferResponse))
}

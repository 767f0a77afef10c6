package viewers_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/viewers"
)

// closed is a platform that nobody reaches.
type closed struct{ offerv1.OfferServiceClient }

func (closed) WatchDrops(context.Context, *offerv1.WatchDropsRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[offerv1.WatchDropsResponse], error) {
	return nil, status.Error(codes.Unavailable, "closed")
}

func TestAnAbsurdNumberOfViewersIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a := viewers.New(viewers.Config{Origins: []viewers.Origin{{Offers: []offerv1.OfferServiceClient{closed{}}}}, PerMinute: math.MaxInt})
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

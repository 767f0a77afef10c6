package rpc_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
)

// A server takes 1,000 streams a connection. Whoever holds 1,700 of them can still call, over a connection that has room.
func TestLanesHoldMoreStreamsThanAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := rpc.NewServer(rpc.ServerConfig{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		var held atomic.Int64
		offerv1.RegisterOfferServiceServer(s, holder{held: &held})
		lis := &countingMemory{memory: newMemory()}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.ServeInternal(ctx, lis) }()
		conn, err := rpc.DialLanes("there", rpc.DialConfig{Dialer: lis.dial})
		if err != nil {
			t.Fatal(err)
		}
		client := offerv1.NewOfferServiceClient(conn)
		watching, leave := context.WithCancel(t.Context())
		watch := func(n int) {
			for range n {
				if _, err := client.WatchDrops(watching, &offerv1.WatchDropsRequest{}); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		begin := time.Now()
		watch(1700)
		if took := time.Since(begin); took > 0 { // none waited for another's connection to age
			t.Errorf("the streams began after %v", took)
		}
		if got := held.Load(); got != 1700 {
			t.Errorf("the server holds %d streams, want 1700", got)
		}
		if _, err := client.RequestOffer(t.Context(), offerRequest("")); err != nil {
			t.Errorf("a call beside them: %v", err)
		}
		if got := lis.accepted.Load(); got != 3 {
			t.Errorf("got %d connections, want 3 of 800 streams", got)
		}

		// Places that were left are taken again.
		leave()
		synctest.Wait()
		watching, leave = context.WithCancel(t.Context())
		watch(1700)
		if got := lis.accepted.Load(); got != 3 || held.Load() != 1700 {
			t.Errorf("after all left and came back: %d connections, %d streams", got, held.Load())
		}
		leave()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if _, err := client.RequestOffer(t.Context(), offerRequest("")); err == nil {
			t.Error("a closed connection made a call")
		}
		if _, err := client.WatchDrops(t.Context(), &offerv1.WatchDropsRequest{}); err == nil {
			t.Error("a closed connection began a stream")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// holder keeps every stream.
type holder struct {
	offers
	held *atomic.Int64
}

func (h holder) WatchDrops(_ *offerv1.WatchDropsRequest, stream grpc.ServerStreamingServer[offerv1.WatchDropsResponse]) error {
	h.held.Add(1)
	defer h.held.Add(-1)
	<-stream.Context().Done()
	return stream.Context().Err()
}

// countingMemory counts the connections that were made.
type countingMemory struct {
	*memory
	accepted atomic.Int64
}

// Accept implements net.Listener.
func (c *countingMemory) Accept() (net.Conn, error) {
	conn, err := c.memory.Accept()
	if err == nil {
		c.accepted.Add(1)
	}
	return conn, err
}

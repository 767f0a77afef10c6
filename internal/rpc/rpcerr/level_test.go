package rpcerr_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// endOfStream is what a client's quiet stream ends with when end is called, or the connection had its time.
func endOfStream(t *testing.T, end func(*grpc.Server)) error {
	t.Helper()
	server := grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 5 * time.Minute, MaxConnectionAgeGrace: 30 * time.Second}))
	healthv1.RegisterHealthServer(server, health.NewServer())
	listener := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	end(server)
	_, err = stream.Recv()
	return err
}

func TestWhatWasAnnouncedIsNoWarning(t *testing.T) {
	draining := rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_DRAINING, "It is shutting down.")
	for _, c := range []struct {
		name string
		err  func(t *testing.T) error
		want slog.Level
	}{
		{"a connection that had its time", func(t *testing.T) error { return endOfStream(t, func(*grpc.Server) {}) }, slog.LevelInfo},
		{"a server that is gone", func(t *testing.T) error { return endOfStream(t, (*grpc.Server).Stop) }, slog.LevelWarn},
		{"a server that shuts down", func(*testing.T) error { return fmt.Errorf("watching: %w", draining) }, slog.LevelInfo},
		{"the end", func(*testing.T) error { return fmt.Errorf("watching: %w", io.EOF) }, slog.LevelInfo},
		{"anything else", func(*testing.T) error { return context.DeadlineExceeded }, slog.LevelWarn},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := c.err(t); rpcerr.Level(err) != c.want {
					t.Errorf("%v is at %v, want %v", err, rpcerr.Level(err), c.want)
				}
			})
		})
	}
}

package cluster_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/cluster"
	"github.com/rimlight/rimlight/internal/rpc"
)

// Routers whose public ports speak TLS still hear each other, and an audience trusts the certificate whoever signed it.
func TestTLSAtThePublicPorts(t *testing.T) {
	donor := httptest.NewTLSServer(nil) // only for its certificate
	certificates := donor.TLS.Certificates
	donor.Close()
	c, err := cluster.Start(t.Context(), cluster.Config{
		Listen: "127.0.0.1:0", DataDir: t.TempDir(), Regions: []string{"europe-west3"}, Routers: []string{"europe-west1", "us-west1"},
		Centre: "us-central1", Demo: true, Viewers: 1, Version: "test", Log: slog.New(slog.DiscardHandler),
		TLS: &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	ready, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ready); err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(c.Routers[0], rpc.DialConfig{TLS: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	admin := routerv1.NewRouterAdminServiceClient(conn)
	for { // the ring needs a moment until the second router is in it
		resp, err := admin.ListRegions(ready, &routerv1.ListRegionsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetPeers()) == 1 && len(resp.GetSilentRouters()) == 0 {
			return
		}
	}
}

package main

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// fakeAdmin is a router's operator port that says what a test wants.
type fakeAdmin struct {
	routerv1.UnimplementedRouterAdminServiceServer
	url string

	mu       sync.Mutex
	asked    []*routerv1.SetRegionModeRequest
	mode     *routerv1.SetRegionModeResponse
	listed   *routerv1.ListRegionsResponse
	check    *routerv1.CheckResponse
	slowDisk time.Duration                    // that check was told
	watch    []*routerv1.WatchRegionsResponse // one after the other; the last one stays
}

func startFakeAdmin(t testing.TB) *fakeAdmin {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAdmin{url: "http://" + lis.Addr().String()}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	routerv1.RegisterRouterAdminServiceServer(server, f)
	verifierv1.RegisterSupportServiceServer(server, fakeSupport{})
	fulfillmentv1.RegisterOrderServiceServer(server, fakeOrders{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) }) // ends with Stop
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return f
}

// set changes what it says.
func (f *fakeAdmin) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// verb runs a client verb against the fake.
func (f *fakeAdmin) verb(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var out, errOut bytes.Buffer
	code = run(t.Context(), append(args, "--router", f.url), &out, &errOut)
	return code, out.String(), errOut.String()
}

// SetRegionMode implements routerv1.RouterAdminServiceServer.
func (f *fakeAdmin) SetRegionMode(_ context.Context, q *routerv1.SetRegionModeRequest) (*routerv1.SetRegionModeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, q)
	return f.mode, nil
}

// ListRegions implements routerv1.RouterAdminServiceServer.
func (f *fakeAdmin) ListRegions(context.Context, *routerv1.ListRegionsRequest) (*routerv1.ListRegionsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listed, nil
}

// WatchRegions implements routerv1.RouterAdminServiceServer.
func (f *fakeAdmin) WatchRegions(_ *routerv1.WatchRegionsRequest, stream grpc.ServerStreamingServer[routerv1.WatchRegionsResponse]) error {
	f.mu.Lock()
	messages := f.watch
	f.mu.Unlock()
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// golden holds what was printed to testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is printed; if that is meant, go test -update. Got:\n%s", path, got)
	}
}

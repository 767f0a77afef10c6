package world_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/world"
)

// Schedules over internal/rpc, grpc-go and simulated TCP; tools/torture plays more of them.
func TestOverGRPC(t *testing.T) {
	long(t)
	t.Parallel()
	first, n := uint64(1), uint64(3)
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for s := first; s < first+n; s++ {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			t.Parallel()
			cfg := world.Torture(s, world.AnyAim)
			cfg.OverGRPC = true
			play(t, cfg)
		})
	}
}

func TestOneScheduleInFiftyIsOverGRPC(t *testing.T) {
	over := 0
	for s := range uint64(1000) {
		if world.Torture(s+1, world.AnyAim).OverGRPC {
			over++
		}
	}
	if over < 12 || over > 30 {
		t.Errorf("%d of 1,000 schedules are over grpc-go, want about 20", over)
	}
}

// escrow is a fulfillment that takes its time. It tells how its handlers' contexts stood when they returned.
type escrow struct {
	fulfillmentv1.UnimplementedStockServiceServer
	takes time.Duration
	ended chan error
}

// RetireNode implements fulfillmentv1.StockServiceServer.
func (e *escrow) RetireNode(ctx context.Context, _ *fulfillmentv1.RetireNodeRequest) (*fulfillmentv1.RetireNodeResponse, error) {
	select {
	case <-time.After(e.takes):
	case <-ctx.Done():
	}
	e.ended <- ctx.Err()
	return &fulfillmentv1.RetireNodeResponse{}, nil
}

// overGRPC plays f with a network that has nothing but this escrow, which answers after a second.
func overGRPC(t *testing.T, seed uint64, f func(t *testing.T, n world.Network, host world.Server, e *escrow)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := world.NewGRPCNetwork(world.Config{Seed: seed, Drops: world.MixedDrops()})
		defer n.Close()
		e := &escrow{takes: time.Second, ended: make(chan error, 9)}
		host := n.Host("fulfillment")
		fulfillmentv1.RegisterStockServiceServer(host, e)
		if err := host.Up(); err != nil {
			t.Fatal(err)
		}
		f(t, n, host, e)
	})
}

// ask calls the escrow as a client, and waits 20 s at most.
func ask(t *testing.T, n world.Network, client string) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := fulfillmentv1.NewStockServiceClient(n.Conn(client, "fulfillment")).
		RetireNode(ctx, &fulfillmentv1.RetireNodeRequest{NodeId: "0190a0e0-0000-7000-8000-000000000001"})
	if err != nil {
		t.Log(err)
	}
	return status.Code(err)
}

func TestOverGRPCEachClientHasItsRole(t *testing.T) {
	for client, want := range map[string]codes.Code{
		"europe-west3": codes.OK, "verifier": codes.OK, "operator": codes.OK,
		"viewer-1@europe-west3": codes.Unauthenticated, "finance": codes.PermissionDenied, "depot-1@us-central1": codes.PermissionDenied,
	} {
		overGRPC(t, 1, func(t *testing.T, n world.Network, _ world.Server, _ *escrow) {
			if got := ask(t, n, client); got != want {
				t.Errorf("%s was answered %v, want %v", client, got, want)
			}
		})
	}
}

// Dead hosts reset connections or fall silent, by the seed. Nobody hears the handler, and the next life is found.
func TestOverGRPCADeadHostAnswersNobody(t *testing.T) {
	how := map[codes.Code]int{}
	for seed := range uint64(8) {
		overGRPC(t, seed, func(t *testing.T, n world.Network, host world.Server, e *escrow) {
			time.AfterFunc(time.Second/2, host.Down)
			how[ask(t, n, "europe-west3")]++
			if err := <-e.ended; err == nil {
				t.Error("the handler did not learn of its process's end")
			}
			if err := host.Up(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) //rimlight:bubble longer than a connection's backoff, in virtual time
			if got := ask(t, n, "europe-west3"); got != codes.OK {
				t.Errorf("the next life answers %v", got)
			}
		})
	}
	if len(how) != 2 || how[codes.Unavailable] == 0 || how[codes.DeadlineExceeded] == 0 {
		t.Errorf("callers heard %v, want UNAVAILABLE of some and nothing of others", how)
	}
}

func TestOverGRPCADeadProcessCallsNobody(t *testing.T) {
	overGRPC(t, 1, func(t *testing.T, n world.Network, _ world.Server, e *escrow) {
		node := n.Host("europe-west3")
		if err := node.Up(); err != nil {
			t.Fatal(err)
		}
		old := fulfillmentv1.NewStockServiceClient(n.Conn("europe-west3", "fulfillment"))
		time.AfterFunc(time.Second/2, node.Down)
		if got := ask(t, n, "europe-west3"); got != codes.Unavailable && got != codes.Canceled {
			t.Errorf("a process that dies meanwhile was answered %v", got)
		}
		<-e.ended
		if err := node.Up(); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, n, "europe-west3"); got != codes.OK {
			t.Errorf("its next life was answered %v", got)
		}
		if _, err := old.RetireNode(t.Context(), &fulfillmentv1.RetireNodeRequest{}); status.Code(err) != codes.Canceled {
			t.Errorf("what is left of the process got %v", err)
		}
	})
}

func TestOverGRPCAHostThatEndsInOrderAnswersFirst(t *testing.T) {
	overGRPC(t, 1, func(t *testing.T, n world.Network, host world.Server, e *escrow) {
		time.AfterFunc(time.Second/2, host.Drain)
		if got := ask(t, n, "europe-west3"); got != codes.OK {
			t.Errorf("the call in progress was answered %v", got)
		}
		if got := ask(t, n, "europe-west3"); got != codes.Unavailable {
			t.Errorf("a call afterwards was answered %v", got)
		}
	})
}

func TestOverGRPCAShortCutOnlyTakesTime(t *testing.T) {
	for _, way := range [][2]string{{"europe-west3", "fulfillment"}, {"fulfillment", "europe-west3"}} {
		overGRPC(t, 1, func(t *testing.T, n world.Network, _ world.Server, _ *escrow) {
			n.Cut(way[0], way[1])
			time.AfterFunc(2500*time.Millisecond, n.HealAll)
			if got := ask(t, n, "europe-west3"); got != codes.OK {
				t.Errorf("before there was a connection: %v", got)
			}
			n.Cut(way[0], way[1])
			time.AfterFunc(2500*time.Millisecond, n.HealAll)
			if got := ask(t, n, "europe-west3"); got != codes.OK {
				t.Errorf("over a connection that there was: %v", got)
			}
		})
	}
}

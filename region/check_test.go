package region_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

func TestCheckTellsOfRingAndDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		memory := w.disk.OpenMemory(w.options)
		defer func() {
			if err := memory.Close(); err != nil {
				t.Error(err)
			}
		}()
		var failure error
		health := journal.Health{FreeBytes: 3 << 30, AllBytes: 1 << 40}
		node, err := region.New(region.Config{Region: "test-1"}, region.Deps{
			Journal: memory, Identity: w.identity, Stock: w.stock, Catalog: w.catalog, Verifier: w.verifier, Random: w.random, Version: "v9",
			Now:  func() time.Time { return time.Now().Add(time.Hour) },
			Disk: func() (journal.Health, error) { return health, failure },
			Paths: func(context.Context) []*regionv1.Path {
				time.Sleep(3 * time.Second)
				return []*regionv1.Path{{MemberName: "router/r1/1"}}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.node = node
		begin := time.Now()
		got, err := node.Check(t.Context(), &regionv1.CheckRequest{})
		if err != nil || got.GetVersion() != "v9" || len(got.GetPaths()) != 1 || got.GetDisk().GetFreeBytes() != 3<<30 || got.GetDisk().GetSyncP99() != nil {
			t.Errorf("got %v, %v", got, err)
		}
		if got.GetReceiveTime().AsTime().Sub(begin) != time.Hour || got.GetAnswerTime().AsTime().Sub(begin) != time.Hour+3*time.Second {
			t.Errorf("asked at %v, its clock is an hour before: it says %v to %v", begin, got.GetReceiveTime().AsTime(), got.GetAnswerTime().AsTime())
		}
		health.SyncP99, health.Syncs = 5*time.Millisecond, 100
		if got, err = node.Check(t.Context(), nil); err != nil || got.GetDisk().GetSyncP99().AsDuration() != 5*time.Millisecond || got.GetDisk().GetSyncs() != 100 {
			t.Errorf("got %v, %v", got, err)
		}
		failure = errors.New("I/O error on /data/secret")
		if _, err := node.Check(t.Context(), nil); rpcerr.Reason(err) != errorsv1.Reason_REASON_INTERNAL {
			t.Errorf("a disk that cannot tell: %v", err)
		}
	})
}

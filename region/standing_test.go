package region_test

import (
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

const leaseSize = 10000

// newStanding is a node without its loops, in real time: its journal already holds an epoch, an open drop and units.
func newStanding(t testing.TB, j journal.Journal, identity journal.Identity, units int) (*region.Node, *fulfillmentv1.CatalogDrop) {
	t.Helper()
	drop := dropOf("01890000-0000-7000-8000-00000000000d", 100000, time.Now().Add(-time.Second))
	drop.Drop.CloseTime.Seconds += 3600
	records := []*regionv1.JournalRecord{
		{Record: &regionv1.JournalRecord_Joined{Joined: &regionv1.Joined{Epoch: 1}}},
		{Record: &regionv1.JournalRecord_Drop{Drop: drop}},
	}
	for serial := 1; serial <= units; serial += leaseSize {
		l := &fulfillmentv1.Lease{LeaseId: ids.NewV7(time.Now(), rand.Reader), DropId: drop.Drop.DropId, NodeId: identity.NodeID, Epoch: 1}
		for s := range min(leaseSize, units-serial+1) {
			l.Serials = append(l.Serials, uint32(serial+s))
		}
		records = append(records, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Leased{Leased: l}})
	}
	for _, r := range records {
		raw, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := journal.Append(t.Context(), j, raw); err != nil {
			t.Fatal(err)
		}
	}
	node, err := region.New(region.Config{Region: "test-1"}, region.Deps{
		Journal: j, Identity: identity, Stock: newFakeStock(rand.Reader, 1), Verifier: newFakeVerifier(rand.Reader),
		Catalog: &fakeCatalog{messages: make(chan *fulfillmentv1.WatchCatalogResponse)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return node, drop
}

func newMemoryStanding(t testing.TB, units int) (*region.Node, *fulfillmentv1.CatalogDrop) {
	t.Helper()
	// The same key in every process: a fuzzing worker honours the tokens that its coordinator made.
	identity, err := journal.NewIdentity(time.Now(), newRandomness(7))
	if err != nil {
		t.Fatal(err)
	}
	j := (&journal.Disk{}).OpenMemory(journal.MemoryOptions{})
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return newStanding(t, j, identity, units)
}

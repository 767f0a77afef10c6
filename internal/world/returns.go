package world

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// Return is what a node told fulfillment that it gives back.
type Return struct {
	Host, Lease string
	Serials     []uint32
}

// returns are all of them.
type returns struct {
	mu   sync.Mutex // guards sent
	sent []Return
}

// notedStock is fulfillment's escrow as a node calls it.
type notedStock struct {
	fulfillmentv1.StockServiceClient
	host  *host
	notes *returns
}

// ReturnUnits implements fulfillmentv1.StockServiceClient.
func (s notedStock) ReturnUnits(ctx context.Context, r *fulfillmentv1.ReturnUnitsRequest, o ...grpc.CallOption) (*fulfillmentv1.ReturnUnitsResponse, error) {
	if !s.host.powerless() { // else nothing leaves it: a dead process that goes on for a moment is the test's doing
		s.notes.mu.Lock()
		s.notes.sent = append(s.notes.sent, Return{s.host.name, r.GetLeaseId(), r.GetSerials()})
		s.notes.mu.Unlock()
	}
	return s.StockServiceClient.ReturnUnits(ctx, r, o...)
}

func (r *returns) all() []Return {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent
}

func returnsAreWritten(e *Evidence, _ *index, broken func(string, ...any)) {
	written := map[string]bool{}
	for _, j := range e.Journals {
		for _, entry := range j.Entries {
			if entry.Kind == "returned" {
				for _, serial := range entry.Serials {
					written[fmt.Sprintf("%s/%s/%d", j.Host, entry.Lease, serial)] = true
				}
			}
		}
	}
	for _, r := range e.Returns {
		for _, serial := range r.Serials {
			if !written[fmt.Sprintf("%s/%s/%d", r.Host, r.Lease, serial)] {
				broken("%s gave unit %d of lease %s back, and its journal does not say so", r.Host, serial, r.Lease)
			}
		}
	}
}

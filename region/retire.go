package region

import (
	"context"
	"errors"
	"fmt"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/mutant"
)

// errRetired ends the loops of a node that is done for good.
var errRetired = errors.New("region: the node retired")

// retire is the end of a node that Config.Retire asks for, a step at a time; its units are on their way back already. The
// gate has been closed since New, so nothing is sold in this life, and the seal is the journal's last word about sales.
// Only when the verifier has read up to it are the node's leases put aside: it closes them then without waiting for
// receipts (docs/settlement.md 2.7).
func (s *stocker) retire(ctx context.Context) error {
	n := s.n
	s.heartbeatAt = time.Now().Add(shortestHeartbeat)
	n.till.mu.Lock()
	sealed, read := n.till.sealed, n.till.sealRead
	n.till.mu.Unlock()
	switch {
	case !sealed:
		record := &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Sealed{Sealed: &regionv1.Sealed{Epoch: n.epoch()}}}
		if err := n.append(ctx, record); err != nil {
			return fmt.Errorf("sealing the journal: %w", err)
		}
		n.till.mu.Lock()
		n.till.sealed = true
		n.till.mu.Unlock()
		n.log.Info("the journal is sealed", "journal_lag", n.till.lag())
		poke(n.pokeOutbox)
		return nil
	case !read && !mutant.On(mutant.SealUnread):
		return nil
	}
	call, cancel := n.callContext(ctx)
	defer cancel()
	_, err := n.deps.Stock.RetireNode(call, &fulfillmentv1.RetireNodeRequest{NodeId: n.deps.Identity.NodeID, Epoch: n.epoch(), BootId: n.bootID})
	if err != nil {
		return fmt.Errorf("retiring: %w", err)
	}
	n.log.Info("the node has retired: its journal is sealed and forwarded, and its leases are put aside")
	return errRetired
}

// sealAt says where in the journal the seal is.
func (t *till) sealAt(sequence int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sealed, t.sealSequence = true, sequence
}

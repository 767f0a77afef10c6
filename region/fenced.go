package region

import (
	"context"
	"errors"
	"fmt"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/region/lease"
)

// giveWay stops a process whose data directory was copied, and whose copy is in service. It is journaled: a supervisor
// that starts both again and again would let the two sell the same serials in turns.
func (n *Node) giveWay(ctx context.Context, cause error) error {
	n.gate.close()
	err := n.append(ctx, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Superseded{Superseded: &regionv1.Superseded{BootId: n.bootID}}})
	if err != nil {
		err = fmt.Errorf("journaling that another process took over: %w", err)
	}
	return n.lastWords(ctx, errors.Join(fmt.Errorf("%w: %w", ErrSuperseded, cause), err))
}

// lastWords keeps a node that is fenced for good from selling, and gives the verifier the time to take what it sold
// before: those receipts are as good as any until their leases are closed. It returns why.
func (n *Node) lastWords(ctx context.Context, why error) error {
	n.gate.close()
	n.log.Error("the node is fenced and must stop", "error", why, "journal_lag", n.till.lag())
	patience := time.NewTimer(n.cfg.DrainTimeout)
	defer patience.Stop()
	select {
	case <-n.gate.idle(): // who is inside may still redeem
	case <-patience.C:
		return why
	case <-ctx.Done():
		return why
	}
	for n.till.lag() > 0 {
		select {
		case <-n.pokeDrained:
		case <-patience.C:
			n.log.Warn("stopped before everything was forwarded; another start goes on", "journal_lag", n.till.lag())
			return why
		case <-ctx.Done():
			return why
		}
	}
	return why
}

// obeyFence sells nothing more from leases that an operator had put aside, and gives back what is untouched of them. That
// the serials are on their way back is in the journal, so no restart sells them; what is sold is forwarded as ever.
func (s *stocker) obeyFence(ctx context.Context, leases []string) error {
	n := s.n
	var plan []lease.Return
	n.till.mu.Lock()
	for _, id := range leases {
		if r := n.till.book.PlanReturnLease(id); len(r.Serials) > 0 {
			plan = append(plan, r)
		}
	}
	n.till.mu.Unlock()
	for _, r := range plan {
		n.log.Warn("an operator fenced a lease: what is untouched goes back", "lease_id", r.Lease, "units", len(r.Serials))
	}
	return s.journalReturns(ctx, plan)
}

// journalID names the journal to the verifier, which remembers by it how far it has read. A journal that a copy went on
// with has sequences of its own from then on: it is read from its beginning.
func (n *Node) journalID() string {
	if mutant.On(mutant.JournalUnnamed) {
		return n.deps.Identity.NodeID
	}
	if n.superseded != "" {
		return n.deps.Identity.DiskID + "/" + n.superseded
	}
	return n.deps.Identity.DiskID
}

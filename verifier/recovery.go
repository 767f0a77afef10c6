package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// A verifier that was restored from a backup has promised things that it does not know of. What it lacks is in the nodes'
// journals, at the payment provider and at fulfillment; it asks them in this order, and does nothing of its own before:
//
//	replay     every node forwards its journal from where the backup was; no unit is settled or released, no payment
//	           made, no lease closed, since which redemption of a token won, and which unit was released, is not known
//	redo       purchases go through the saga again: fulfillment gives the same answers as before, and of payments the
//	           provider is asked what it already has, since it may have forgotten their keys
//	deliver    orders are followed again from where the backup was, when the purchases that they belong to are ordered

// errRecovering: nobody can say yet, since journals are still to be read.
var errRecovering = errors.New("verifier: restored, and reading the nodes' journals again")

// MarkRestored turns a migrated store that is an old copy (a backup, or a database brought back to a point in time) into
// one that recovers at its next start.
func MarkRestored(ctx context.Context, db *sqldb.DB, now time.Time) error {
	err := store.New(db).Write(ctx, func(tx *store.Tx) error { return tx.Restored(ctx, now.UnixMicro()) })
	if err != nil {
		return fmt.Errorf("marking the store as restored: %w", err)
	}
	return nil
}

// loadRestore reads whether the store was restored.
func (s *Service) loadRestore(ctx context.Context) error {
	r, err := s.store.Read().Restore(ctx)
	if err != nil {
		return err
	}
	s.restoreEnd.Store(r.End)
	s.recovering.Store(r.Time != 0 && r.End == 0)
	return nil
}

// awaitJournals returns when every node's journal was read again, at once if nothing was restored; false: ctx ended.
func (s *Service) awaitJournals(ctx context.Context) bool {
	var told []string
	for s.recovering.Load() && ctx.Err() == nil {
		err := s.loadRestore(ctx) // another replica may have ended it
		if err == nil && !s.recovering.Load() {
			break
		}
		var missing []string
		if err == nil {
			missing, err = s.unread(ctx)
		}
		if err == nil && len(missing) == 0 {
			err = s.endRestore(ctx)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			s.deps.Log.Warn("recovering failed, trying again", "error", err)
		case len(missing) > 0 && !slices.Equal(missing, told):
			told = missing
			s.deps.Log.Warn("restored: nothing is settled or paid before these nodes forwarded their journals", "node_ids", missing)
		}
		if s.recovering.Load() {
			sleep(ctx, s.cfg.Poll, nil)
		}
	}
	return ctx.Err() == nil
}

// unread lists the nodes that fulfillment knows and whose journals were not read again. A node whose journals the backup has
// sealed retired before it, and has nothing to add: it will not come.
func (s *Service) unread(ctx context.Context) ([]string, error) {
	if mutant.On(mutant.JournalsUnawaited) {
		return nil, nil
	}
	if err := s.refreshKeys(ctx); err != nil {
		return nil, err
	}
	read, err := s.store.Read().RereadNodes(ctx)
	if err != nil {
		return nil, err
	}
	retired, err := s.store.Read().SealedNodes(ctx)
	if err != nil {
		return nil, err
	}
	done := map[string]bool{"": true} // the verifier's own key has no node
	for _, id := range slices.Concat(read, retired) {
		done[id.UUID()] = true
	}
	for _, id := range s.cfg.RecoverWithout {
		done[id] = true
	}
	var missing []string
	for _, k := range s.keys.All() {
		if id := k.GetNodeId(); !done[id] {
			done[id] = true
			missing = append(missing, id)
		}
	}
	slices.Sort(missing)
	return missing, nil
}

func (s *Service) endRestore(ctx context.Context) error {
	end := s.deps.Now().UnixMicro()
	if err := s.store.Write(ctx, func(tx *store.Tx) error { return tx.EndRestore(ctx, end) }); err != nil {
		return err
	}
	s.deps.Log.Info("restored: every journal was read again")
	return s.loadRestore(ctx) // the end that counts is the first replica's
}

// reread notes that a node's journal is here up to its head, if that matters. head nil: the node does not say.
func (s *Service) reread(ctx context.Context, nodeID store.ID, acknowledged int64, head *int64) error {
	if !s.recovering.Load() || head == nil || acknowledged < *head {
		return nil
	}
	return s.store.Write(ctx, func(tx *store.Tx) error { return tx.Reread(ctx, nodeID) })
}

// awaitOrders returns when the purchases of before the restore are ordered: what orders became is told once, and an order
// that comes before its purchase would be passed. false: ctx ended.
func (s *Service) awaitOrders(ctx context.Context) bool {
	for failures := 0; ctx.Err() == nil; {
		waiting, err := s.store.Read().Unordered(ctx, s.restoreEnd.Load())
		switch {
		case err != nil:
			s.deps.Log.Warn("looking for restored purchases failed", "error", err)
			sleep(ctx, s.backoff(failures), nil)
			failures++
		case !waiting:
			return true
		default:
			sleep(ctx, s.cfg.Poll, nil)
		}
	}
	return false
}

// endedOrder is an order that ended before its purchase was here again.
type endedOrder struct {
	*fulfillmentv1.Order
	moneyBack bool // its viewer chose that, or nothing in time
}

// endedBefore reads the orders of purchases of before the restore that have ended: the news of that may have been told, and
// passed, before the purchase was here again.
func (s *Service) endedBefore(ctx context.Context, jobs []store.Job, purchases map[store.ID]*store.Purchase) (map[store.ID]endedOrder, error) {
	ended := map[store.ID]endedOrder{}
	for _, j := range jobs {
		p := purchases[j.TokenID]
		if p.State != saga.Captured || !s.ofBefore(p) {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
		response, err := s.deps.Orders.GetOrder(callCtx, &fulfillmentv1.GetOrderRequest{OrderId: store.OrderID(p.PurchaseID).UUID()})
		cancel()
		if err != nil {
			return nil, fmt.Errorf("reading what an order became: %w", err)
		}
		o := endedOrder{Order: response.GetOrder()}
		if orderEvents[o.GetState()] == 0 {
			continue
		}
		if o.GetState() == fulfillmentv1.OrderState_ORDER_STATE_DEAD && p.IntentID != "" {
			if o.moneyBack, err = s.wentBack(ctx, p.IntentID); err != nil {
				return nil, err
			}
		}
		ended[j.TokenID] = o
	}
	return ended, nil
}

// ofBefore tells that a purchase may have been known before the store was restored. One that comes late counts as such, too:
// nobody may have said that the store is an old copy.
func (s *Service) ofBefore(p *store.Purchase) bool {
	return s.wasThere(p) || p.AcceptTime < s.after(-keysKept)
}

// wasThere is ofBefore of a store that is said to be restored.
func (s *Service) wasThere(p *store.Purchase) bool {
	end := s.restoreEnd.Load()
	return s.recovering.Load() || end != 0 && p.AcceptTime < end+clocksApart.Microseconds()
}

// keysKept is how long every provider still knows a key: they keep them for a day, and testpsp for as long as it is told.
const keysKept = time.Hour

// clocksApart is how far the clock of a node may be ahead of ours.
const clocksApart = 2 * time.Second

// madeBefore finds what a payment of before the restore came to: the intent that took the money, or the one that is still
// open. found is false where neither exists, so that a new attempt doubles nothing.
func (s *Service) madeBefore(ctx context.Context, p *store.Purchase) (in payment.Intent, found bool, err error) {
	if !s.ofBefore(p) || mutant.On(mutant.MadeBeforeUnread) {
		return in, false, nil
	}
	return s.madeOf(ctx, p.PurchaseID)
}

// madeOf is what the provider has of a purchase, whenever it was made: see madeBefore.
func (s *Service) madeOf(ctx context.Context, purchaseID store.ID) (in payment.Intent, found bool, err error) {
	intents, err := provider(ctx, s, "list", func(ctx context.Context) ([]payment.Intent, error) {
		return s.deps.Payment.Intents(ctx, purchaseID.Hex())
	})
	for _, i := range intents {
		if i.State == payment.Succeeded {
			return i, true, nil
		}
		if i.State != payment.Cancelled {
			in, found = i, true
		}
	}
	return in, found, err
}

// askedAfter is how long after a restore the provider is asked before a token is cancelled: tokens live for minutes, and what
// a viewer keeps for longer than this is a receipt.
const askedAfter = 24 * time.Hour

// unpaidBefore is an error where the provider has a payment of a token that is to be cancelled, open or made: the redemption of
// before the restore was lost with its node, and who has paid is told no definite no. A receipt that somebody shows heals it.
func (s *Service) unpaidBefore(ctx context.Context, tokenID, purchaseID store.ID) error {
	end := s.restoreEnd.Load()
	if end == 0 || s.after(-askedAfter) > end {
		return nil
	}
	if _, err := s.store.Read().Purchase(ctx, tokenID); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, found, err := s.madeOf(ctx, purchaseID)
	if err == nil && found {
		return errRecovering
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRecovering, err)
	}
	return nil
}

// closedBefore tells that the winner's lease was given up and closed, so that it has no unit, unless the provider has a payment:
// then it came in time before the restore, and fulfillment says whose the unit is.
func (s *Service) closedBefore(ctx context.Context, p *store.Purchase) (bool, error) {
	dead, err := s.store.Read().Tombstoned(ctx, p.LeaseID)
	if err != nil || !dead[p.LeaseID] || mutant.On(mutant.SettleAfterClosed) {
		return false, err
	}
	_, found, err := s.madeBefore(ctx, p)
	return !found, err
}

// paidForNothing turns the verdict on a purchase whose unit is denied into saga.DeniedPaid where the provider took its money
// before the restore. Where a payment is open it is cancelled, and read: nobody would ever take or cancel it. With a
// duplicate left nothing is cancelled, since that may have the unit.
func (s *Service) paidForNothing(ctx context.Context, p *store.Purchase, v *verdict) error {
	candidates, err := s.store.Read().Candidates(ctx, p.TokenID)
	if err != nil || hasSpare(candidates) {
		return err
	}
	in, found, err := s.madeBefore(ctx, p)
	if err != nil || !found {
		return err
	}
	if in.State != payment.Succeeded {
		if _, err := provider(ctx, s, "cancel", func(ctx context.Context) (payment.Intent, error) { return s.deps.Payment.Cancel(ctx, in.ID) }); err != nil {
			return err
		}
		in, err = s.readIntent(ctx, in.ID)
		switch {
		case err != nil || in.State == payment.Cancelled:
			return err
		case in.State != payment.Succeeded:
			return fmt.Errorf("an intent is %v after it was cancelled", in.State)
		}
	}
	v.event, v.before = saga.DeniedPaid, in
	v.moneyBack, err = s.wentBack(ctx, in.ID)
	return err
}

// chooseAgain is the choice of before the restore, where the money went back.
func (s *Service) chooseAgain(ctx context.Context, tx *store.Tx, p *store.Purchase, moneyBack bool) error {
	if p.State != saga.ChoiceRequired || !moneyBack {
		return nil
	}
	return s.leaveChoice(ctx, tx, p, saga.ChoseMoney)
}

// refundedBefore tells, of somebody who wants a voucher now, that the money went back before the restore.
func (s *Service) refundedBefore(ctx context.Context, id store.ID, event saga.Event) (bool, error) {
	p, err := s.store.Read().Purchase(ctx, id)
	if err != nil || p.State != saga.ChoiceRequired || event != saga.ChoseVoucher || !s.wasThere(&p) {
		return false, err
	}
	refunded, err := s.wentBack(ctx, p.IntentID)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errRecovering, err)
	}
	return refunded, nil
}

// wentBack tells whether the money of an intent was given back, or is on its way.
func (s *Service) wentBack(ctx context.Context, intentID string) (bool, error) {
	list, err := s.readRefunds(ctx, intentID)
	return slices.ContainsFunc(list, func(r payment.Refund) bool { return r.State != payment.RefundFailed }), err
}

// overLimit decides whether a purchase is beyond its session's share, where the session has more purchases than that. First
// come those that the provider has an intent of, open or paid: they were counted before the restore, since no intent is made
// before, and they are never over. The others follow in the order of arrival, which nodes that read their journals again do
// not keep. An error is a question that the provider did not answer: nobody guesses.
func (s *Service) overLimit(ctx context.Context, p *store.Purchase, session []store.ID, limit int) (bool, error) {
	made := s.madeBefore
	if mutant.On(mutant.OverLimitByArrival) {
		made = func(context.Context, *store.Purchase) (in payment.Intent, found bool, err error) {
			return in, false, nil
		}
	}
	if _, counted, err := made(ctx, p); counted || err != nil {
		return false, err
	}
	others, err := s.store.Read().Purchases(ctx, session)
	if err != nil {
		return false, err
	}
	ahead, earlier := 0, true
	for _, id := range session {
		other := others[id]
		counts := earlier || other.State != saga.Received
		switch {
		case id == p.TokenID:
			earlier = false
			continue
		case other.State.Failed():
			continue
		case !counts:
			if _, counts, err = made(ctx, other); err != nil {
				return false, err
			}
		}
		if counts {
			ahead++
		}
	}
	return ahead >= limit, nil
}

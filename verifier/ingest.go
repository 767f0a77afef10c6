package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// errMismatch: the token's id belongs to another viewer session or drop.
var errMismatch = errors.New("verifier: the token id belongs to another session or drop")

// redemption is a genuine receipt, as rows.
type redemption struct {
	purchase store.Purchase
	receipt  string
	expired  bool
	trace    []byte // empty: nobody traces it
}

// openReceipt verifies a receipt and everything that later steps rely on. token.ErrUnknownKey is not final; the other
// errors are.
func (s *Service) openReceipt(text string) (redemption, error) {
	receipt, offer, err := s.keys.OpenReceipt(text)
	if err != nil {
		return redemption{}, err
	}
	nodeID, nodeErr := store.ParseUUID(receipt.GetNodeId())
	leaseID, leaseErr := store.ParseUUID(receipt.GetLeaseId())
	purchaseID, idErr := store.ParseHex(receipt.GetPurchaseId())
	if err := errors.Join(nodeErr, leaseErr, idErr, receipt.GetAcceptTime().CheckValid(), checkTerms(receipt, offer)); err != nil {
		return redemption{}, fmt.Errorf("%w: %w", token.ErrMalformed, err)
	}
	outOfTime := false
	if offer.GetTimeBack() != "" { // made after the planned close: legitimate if fulfillment gave that time back
		switch _, err := timeback.Check(s.keys, offer); {
		case errors.Is(err, token.ErrUnknownKey):
			return redemption{}, err
		case err != nil:
			outOfTime = true
		}
	}
	accept := receipt.GetAcceptTime().AsTime()
	return redemption{
		purchase: store.Purchase{
			TokenID: store.ID(offer.GetTokenId()), PurchaseID: purchaseID,
			DropID: store.ID(offer.GetDropId()), ViewerSessionID: store.ID(offer.GetViewerSessionId()),
			NodeID: nodeID, Serial: receipt.GetSerial(), LeaseID: leaseID, AcceptTime: accept.UnixMicro(),
			CurrencyCode: offer.GetPrice().GetCurrencyCode(), MinorUnits: offer.GetPrice().GetMinorUnits(),
			PaymentReference: receipt.GetPaymentReference(), Charged: offer.GetPrice().GetMinorUnits(),
			PresentedVoucher: s.presentedVoucher(receipt.GetVoucher()),
		},
		receipt: text, trace: receipt.GetTraceContext(),
		expired: outOfTime || accept.After(time.UnixMicro(offer.GetExpireTimeUs()).Add(dropclock.Grace)),
	}, nil
}

func checkTerms(receipt *offerv1.Receipt, offer *offerv1.OfferToken) error {
	if receipt.GetSerial() == 0 {
		return errors.New("no serial")
	}
	if offer.GetPrice().GetMinorUnits() < 0 || len(offer.GetPrice().GetCurrencyCode()) != 3 {
		return errors.New("a price that is none")
	}
	return nil
}

// verify opens receipts; where a key is unknown it asks fulfillment once and tries again. results and causes have the
// entries' order: exactly one of each pair is set. The error is token.ErrUnknownKey: come back later.
func (s *Service) verify(ctx context.Context, texts []string) (results []redemption, causes []error, err error) {
	results, causes = make([]redemption, len(texts)), make([]error, len(texts))
	refreshed := false
	for i, text := range texts {
		results[i], causes[i] = s.openReceipt(text)
		if !errors.Is(causes[i], token.ErrUnknownKey) {
			continue
		}
		if !refreshed {
			refreshed = true
			if err := s.refreshKeys(ctx); err != nil {
				return nil, nil, fmt.Errorf("%w: %w", token.ErrUnknownKey, err)
			}
			results[i], causes[i] = s.openReceipt(text)
		}
		if errors.Is(causes[i], token.ErrUnknownKey) {
			return nil, nil, causes[i]
		}
	}
	return results, causes, nil
}

// opened is a batch of a node's journal with what verify says of it. Two signatures each are most of what a batch costs, so
// the next one is verified while this one is stored.
type opened struct {
	entries []*verifierv1.JournalEntry
	results []redemption
	causes  []error
	err     error
}

func (s *Service) openBatch(ctx context.Context, entries []*verifierv1.JournalEntry) opened {
	texts := make([]string, len(entries))
	for i, e := range entries {
		texts[i] = e.GetReceipt()
	}
	o := opened{entries: entries}
	o.results, o.causes, o.err = s.verify(ctx, texts)
	return o
}

// ingest takes one batch of a node's journal in, in one transaction. Entries that are not genuine are kept aside and
// listed; they hold up nothing.
func (s *Service) ingest(ctx context.Context, journal store.Journal, batch opened) (*verifierv1.Acknowledgement, error) {
	if batch.err != nil {
		return nil, batch.err
	}
	entries, results, causes := batch.entries, batch.results, batch.causes
	if mutant.On(mutant.AckBeforeCommit) {
		last := entries[len(entries)-1].GetSequence()
		if err := s.store.Write(ctx, func(tx *store.Tx) error { return tx.Acknowledge(ctx, journal, last) }); err != nil {
			return nil, err
		}
	}
	defer s.ingestSpans(ctx, results)()
	var ack *verifierv1.Acknowledgement
	err := s.store.Write(ctx, func(tx *store.Tx) error {
		ack = &verifierv1.Acknowledgement{}
		arrival, err := tx.TakeArrivals(ctx, len(entries))
		if err != nil {
			return err
		}
		known, err := lookUp(ctx, tx, results)
		if err != nil {
			return err
		}
		for i, e := range entries {
			ack.Sequence = max(ack.Sequence, e.GetSequence())
			cause := causes[i]
			if cause == nil {
				cause = s.admit(ctx, tx, known, results[i], arrival+int64(i))
			}
			switch {
			case cause == nil:
			case isRejection(cause):
				ack.RejectedSequences = append(ack.RejectedSequences, e.GetSequence())
				if err := tx.Reject(ctx, journal, e.GetSequence(), cause.Error(), e.GetReceipt(), s.deps.Now().UnixMicro()); err != nil {
					return err
				}
			default:
				return cause
			}
		}
		return tx.Acknowledge(ctx, journal, ack.Sequence)
	})
	if err != nil {
		return nil, fmt.Errorf("taking entries in: %w", err)
	}
	s.metrics.entries.WithLabelValues("accepted").Add(float64(len(entries) - len(ack.RejectedSequences)))
	s.metrics.entries.WithLabelValues("rejected").Add(float64(len(ack.RejectedSequences)))
	return ack, nil
}

func isRejection(err error) bool {
	return errors.Is(err, token.ErrMalformed) || errors.Is(err, token.ErrForged) || errors.Is(err, errMismatch)
}

// present takes in a receipt that somebody kept, exactly like a forwarded entry, and returns its purchase.
func (s *Service) present(ctx context.Context, text string) (store.Purchase, error) {
	results, causes, err := s.verify(ctx, []string{text})
	if err = errors.Join(err, firstOf(causes)); err != nil {
		return store.Purchase{}, fmt.Errorf("opening a receipt: %w", err)
	}
	r := results[0]
	known, err := s.knows(ctx, &r.purchase)
	if err != nil {
		return store.Purchase{}, err
	}
	if !known { // reads by receipt are frequent; only news is worth a write
		err = s.store.Write(ctx, func(tx *store.Tx) error {
			arrival, err := tx.TakeArrivals(ctx, 1)
			if err != nil {
				return err
			}
			known, err := lookUp(ctx, tx, results)
			if err != nil {
				return err
			}
			return s.admit(ctx, tx, known, r, arrival)
		})
		if err != nil {
			return store.Purchase{}, fmt.Errorf("taking a receipt in: %w", err)
		}
		s.metrics.entries.WithLabelValues("presented").Inc()
	}
	return s.store.Read().Purchase(ctx, r.purchase.TokenID)
}

func firstOf(causes []error) error {
	if len(causes) == 0 {
		return nil
	}
	return causes[0]
}

// knows tells whether this very redemption is stored.
func (s *Service) knows(ctx context.Context, p *store.Purchase) (bool, error) {
	candidates, err := s.store.Read().Candidates(ctx, p.TokenID)
	if err != nil {
		return false, err
	}
	for _, c := range candidates {
		if sameRedemption(&c, p) {
			return true, nil
		}
	}
	return false, nil
}

func sameRedemption(c *store.Candidate, p *store.Purchase) bool {
	return c.NodeID == p.NodeID && sameUnit(c, p)
}

func sameUnit(c *store.Candidate, p *store.Purchase) bool {
	return c.Serial == p.Serial && c.LeaseID == p.LeaseID
}

// known is what a batch of redemptions meets: the purchases of their tokens, as this transaction leaves them, and which of
// their leases have tombstones.
type known struct {
	purchases map[store.ID]*store.Purchase
	dead      map[store.ID]bool
}

// lookUp comes after the arrival numbers were taken: see store.Tombstone.
func lookUp(ctx context.Context, tx *store.Tx, all []redemption) (k known, err error) {
	var tokenIDs, leaseIDs []store.ID
	for _, r := range all {
		if r.receipt != "" { // else it is none
			tokenIDs = append(tokenIDs, r.purchase.TokenID)
			if !slices.Contains(leaseIDs, r.purchase.LeaseID) {
				leaseIDs = append(leaseIDs, r.purchase.LeaseID)
			}
		}
	}
	if k.dead, err = tx.Tombstoned(ctx, leaseIDs...); err != nil {
		return k, err
	}
	k.purchases, err = tx.Purchases(ctx, tokenIDs)
	return k, err
}

// admit stores one genuine redemption: the first of its token makes the purchase, the same again changes nothing, any
// other is a duplicate. errMismatch when the token's id is taken by another session or drop.
func (s *Service) admit(ctx context.Context, tx *store.Tx, k known, r redemption, arrival int64) error {
	now := s.deps.Now().UnixMicro()
	c := store.Candidate{
		TokenID: r.purchase.TokenID, NodeID: r.purchase.NodeID, Serial: r.purchase.Serial, LeaseID: r.purchase.LeaseID,
		Arrival: arrival, State: store.Winner, Receipt: r.receipt,
	}
	late := k.dead[c.LeaseID] && !s.ofBefore(&r.purchase) && !mutant.On(mutant.SettleAfterClosed)
	winner := k.purchases[r.purchase.TokenID]
	if winner != nil && mutant.On(mutant.NoKeyOnK) && (winner.Serial != r.purchase.Serial || winner.LeaseID != r.purchase.LeaseID) {
		r.purchase.TokenID[0], r.purchase.PurchaseID[0] = ^r.purchase.TokenID[0], ^r.purchase.PurchaseID[0]
		c.TokenID = r.purchase.TokenID
		switch other, err := tx.Purchase(ctx, r.purchase.TokenID); {
		case err == nil:
			winner = &other
		case errors.Is(err, store.ErrNotFound):
			winner = nil
		default:
			return err
		}
	}
	if winner == nil {
		p := r.purchase
		k.purchases[p.TokenID] = &p
		return s.admitFirst(ctx, tx, &p, &c, r.expired, late, now)
	}
	if winner.ViewerSessionID != r.purchase.ViewerSessionID || winner.DropID != r.purchase.DropID {
		return errMismatch
	}
	candidates, err := tx.Candidates(ctx, winner.TokenID)
	if err != nil {
		return err
	}
	c.State = store.Spare
	if late {
		c.State = store.Denied // it can have no unit, and there is none to release
	}
	for _, other := range candidates {
		if sameRedemption(&other, &r.purchase) {
			if other.Receipt != r.receipt { // a copy of the node's directory sold the same, and may have passed its news by
				tx.Announce(winner)
			}
			return nil
		}
		if sameUnit(&other, &r.purchase) {
			c.State = store.Redundant // whatever happens to the unit happens through the other one
		}
	}
	if err := tx.InsertCandidate(ctx, &c); err != nil {
		return err
	}
	if c.State == store.Spare && (!saga.Duplicate(winner.State, r.expired) || mutant.On(mutant.DuplicateAtOnce)) && !mutant.On(mutant.DuplicateLeaked) {
		if err := release(ctx, tx, c.TokenID, c.Serial, c.LeaseID, now); err != nil {
			return err
		}
	}
	tx.Announce(winner) // again: the duplicate's node has not heard of this purchase
	return nil
}

// admitFirst makes the purchase. late: its lease is being closed, so the viewer is made good at once.
func (s *Service) admitFirst(ctx context.Context, tx *store.Tx, p *store.Purchase, c *store.Candidate, expired, late bool, now int64) error {
	first, commands := saga.New()
	p.Arrival, p.State, p.StateTime = c.Arrival, first.State, now
	if err := tx.InsertPurchase(ctx, p); err != nil {
		return err
	}
	if err := tx.InsertCandidate(ctx, c); err != nil {
		return err
	}
	switch {
	case expired:
		return s.apply(ctx, tx, p, saga.Expired)
	case late:
		return s.apply(ctx, tx, p, saga.Denied)
	}
	for _, command := range commands {
		if err := s.obey(ctx, tx, p, command, nil, store.DropTerms{}, s.deps.Now()); err != nil {
			return err
		}
	}
	tx.Announce(p)
	return nil
}

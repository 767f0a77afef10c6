package verifier

import (
	"context"
	"errors"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// CancelRedemption implements VerifierService.
func (v *verifierServer) CancelRedemption(ctx context.Context, r *verifierv1.CancelRedemptionRequest) (*verifierv1.CancelRedemptionResponse, error) {
	p, receipt, err := v.s.cancel(ctx, r)
	var m *offerv1.Purchase
	if err == nil {
		m, err = v.s.forBuyer(&p)
	}
	if err != nil {
		return nil, v.s.toStatus(ctx, "CancelRedemption", err)
	}
	return &verifierv1.CancelRedemptionResponse{Purchase: m, Receipt: receipt}, nil
}

// cancel is CANCEL(K) of docs/settlement.md 3.2: a purchase that is refused before it was made, under the primary key of
// redemptions. Where a redemption came first, its receipt is the answer; whatever comes later is a duplicate of the
// refused purchase, and its unit is released.
func (s *Service) cancel(ctx context.Context, r *verifierv1.CancelRedemptionRequest) (p store.Purchase, receipt string, err error) {
	if s.recovering.Load() { // a redemption that is not here may have been, and be delivered
		return p, "", errRecovering
	}
	dropID, err := store.ParseUUID(r.GetDropId())
	if err != nil {
		return p, "", errDropID
	}
	if len(r.GetTokenId()) != len(store.ID{}) || len(r.GetViewerSessionId()) != len(store.ID{}) {
		return p, "", token.ErrMalformed
	}
	k := store.ID(r.GetTokenId())
	purchaseID, err := store.ParseHex(token.PurchaseID(k[:]))
	if err != nil {
		return p, "", err
	}
	if err := s.unpaidBefore(ctx, k, purchaseID); err != nil {
		return p, "", err
	}
	err = s.store.WriteShared(ctx, func(tx *store.Tx) error {
		var err error
		receipt = ""
		if p, err = tx.Purchase(ctx, k); err == nil {
			receipt, err = winningReceipt(ctx, tx, &p)
			return err
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		arrival, err := tx.TakeArrivals(ctx, 1)
		if err != nil {
			return err
		}
		now := s.deps.Now()
		first, commands := saga.NewCancelled()
		p = store.Purchase{
			TokenID: k, PurchaseID: purchaseID, Arrival: arrival, DropID: dropID, ViewerSessionID: store.ID(r.GetViewerSessionId()),
			State: first.State, Reason: first.Reason, StateTime: now.UnixMicro(), AcceptTime: now.UnixMicro(),
			CurrencyCode: r.GetPrice().GetCurrencyCode(), MinorUnits: r.GetPrice().GetMinorUnits(),
		}
		for _, command := range commands {
			if err := s.obey(ctx, tx, &p, command, nil, store.DropTerms{}, now); err != nil {
				return err
			}
		}
		if mutant.On(mutant.CancelForgotten) {
			return nil
		}
		if err := tx.InsertPurchase(ctx, &p); err != nil {
			return err
		}
		tx.Announce(&p)
		return nil
	})
	if err == nil && (p.DropID != dropID || p.ViewerSessionID != store.ID(r.GetViewerSessionId())) {
		return store.Purchase{}, "", errMismatch
	}
	if err == nil && receipt == "" {
		s.metrics.entries.WithLabelValues("cancelled").Inc()
	}
	return p, receipt, err
}

// winningReceipt is the receipt whose unit the purchase is, or was, about; empty for a cancelled one.
func winningReceipt(ctx context.Context, tx *store.Tx, p *store.Purchase) (string, error) {
	candidates, err := tx.Candidates(ctx, p.TokenID)
	if err != nil {
		return "", err
	}
	for _, c := range candidates {
		if sameRedemption(&c, p) {
			return c.Receipt, nil
		}
	}
	return "", nil
}

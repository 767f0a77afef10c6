package verifier

import (
	"context"
	"errors"
	"fmt"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// verdict is what becomes of a purchase that was only received.
type verdict struct {
	event saga.Event
	// serial and leaseID are the winner's unit, which the event is about.
	serial  uint32
	leaseID store.ID
	// before is the payment of saga.DeniedPaid; moneyBack tells that it went back, too.
	before    payment.Intent
	moneyBack bool
}

// verdicts of many purchases. Whoever has none is looked at later.
type verdicts map[store.ID]*verdict

// settle decides what becomes of purchases that were received, and asks fulfillment for the units of those whose viewers
// are within their limit. Purchases that wait for the provider's word hold up nobody else.
func (s *Service) settle(ctx context.Context, jobs []store.Job) error {
	purchases, err := s.store.Read().Purchases(ctx, tokenIDs(jobs))
	if err != nil {
		return err
	}
	decided, err := s.judge(ctx, jobs, purchases)
	if err != nil {
		return err
	}
	if err := s.askForUnits(ctx, jobs, purchases, decided); err != nil {
		return err
	}
	s.askAfterDenials(ctx, jobs, purchases, decided)
	var done, undecided []store.Job
	for _, j := range jobs {
		if decided[j.TokenID] != nil || purchases[j.TokenID].State != saga.Received {
			done = append(done, j)
		} else {
			undecided = append(undecided, j)
		}
	}
	if len(undecided) > 0 {
		s.deps.Log.Warn("purchases of before a restore wait for the payment provider", "jobs", len(undecided))
		s.giveBack(ctx, undecided, func(j store.Job) int64 { return s.after(s.backoff(j.Attempts - 1)) })
	}
	return s.store.Write(ctx, func(tx *store.Tx) error {
		purchases, err := tx.Purchases(ctx, tokenIDs(done))
		if err != nil {
			return err
		}
		candidates, err := tx.CandidatesOf(ctx, tokenIDs(done))
		if err != nil {
			return err
		}
		for _, j := range done {
			p, v := purchases[j.TokenID], decided[j.TokenID]
			if p == nil {
				return store.ErrNotFound
			}
			if p.State == saga.Received && (v.serial != p.Serial || v.leaseID != p.LeaseID) {
				continue // another holder of this job was faster: it is about the duplicate now that took the winner's place
			}
			if err := tx.Finish(ctx, j); err != nil { // first: a promotion adds the same job again
				return err
			}
			if p.State != saga.Received {
				continue
			}
			if err := s.applyVerdict(ctx, tx, p, candidates[j.TokenID], v); err != nil && !errors.Is(err, saga.ErrIllegal) {
				return err
			}
		}
		return nil
	})
}

// judge holds purchases against the share of their sessions. Those within it have a verdict without an event.
func (s *Service) judge(ctx context.Context, jobs []store.Job, purchases map[store.ID]*store.Purchase) (verdicts, error) {
	sessions, err := s.store.Read().OfViewers(ctx, tokenIDs(jobs))
	if err != nil {
		return nil, err
	}
	decided := verdicts{}
	for _, j := range jobs {
		p := purchases[j.TokenID]
		if p == nil {
			return nil, fmt.Errorf("settling units: %w", store.ErrNotFound)
		}
		if p.State != saga.Received {
			continue // done before
		}
		terms, err := s.dropTerms(ctx, p.DropID)
		if err != nil {
			return nil, err
		}
		v := &verdict{serial: p.Serial, leaseID: p.LeaseID}
		if limit := terms.MaxPerViewer; limit > 0 && len(sessions[j.TokenID]) > limit && !mutant.On(mutant.CapIgnored) {
			over, err := s.overLimit(ctx, p, sessions[j.TokenID], limit)
			if err != nil {
				s.deps.Log.Warn("a limit is not decided before the provider answers", "error", err)
				continue
			}
			if over {
				v.event = saga.OverLimit
			}
		}
		if v.event == 0 && s.ofBefore(p) {
			over, err := s.closedBefore(ctx, p)
			if err != nil {
				s.deps.Log.Warn("a unit of a closed lease is not asked for before the provider answers", "error", err)
				continue
			}
			if over {
				v.event = saga.Denied
			}
		}
		decided[j.TokenID] = v
	}
	return decided, nil
}

// askForUnits lets fulfillment decide where nothing is decided yet.
func (s *Service) askForUnits(ctx context.Context, jobs []store.Job, purchases map[store.ID]*store.Purchase, decided verdicts) error {
	var claims []*fulfillmentv1.UnitClaim
	var claimed []*verdict
	for _, j := range jobs {
		if v := decided[j.TokenID]; v != nil && v.event == 0 {
			claims = append(claims, unitClaim(purchases[j.TokenID], v.serial, v.leaseID))
			claimed = append(claimed, v)
		}
	}
	if len(claims) == 0 {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	response, err := s.deps.Stock.SettleUnits(callCtx, &fulfillmentv1.SettleUnitsRequest{Claims: claims})
	if err != nil {
		return fmt.Errorf("settling units: %w", err)
	}
	results := response.GetResults()
	if len(results) != len(claims) {
		return fmt.Errorf("settling units: %d answers for %d claims", len(results), len(claims))
	}
	for i, v := range claimed {
		v.event = saga.Denied
		if results[i].GetSettled() {
			v.event = saga.Settled
		}
	}
	return nil
}

// askAfterDenials asks the provider about purchases of before a restore that have no unit: their units may have been given
// up after they were paid. Where it does not answer, the verdict is withdrawn.
func (s *Service) askAfterDenials(ctx context.Context, jobs []store.Job, purchases map[store.ID]*store.Purchase, decided verdicts) {
	for _, j := range jobs {
		p, v := purchases[j.TokenID], decided[j.TokenID]
		if v == nil || v.event != saga.Denied || !s.ofBefore(p) {
			continue
		}
		if err := s.paidForNothing(ctx, p, v); err != nil {
			s.deps.Log.Warn("what a denied unit's purchase paid is not known before the provider answers", "error", err)
			delete(decided, j.TokenID)
		}
	}
}

func (s *Service) applyVerdict(ctx context.Context, tx *store.Tx, p *store.Purchase, candidates []store.Candidate, v *verdict) error {
	if v.event == saga.DeniedPaid && !hasSpare(candidates) {
		p.IntentID, p.Fee, p.Charged = v.before.ID, v.before.Fee, v.before.MinorUnits
	}
	if v.event == saga.Denied || v.event == saga.DeniedPaid {
		if err := s.giveUnitBack(ctx, tx, p.TokenID, v); err != nil {
			return err
		}
	}
	if err := s.applyTo(ctx, tx, p, candidates, v.event); err != nil {
		return err
	}
	return s.chooseAgain(ctx, tx, p, v.moneyBack)
}

// giveUnitBack lets fulfillment free a unit that it denied, if it is still leased: a verifier that was restored may hear of a
// token's redemptions in another order than before, and a token that has one unit gets no other. Any other unit stays as it is.
func (s *Service) giveUnitBack(ctx context.Context, tx *store.Tx, token store.ID, v *verdict) error {
	if mutant.On(mutant.DeniedUnitKept) {
		return nil
	}
	return tx.AddJob(ctx, store.Job{Kind: store.ReleaseJob, TokenID: token, Serial: v.serial, LeaseID: v.leaseID}, s.deps.Now().UnixMicro())
}

func hasSpare(candidates []store.Candidate) bool {
	for _, c := range candidates {
		if c.State == store.Spare {
			return true
		}
	}
	return false
}

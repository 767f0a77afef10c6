package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// batchSize is what the calls to fulfillment take at most.
const batchSize = 100

// runBatches claims jobs of a kind and works on them together until ctx ends. Work that fails is given back. After a
// failure the loop pauses, longer each time: while fulfillment is away it is asked rarely. Each job comes back at a
// jittered time of its own, so the others soon pass without one that spoils their batch.
func (s *Service) runBatches(ctx context.Context, kind store.Kind, work func(context.Context, []store.Job) error) {
	for failures := 0; ctx.Err() == nil; {
		jobs, next, err := s.claim(ctx, kind, batchSize)
		if err == nil && len(jobs) == 0 {
			sleep(ctx, next, s.hub.jobs[kind])
			continue
		}
		if err == nil {
			within, end := s.jobSpans(ctx, kind, jobs)
			err = work(within, jobs)
			end(err)
		}
		s.metrics.countJobs(kind, len(jobs), err)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return // what was claimed is due again at the next start
		}
		s.deps.Log.Warn("jobs failed", "kind", string(kind), "jobs", len(jobs), "error", err)
		if errors.Is(err, token.ErrUnknownKey) { // another replica has read a receipt of a new node
			if err := s.refreshKeys(ctx); err != nil {
				s.deps.Log.Warn("fetching keys failed", "error", err)
			}
		}
		s.giveBack(ctx, jobs, func(j store.Job) int64 { return s.after(s.backoff(j.Attempts - 1)) })
		failures++
		sleep(ctx, s.backoff(failures-1), nil)
	}
}

// giveBack lets claimed jobs be claimed again, each from its time on. A store that is away is tried until it is back or the claims
// have ended by themselves: viewers would wait for that.
func (s *Service) giveBack(ctx context.Context, jobs []store.Job, runAt func(store.Job) int64) {
	for failures := 0; len(jobs) > 0; failures++ {
		err := s.store.WriteShared(ctx, func(tx *store.Tx) error {
			for _, j := range jobs {
				if err := tx.Postpone(ctx, j, runAt(j)); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil || ctx.Err() != nil { // what was claimed is due again at the next start
			return
		}
		if errors.Is(err, sqldb.ErrBroken) || !s.deps.Now().Before(time.UnixMicro(jobs[0].Until)) {
			s.deps.Log.Error("giving jobs back failed", "kind", string(jobs[0].Kind), "jobs", len(jobs), "error", err)
			return
		}
		sleep(ctx, s.backoff(failures), nil)
	}
}

// claim takes due jobs; when there are none, next is when to look again, unless the hub says something sooner. Looking
// first spares an idle verifier a transaction per look.
func (s *Service) claim(ctx context.Context, kind store.Kind, n int) (jobs []store.Job, next time.Duration, err error) {
	due, some, err := s.store.Read().NextDue(ctx, kind)
	if err != nil || !some {
		return nil, s.lookAgain, err
	}
	if wait := time.UnixMicro(due).Sub(s.deps.Now()); wait > 0 {
		return nil, min(wait, s.lookAgain), nil
	}
	err = s.store.Write(ctx, func(tx *store.Tx) (err error) {
		jobs, err = tx.Claim(ctx, kind, s.deps.Now().UnixMicro(), s.after(s.cfg.JobLease), n)
		return err
	})
	return jobs, 0, err
}

// after is a stamp in the future, in microseconds.
func (s *Service) after(d time.Duration) int64 { return s.deps.Now().Add(d).UnixMicro() }

// tokenIDs lists the purchases of jobs.
func tokenIDs(jobs []store.Job) []store.ID {
	list := make([]store.ID, len(jobs))
	for i, j := range jobs {
		list[i] = j.TokenID
	}
	return list
}

// placeOrders hands paid purchases over. The jobs are the outbox: they were added with the ledger's postings.
func (s *Service) placeOrders(ctx context.Context, jobs []store.Job) error {
	request := &fulfillmentv1.PlaceOrdersRequest{}
	purchases, err := s.store.Read().Purchases(ctx, tokenIDs(jobs))
	if err != nil {
		return err
	}
	for _, j := range jobs {
		p := purchases[j.TokenID]
		if p == nil {
			return fmt.Errorf("placing orders: %w", store.ErrNotFound)
		}
		if p.State != saga.Captured {
			continue // fulfillment has the order, and told what became of it before it answered
		}
		request.Orders = append(request.Orders, &fulfillmentv1.Order{
			OrderId: store.OrderID(p.PurchaseID).UUID(), PurchaseId: p.PurchaseID.Hex(), DropId: p.DropID.UUID(), Serial: p.Serial,
			TraceContext: s.traceOf(ctx, s.store.Read(), j.TokenID),
		})
		terms, err := s.dropTerms(ctx, p.DropID)
		if err != nil {
			return err
		}
		if !terms.Physical {
			continue
		}
		delivery, err := s.delivery(ctx, p)
		if err != nil {
			return err
		}
		request.Deliveries = append(request.Deliveries, delivery)
	}
	if mutant.On(mutant.JobDoneEarly) {
		if err := s.store.Write(ctx, func(tx *store.Tx) error { return tx.Finish(ctx, jobs[0]) }); err != nil {
			return err
		}
	}
	if len(request.GetOrders()) > 0 {
		callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
		defer cancel()
		if _, err := s.deps.Orders.PlaceOrders(callCtx, request); err != nil {
			return fmt.Errorf("placing orders: %w", err)
		}
	}
	ended, err := s.endedBefore(ctx, jobs, purchases)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx *store.Tx) error {
		purchases, err := tx.Purchases(ctx, tokenIDs(jobs))
		if err != nil {
			return err
		}
		for _, j := range jobs {
			p := purchases[j.TokenID]
			if p == nil {
				return store.ErrNotFound
			}
			// Illegal when the news of the delivery was faster than this answer.
			if err := s.apply(ctx, tx, p, saga.OrderPlaced); err != nil && !errors.Is(err, saga.ErrIllegal) {
				return err
			}
			if o, known := ended[j.TokenID]; known {
				if err := s.deliverOne(ctx, tx, p, o.Order, orderEvents[o.GetState()]); err != nil && !errors.Is(err, saga.ErrIllegal) {
					return err
				}
				if err := s.chooseAgain(ctx, tx, p, o.moneyBack); err != nil {
					return err
				}
			}
			if err := tx.Finish(ctx, j); err != nil {
				return err
			}
		}
		return nil
	})
}

// delivery is where a physical order goes. The receipt of the winning redemption is the only place that says it.
func (s *Service) delivery(ctx context.Context, p *store.Purchase) (*fulfillmentv1.Delivery, error) {
	candidates, err := s.store.Read().Candidates(ctx, p.TokenID)
	if err != nil {
		return nil, err
	}
	for _, c := range candidates {
		if c.State != store.Winner {
			continue
		}
		receipt, _, err := s.keys.OpenReceipt(c.Receipt)
		if err != nil {
			return nil, fmt.Errorf("opening the receipt of a purchase: %w", err)
		}
		return &fulfillmentv1.Delivery{OrderId: store.OrderID(p.PurchaseID).UUID(), Region: receipt.GetRegion(), Details: receipt.GetDeliveryDetails()}, nil
	}
	return nil, fmt.Errorf("purchase %s has no winning redemption", p.PurchaseID.Hex())
}

// releaseUnits frees units that no path can settle any more.
func (s *Service) releaseUnits(ctx context.Context, jobs []store.Job) error {
	request := &fulfillmentv1.ReleaseUnitsRequest{}
	purchases, err := s.store.Read().Purchases(ctx, tokenIDs(jobs))
	if err != nil {
		return err
	}
	for _, j := range jobs {
		p := purchases[j.TokenID]
		if p == nil {
			return fmt.Errorf("releasing units: %w", store.ErrNotFound)
		}
		request.Claims = append(request.Claims, unitClaim(p, j.Serial, j.LeaseID))
	}
	callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	if _, err := s.deps.Stock.ReleaseUnits(callCtx, request); err != nil {
		return fmt.Errorf("releasing units: %w", err)
	}
	return s.store.Write(ctx, func(tx *store.Tx) error {
		for _, j := range jobs {
			if err := errors.Join(tx.SetCandidate(ctx, j.TokenID, j.Serial, j.LeaseID, store.Released), tx.Finish(ctx, j)); err != nil {
				return err
			}
		}
		return nil
	})
}

func unitClaim(p *store.Purchase, serial uint32, leaseID store.ID) *fulfillmentv1.UnitClaim {
	return &fulfillmentv1.UnitClaim{TokenId: p.TokenID[:], DropId: p.DropID.UUID(), Serial: serial, LeaseId: leaseID.UUID()}
}

// dropTerms is what the catalogue says of a drop; terms are frozen before the first sale, so what was read once stays
// true, and is kept for the audit and for vouchers. Zero: the catalogue does not know the drop, and fulfillment will deny
// the unit.
func (s *Service) dropTerms(ctx context.Context, dropID store.ID) (store.DropTerms, error) {
	s.termsMu.Lock()
	terms, known := s.terms[dropID]
	s.termsMu.Unlock()
	if known {
		return terms, nil
	}
	terms, err := s.store.Read().DropTerms(ctx, dropID)
	if errors.Is(err, store.ErrNotFound) {
		terms, err = s.fetchTerms(ctx, dropID)
	}
	if err != nil || terms.MaxPerViewer == 0 {
		return terms, err
	}
	s.termsMu.Lock()
	defer s.termsMu.Unlock()
	if len(s.terms) >= maxCachedTerms {
		clear(s.terms)
	}
	s.terms[dropID] = terms
	return terms, nil
}

func (s *Service) fetchTerms(ctx context.Context, dropID store.ID) (store.DropTerms, error) {
	callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	response, err := s.deps.Catalog.GetDrop(callCtx, &fulfillmentv1.GetDropRequest{DropId: dropID.UUID()})
	if hasReason(err, errorsv1.Reason_REASON_DROP_NOT_FOUND) {
		return store.DropTerms{}, nil
	}
	if err != nil {
		return store.DropTerms{}, fmt.Errorf("reading a drop's terms: %w", err)
	}
	drop := response.GetDrop().GetDrop()
	terms := store.DropTerms{
		DropID: dropID, ChannelID: drop.GetDrop().GetChannelId(), Title: drop.GetDrop().GetTitle(),
		MaxPerViewer: max(1, int(drop.GetMaxPerViewer())), PerInstrument: int(drop.GetPerInstrumentCap()),
		Physical: drop.GetGoodsKind() == fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL,
	}
	return terms, s.store.Write(ctx, func(tx *store.Tx) error { return tx.AddDropTerms(ctx, terms) })
}

package verifier

import (
	"context"
	"fmt"
	"slices"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// tellPage is how many purchases are read at a time, and tellFacts what RestoreUnits takes.
const tellPage, tellFacts = 250, 500

// tellFulfillment tells a fulfillment that was restored from a backup what became of every unit that is known here, from where
// it has been told (docs/decisions/0018). A redemption that arrives meanwhile, and is passed over, is in its node's journal.
func (s *Service) tellFulfillment(ctx context.Context) error {
	at, err := s.tell(ctx, &fulfillmentv1.RestoreUnitsRequest{})
	if err != nil {
		return err
	}
	for restore := at.GetRestoreId(); restore != 0 && at.GetRestoreId() == restore && !at.GetComplete(); {
		var after store.ID
		copy(after[:], at.GetAfterTokenId())
		tokens, err := s.store.Read().TokensAfter(ctx, after, tellPage)
		if err != nil {
			return err
		}
		facts, err := s.factsOf(ctx, tokens)
		if err != nil {
			return err
		}
		request := &fulfillmentv1.RestoreUnitsRequest{RestoreId: restore, AfterTokenId: at.GetAfterTokenId()}
		for len(facts) > tellFacts {
			request.Facts, facts = facts[:tellFacts], facts[tellFacts:]
			if _, err := s.tell(ctx, request); err != nil {
				return err
			}
		}
		request.Facts = facts
		if len(tokens) > 0 {
			last := tokens[len(tokens)-1]
			request.AfterTokenId = last[:]
		} else if err := s.tellLast(ctx, request); err != nil {
			return err
		}
		if at, err = s.tell(ctx, request); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) tell(ctx context.Context, request *fulfillmentv1.RestoreUnitsRequest) (*fulfillmentv1.RestoreUnitsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	response, err := s.deps.Stock.RestoreUnits(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("telling fulfillment what was sold: %w", err)
	}
	return response, nil
}

// tellLast adds what is known of nodes.
func (s *Service) tellLast(ctx context.Context, request *fulfillmentv1.RestoreUnitsRequest) error {
	request.Complete = true
	for _, k := range s.keys.All() {
		if k.GetOwner() == offerv1.KeyOwner_KEY_OWNER_NODE {
			request.Keys = append(request.Keys, k)
		}
	}
	nodes, err := s.store.Read().Forwarders(ctx)
	if err != nil {
		return err
	}
	for _, id := range nodes {
		request.NodeIds = append(request.NodeIds, id.UUID())
	}
	seals, err := s.store.Read().Seals(ctx)
	for _, seal := range seals {
		request.Seals = append(request.Seals, &fulfillmentv1.SealedEpoch{NodeId: seal.NodeID.UUID(), Epoch: seal.Epoch})
	}
	return err
}

func (s *Service) factsOf(ctx context.Context, tokens []store.ID) ([]*fulfillmentv1.UnitFact, error) {
	purchases, err := s.store.Read().Purchases(ctx, tokens)
	if err != nil {
		return nil, err
	}
	candidates, err := s.store.Read().CandidatesOf(ctx, tokens)
	if err != nil {
		return nil, err
	}
	var facts []*fulfillmentv1.UnitFact
	for _, t := range tokens {
		p := purchases[t]
		for _, c := range candidates[t] {
			standing := standingOf(c)
			if p == nil || standing == fulfillmentv1.UnitStanding_UNIT_STANDING_UNSPECIFIED {
				continue
			}
			f := &fulfillmentv1.UnitFact{
				TokenId: slices.Clone(t[:]), DropId: p.DropID.UUID(), Serial: c.Serial, LeaseId: c.LeaseID.UUID(), Standing: standing, WasSold: c.Settled,
			}
			if c.Serial == p.Serial && c.LeaseID == p.LeaseID {
				f.Order = orderOf(p)
			}
			facts = append(facts, f)
		}
	}
	return facts, nil
}

// standingOf is what a redemption says of its unit; unspecified: nothing that another one does not.
func standingOf(c store.Candidate) fulfillmentv1.UnitStanding {
	switch c.State {
	case store.Winner:
		if c.Settled {
			return fulfillmentv1.UnitStanding_UNIT_STANDING_SOLD
		}
		return fulfillmentv1.UnitStanding_UNIT_STANDING_OPEN
	case store.Spare:
		return fulfillmentv1.UnitStanding_UNIT_STANDING_OPEN
	case store.Denied:
		return fulfillmentv1.UnitStanding_UNIT_STANDING_DENIED
	case store.ToRelease, store.Released:
		return fulfillmentv1.UnitStanding_UNIT_STANDING_RELEASED
	}
	return fulfillmentv1.UnitStanding_UNIT_STANDING_UNSPECIFIED
}

// orderOf is the order of a purchase as far as its end goes; nil: it has none yet.
func orderOf(p *store.Purchase) *fulfillmentv1.Order {
	o := &fulfillmentv1.Order{
		OrderId: store.OrderID(p.PurchaseID).UUID(), PurchaseId: p.PurchaseID.Hex(), DropId: p.DropID.UUID(), Serial: p.Serial,
	}
	switch {
	case p.State == saga.Delivered:
		o.State, o.LicenceKey = fulfillmentv1.OrderState_ORDER_STATE_DELIVERED, p.LicenceKey
	case p.State == saga.Shipped:
		o.State = fulfillmentv1.OrderState_ORDER_STATE_SHIPPED
	case p.State.Paid():
		o.State = fulfillmentv1.OrderState_ORDER_STATE_READY
	case p.Reason == saga.OrderFailed:
		o.State = fulfillmentv1.OrderState_ORDER_STATE_DEAD
	default:
		return nil
	}
	return o
}

package verifier

import (
	"context"
	"fmt"
	"maps"
	"slices"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/store"
)

// audit sums the books. The sums are read one after the other: while purchases are in progress the provider may be
// ahead of the ledger by what is being captured. A drop id narrows the drops; books have no drops.
func (s *Service) audit(ctx context.Context, dropID string) (*verifierv1.GetAuditResponse, error) {
	if dropID != "" {
		if _, err := store.ParseUUID(dropID); err != nil {
			return nil, fmt.Errorf("%w: %w", errDropID, err)
		}
	}
	q := s.store.Read()
	response := &verifierv1.GetAuditResponse{}
	drops, err := q.SumDrops(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range drops {
		if dropID != "" && d.DropID.UUID() != dropID {
			continue
		}
		response.Drops = append(response.Drops, &verifierv1.DropPurchases{
			DropId: d.DropID.UUID(), Received: d.Received, Open: d.Received - d.Delivered - d.Vouchers - d.Refused,
			Delivered: d.Delivered, Vouchers: d.Vouchers, Refused: d.Refused, UnitsHeld: d.UnitsHeld,
			CapturedMinorUnits: d.CapturedMinorUnits, Duplicates: d.Duplicates,
		})
	}
	balances, err := q.Balances(ctx)
	if err != nil {
		return nil, err
	}
	captured := map[string]int64{}
	for _, b := range balances {
		response.Accounts = append(response.Accounts, &verifierv1.AccountBalance{
			Account: b.Account, CurrencyCode: b.CurrencyCode, BalanceMinorUnits: b.MinorUnits,
		})
		if b.Account == ledger.ProviderReceivable {
			captured[b.CurrencyCode] += b.MinorUnits
		}
	}
	if keeper, ok := s.deps.Payment.(payment.Bookkeeper); ok {
		books, err := keeper.Books(ctx)
		if err != nil {
			return nil, err
		}
		response.DoubleCaptures = uint32(books.DoubleCaptures)
		currencies := maps.Clone(captured)
		maps.Copy(currencies, books.CapturedMinorUnits)
		for _, currency := range slices.Sorted(maps.Keys(currencies)) {
			response.Provider = append(response.Provider, &verifierv1.ProviderBalance{
				CurrencyCode: currency, LedgerMinorUnits: captured[currency], ProviderMinorUnits: books.CapturedMinorUnits[currency],
			})
		}
	}
	unbalanced, err := q.Unbalanced(ctx)
	if err != nil {
		return nil, err
	}
	jobs, err := q.OpenJobs(ctx)
	response.UnbalancedTransactions, response.JobsOpen = uint32(unbalanced), uint32(jobs)
	return response, err
}

package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/store"
)

// auditPage is how many drops and nodes a page has when nobody says.
const auditPage = 500

// audit sums the books. The sums are read one after the other: while purchases are in progress the provider may be
// ahead of the ledger by what is being captured. A drop id narrows the drops; books have no drops. Drops and nodes are
// two lists under one page token, each going on after its last id.
func (s *Service) audit(ctx context.Context, dropID string, size int, pageToken string) (*verifierv1.GetAuditResponse, error) {
	var only *store.ID
	if dropID != "" {
		id, err := store.ParseUUID(dropID)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errDropID, err)
		}
		only = &id
	}
	var afterDrop, afterNode store.ID
	if pageToken != "" {
		raw, err := hex.DecodeString(pageToken)
		if err != nil || len(raw) != len(afterDrop)+len(afterNode) {
			return nil, errPageToken
		}
		copy(afterDrop[:], raw)
		copy(afterNode[:], raw[len(afterDrop):])
	}
	if size <= 0 {
		size = auditPage
	}
	response := &verifierv1.GetAuditResponse{}
	more, err := s.auditLists(ctx, response, &afterDrop, &afterNode, only, size)
	if err != nil {
		return nil, err
	}
	if more {
		response.NextPageToken = hex.EncodeToString(slices.Concat(afterDrop[:], afterNode[:]))
	}
	if pageToken != "" {
		return response, nil
	}
	return response, s.auditBooks(ctx, response)
}

// auditLists adds a page of drops and one of nodes, and moves their cursors on.
func (s *Service) auditLists(ctx context.Context, response *verifierv1.GetAuditResponse, afterDrop, afterNode, only *store.ID, size int) (more bool, err error) {
	q := s.store.Read()
	drops, err := q.SumDrops(ctx, *afterDrop, only, size)
	if err != nil {
		return false, err
	}
	for _, d := range drops {
		*afterDrop = d.DropID
		response.Drops = append(response.Drops, &verifierv1.DropPurchases{
			DropId: d.DropID.UUID(), ChannelId: d.ChannelID, Received: d.Received,
			Open:      d.Received - d.Delivered - d.Vouchers - d.Refused - d.Refunded,
			Delivered: d.Delivered, Vouchers: d.Vouchers, Refused: d.Refused, Refunded: d.Refunded, UnitsHeld: d.UnitsHeld,
			CapturedMinorUnits: d.CapturedMinorUnits, ChargedMinorUnits: d.ChargedMinorUnits, RefundedMinorUnits: d.RefundedMinorUnits,
			Duplicates: d.Duplicates, PostedFeesMinorUnits: d.PostedFeesMinorUnits, FeesMinorUnits: d.FeesMinorUnits,
		})
	}
	if only != nil {
		return false, nil
	}
	nodes, err := q.SumNodes(ctx, *afterNode, size)
	if err != nil {
		return false, err
	}
	for _, n := range nodes {
		*afterNode = n.NodeID
		response.Nodes = append(response.Nodes, &verifierv1.NodeRedemptions{
			NodeId: n.NodeID.UUID(), Received: n.Received, Holding: n.Holding, Open: n.Open, Denied: n.Denied,
			Released: n.Released, Redundant: n.Redundant,
		})
	}
	return len(drops) == size || len(nodes) == size, nil
}

// auditBooks adds everything that is summed over all drops.
func (s *Service) auditBooks(ctx context.Context, response *verifierv1.GetAuditResponse) error {
	q := s.store.Read()
	balances, err := q.Balances(ctx)
	if err != nil {
		return err
	}
	captured, liability, fees := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, b := range balances {
		response.Accounts = append(response.Accounts, &verifierv1.AccountBalance{
			Account: b.Account, CurrencyCode: b.CurrencyCode, BalanceMinorUnits: b.MinorUnits,
		})
		switch b.Account {
		case ledger.ProviderReceivable:
			captured[b.CurrencyCode] += b.MinorUnits
		case ledger.ProviderFees:
			fees[b.CurrencyCode] -= b.MinorUnits
		case ledger.VoucherLiability:
			liability[b.CurrencyCode] -= b.MinorUnits
		}
	}
	open, err := q.OpenStoredValue(ctx)
	if err != nil {
		return err
	}
	for _, currency := range union(open, liability) {
		response.Vouchers = append(response.Vouchers, &verifierv1.VoucherBalance{
			CurrencyCode: currency, OpenMinorUnits: open[currency], LiabilityMinorUnits: liability[currency],
		})
	}
	channels, err := q.SumChannels(ctx)
	if err != nil {
		return err
	}
	for _, c := range channels {
		response.Channels = append(response.Channels, &verifierv1.ChannelBalance{
			ChannelId: c.ChannelID, CurrencyCode: c.CurrencyCode, CapturedMinorUnits: c.Captured, RefundedMinorUnits: c.Refunded,
			VoucherIssuedMinorUnits: c.VoucherIssued, VoucherSpentMinorUnits: c.VoucherUsed, RevenueMinorUnits: c.Revenue,
		})
	}
	if keeper, ok := s.deps.Payment.(payment.Bookkeeper); ok {
		books, err := keeper.Books(ctx)
		if err != nil {
			return err
		}
		response.DoubleCaptures = uint32(books.DoubleCaptures)
		for _, currency := range union(captured, books.CapturedMinorUnits) {
			response.Provider = append(response.Provider, &verifierv1.ProviderBalance{
				CurrencyCode: currency, LedgerMinorUnits: captured[currency], ProviderMinorUnits: books.CapturedMinorUnits[currency],
				LedgerFeesMinorUnits: fees[currency], ProviderFeesMinorUnits: books.FeesMinorUnits[currency],
			})
		}
	}
	unbalanced, err := q.Unbalanced(ctx)
	if err != nil {
		return err
	}
	jobs, err := q.OpenJobs(ctx)
	response.UnbalancedTransactions, response.JobsOpen = uint32(unbalanced), uint32(jobs)
	return err
}

// union lists the keys of both, sorted.
func union(a, b map[string]int64) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

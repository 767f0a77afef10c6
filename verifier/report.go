package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// GetDropReport implements SupportService.
func (v *supportServer) GetDropReport(ctx context.Context, r *verifierv1.GetDropReportRequest) (*verifierv1.GetDropReportResponse, error) {
	response, err := v.s.dropReport(ctx, r.GetDropId())
	return response, v.s.toStatus(ctx, "GetDropReport", err)
}

// dropReport asks fulfillment first: a drop that it calls SETTLED then has nothing open here either.
func (s *Service) dropReport(ctx context.Context, dropID string) (*verifierv1.GetDropReportResponse, error) {
	id, err := store.ParseUUID(dropID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDropID, err)
	}
	callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	known, err := s.deps.Catalog.GetDrop(callCtx, &fulfillmentv1.GetDropRequest{DropId: dropID})
	if hasReason(err, errorsv1.Reason_REASON_DROP_NOT_FOUND) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUpstream, err)
	}
	sums, err := s.store.Read().DropReport(ctx, id)
	if err != nil {
		return nil, err
	}
	drop, stock := known.GetDrop().GetDrop().GetDrop(), known.GetDrop().GetStock()
	response := &verifierv1.GetDropReportResponse{
		DropId: dropID, ChannelId: drop.GetChannelId(), Title: drop.GetTitle(), Final: drop.GetState() == offerv1.DropState_DROP_STATE_SETTLED,
		Units: stock.GetUnits(), Unsold: stock.GetUnits() - stock.GetSold(), Offered: stock.GetOffers(),
		Redeemed: sums.Redeemed, Settled: sums.Settled, Vouchers: sums.Vouchers, Refused: sums.Refused, Refunded: sums.Refunded,
		Open:     sums.Redeemed - sums.Settled - sums.Vouchers - sums.Refused - sums.Refunded,
		Declined: sums.Declined, PriceLocks: sums.PriceLocks, CurrencyCode: sums.CurrencyCode,
		Ledger: dropMoney(&sums.Ledger), Purchases: dropMoney(&sums.Purchases), Agrees: sums.Ledger == sums.Purchases,
	}
	if drop.GetPlannedCloseTime() != nil {
		response.TimeBack = durationpb.New(drop.GetCloseTime().AsTime().Sub(drop.GetPlannedCloseTime().AsTime()))
	}
	return response, nil
}

func dropMoney(m *store.Money) *verifierv1.DropMoney {
	return &verifierv1.DropMoney{
		CapturedMinorUnits: m.Captured, RefundedMinorUnits: m.Refunded, VoucherIssuedMinorUnits: m.VoucherIssued,
		VoucherSpentMinorUnits: m.VoucherSpent, NetMinorUnits: m.Net,
		FeesMinorUnits: m.Fees, NetAfterFeesMinorUnits: m.Net - m.Fees,
	}
}

// FindPurchases implements SupportService. The page token is the last purchase's arrival.
func (v *supportServer) FindPurchases(ctx context.Context, r *verifierv1.FindPurchasesRequest) (*verifierv1.FindPurchasesResponse, error) {
	response, err := v.findPurchases(ctx, r)
	return response, v.s.toStatus(ctx, "FindPurchases", err)
}

func (v *supportServer) findPurchases(ctx context.Context, r *verifierv1.FindPurchasesRequest) (*verifierv1.FindPurchasesResponse, error) {
	query, err := purchaseQuery(r)
	if err != nil {
		return nil, err
	}
	size := int(r.GetPageSize())
	if size <= 0 {
		size = supportPage
	}
	query.Limit = size + 1
	list, err := v.s.store.Read().FindPurchases(ctx, query)
	if err != nil {
		return nil, err
	}
	response := &verifierv1.FindPurchasesResponse{}
	if len(list) > size {
		list = list[:size]
		response.NextPageToken = strconv.FormatInt(list[size-1].Arrival, 10)
	}
	for i := range list {
		response.Purchases = append(response.Purchases, foundProto(&list[i]))
	}
	return response, nil
}

func purchaseQuery(r *verifierv1.FindPurchasesRequest) (q store.PurchaseQuery, err error) {
	q.State, q.Reason = saga.State(r.GetState()), saga.Reason(r.GetReason())
	if q.DropID, err = optionalID(r.GetDropId(), errDropID); err != nil {
		return q, err
	}
	if q.OrderID, err = optionalID(r.GetOrderId(), errOrderID); err != nil {
		return q, err
	}
	if prefix := r.GetPurchaseIdPrefix(); prefix != "" {
		from, err := store.ParseHex(prefix + strings.Repeat("0", max(0, hex.EncodedLen(len(store.ID{}))-len(prefix))))
		if err != nil {
			return q, errPurchaseID
		}
		to, err := store.ParseHex(prefix + strings.Repeat("f", hex.EncodedLen(len(store.ID{}))-len(prefix)))
		if err != nil {
			return q, errPurchaseID
		}
		q.PurchaseFrom, q.PurchaseTo = &from, &to
	}
	if r.GetSinceTime() != nil {
		if err := r.GetSinceTime().CheckValid(); err != nil {
			return q, errSince
		}
		q.Since = r.GetSinceTime().AsTime().UnixMicro()
	}
	if r.GetPageToken() != "" {
		if q.BeforeArrival, err = strconv.ParseInt(r.GetPageToken(), 10, 64); err != nil || q.BeforeArrival <= 0 {
			return q, errPageToken
		}
	}
	return q, nil
}

// optionalID reads a UUID; nil when there is none.
func optionalID(text string, wrong error) (*store.ID, error) {
	if text == "" {
		return nil, nil
	}
	id, err := store.ParseUUID(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", wrong, err)
	}
	return &id, nil
}

// foundProto is what support sees of a purchase. Not here: viewer session, receipt, outcome, payment reference and intent,
// licence key and a voucher's text.
func foundProto(p *store.Purchase) *verifierv1.FoundPurchase {
	all := purchaseProto(p)
	return &verifierv1.FoundPurchase{
		PurchaseId: all.GetPurchaseId(), DropId: all.GetDropId(), State: all.GetState(), Reason: errorsv1.Reason(p.Reason),
		Price: all.GetPrice(), Charged: all.GetCharged(), Refunded: all.GetRefunded(), StateTime: all.GetStateTime(),
		AcceptTime: timestamppb.New(time.UnixMicro(p.AcceptTime)), OrderId: all.GetOrderId(), VoucherId: all.GetVoucher().GetVoucherId(),
		NodeId: p.NodeID.UUID(), Serial: p.Serial,
	}
}

// WatchPurchaseEvents implements SupportService.
func (v *supportServer) WatchPurchaseEvents(r *verifierv1.WatchPurchaseEventsRequest, stream verifierv1.SupportService_WatchPurchaseEventsServer) error {
	return v.s.toStatus(stream.Context(), "WatchPurchaseEvents", v.s.watchEvents(stream.Context(), r.GetAfterCursor(), func(m *verifierv1.WatchEventsResponse) error {
		return stream.Send(&verifierv1.WatchPurchaseEventsResponse{Purchases: m.GetPurchases(), Cursor: m.GetCursor()})
	}))
}

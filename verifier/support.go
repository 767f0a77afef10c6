package verifier

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/store"
)

// supportPage is how many refunds or vouchers a page has when nobody says.
const supportPage = 50

type supportServer struct {
	verifierv1.UnimplementedSupportServiceServer
	s *Service
}

// GetAudit implements SupportService.
func (v *supportServer) GetAudit(ctx context.Context, r *verifierv1.GetAuditRequest) (*verifierv1.GetAuditResponse, error) {
	response, err := v.s.audit(ctx, r.GetDropId(), int(r.GetPageSize()), r.GetPageToken())
	return response, v.s.toStatus(ctx, "GetAudit", err)
}

// RefundPurchase implements SupportService.
func (v *supportServer) RefundPurchase(ctx context.Context, r *verifierv1.RefundPurchaseRequest) (*verifierv1.RefundPurchaseResponse, error) {
	response, err := v.refund(ctx, r)
	return response, v.s.toStatus(ctx, "RefundPurchase", err)
}

func (v *supportServer) refund(ctx context.Context, r *verifierv1.RefundPurchaseRequest) (*verifierv1.RefundPurchaseResponse, error) {
	id, err := store.ParseHex(r.GetPurchaseId())
	if err != nil {
		return nil, errPurchaseID
	}
	if r.GetAmount() != nil && r.GetAmount().GetMinorUnits() <= 0 {
		return nil, errAmount
	}
	a, err := v.s.startRefund(ctx, refundRequest{
		requestID: r.GetRequestId(), purchaseID: id, currencyCode: r.GetAmount().GetCurrencyCode(),
		minorUnits: r.GetAmount().GetMinorUnits(), reason: r.GetReason(), dryRun: r.GetDryRun(),
	})
	if err != nil {
		return nil, err
	}
	return &verifierv1.RefundPurchaseResponse{
		Refund:     refundProto(&a.refund),
		Captured:   &offerv1.Money{CurrencyCode: a.refund.CurrencyCode, MinorUnits: a.captured},
		Refundable: &offerv1.Money{CurrencyCode: a.refund.CurrencyCode, MinorUnits: a.refundable},
	}, nil
}

func refundProto(r *store.Refund) *verifierv1.Refund {
	m := &verifierv1.Refund{
		PurchaseId: r.PurchaseID.Hex(), Amount: &offerv1.Money{CurrencyCode: r.CurrencyCode, MinorUnits: r.MinorUnits},
		Reason: r.Reason, State: verifierv1.RefundState(r.State), MakeGood: r.MakeGood,
		CreateTime: timestamppb.New(time.UnixMicro(r.CreateTime)), StateTime: timestamppb.New(time.UnixMicro(r.StateTime)),
	}
	if r.RefundID != (store.ID{}) { // a dry run has none
		m.RefundId = r.RefundID.UUID()
	}
	return m
}

// ListRefunds implements SupportService. The page token is the last refund's id in hex.
func (v *supportServer) ListRefunds(ctx context.Context, r *verifierv1.ListRefundsRequest) (*verifierv1.ListRefundsResponse, error) {
	response, err := v.listRefunds(ctx, r)
	return response, v.s.toStatus(ctx, "ListRefunds", err)
}

func (v *supportServer) listRefunds(ctx context.Context, r *verifierv1.ListRefundsRequest) (*verifierv1.ListRefundsResponse, error) {
	purchaseID, before, size, err := listing(r.GetPurchaseId(), r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	list, err := v.s.store.Read().Refunds(ctx, before, purchaseID, size+1)
	if err != nil {
		return nil, err
	}
	response := &verifierv1.ListRefundsResponse{}
	if len(list) > size {
		list = list[:size]
		response.NextPageToken = list[size-1].RefundID.Hex()
	}
	for _, r := range list {
		response.Refunds = append(response.Refunds, refundProto(&r))
	}
	return response, nil
}

// ListVouchers implements SupportService. The page token is the last voucher's id in hex.
func (v *supportServer) ListVouchers(ctx context.Context, r *verifierv1.ListVouchersRequest) (*verifierv1.ListVouchersResponse, error) {
	response, err := v.listVouchers(ctx, r)
	return response, v.s.toStatus(ctx, "ListVouchers", err)
}

func (v *supportServer) listVouchers(ctx context.Context, r *verifierv1.ListVouchersRequest) (*verifierv1.ListVouchersResponse, error) {
	purchaseID, before, size, err := listing(r.GetPurchaseId(), r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	q := v.s.store.Read()
	var list []store.VoucherRecord
	if r.GetVoucherId() != "" {
		id, perr := store.ParseUUID(r.GetVoucherId())
		if perr != nil {
			return nil, errVoucherID
		}
		list, err = q.VouchersByID(ctx, id)
	} else {
		list, err = q.Vouchers(ctx, before, purchaseID, r.GetOpenOnly(), size+1)
	}
	if err != nil {
		return nil, err
	}
	response := &verifierv1.ListVouchersResponse{}
	if len(list) > size {
		list = list[:size]
		response.NextPageToken = list[size-1].VoucherID.Hex()
	}
	for _, record := range list {
		users, err := q.VoucherUsers(ctx, record.VoucherID)
		if err != nil {
			return nil, err
		}
		response.Vouchers = append(response.Vouchers, voucherProto(&record, users))
	}
	return response, nil
}

func voucherProto(r *store.VoucherRecord, users []store.ID) *verifierv1.VoucherRecord {
	m := &verifierv1.VoucherRecord{
		Voucher:    makeGoodProto(&r.Voucher, r.CurrencyCode),
		PurchaseId: r.PurchaseID.Hex(), ChannelId: r.ChannelID, Reason: errorsv1.Reason(r.Reason),
		IssueTime: timestamppb.New(time.UnixMicro(r.IssueTime)),
		Remaining: &offerv1.Money{CurrencyCode: r.CurrencyCode, MinorUnits: r.Remaining},
	}
	for _, id := range users {
		m.UsedBy = append(m.UsedBy, id.Hex())
	}
	return m
}

// listing reads what both lists take: nil means all purchases, and without a page token the list begins above every id.
func listing(purchaseID, pageToken string, pageSize int32) (of *store.ID, before store.ID, size int, err error) {
	if purchaseID != "" {
		id, err := store.ParseHex(purchaseID)
		if err != nil {
			return nil, before, 0, errPurchaseID
		}
		of = &id
	}
	for i := range before {
		before[i] = 0xff
	}
	if pageToken != "" {
		if before, err = store.ParseHex(pageToken); err != nil {
			return nil, before, 0, errPageToken
		}
	}
	if size = int(pageSize); size <= 0 {
		size = supportPage
	}
	return of, before, size, nil
}

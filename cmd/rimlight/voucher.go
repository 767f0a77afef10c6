package main

import (
	"context"
	"io"
	"strings"

	"google.golang.org/grpc"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type voucherCmd struct {
	clientFlags
	ID       string `arg:"" optional:"" help:"Only the voucher with this id."`
	Purchase string `help:"Only the voucher that makes this purchase good."`
	Open     bool   `help:"Only vouchers with something left."`
	Limit    int32  `help:"At most this many, newest first." default:"20"`
}

func (c *voucherCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).ListVouchers(ctx, &verifierv1.ListVouchersRequest{
			VoucherId: c.ID, PurchaseId: c.Purchase, OpenOnly: c.Open, PageSize: c.Limit,
		})
		if err != nil {
			return err
		}
		if c.ID != "" && len(resp.GetVouchers()) == 0 {
			return refusal{"no voucher has this id"}
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "VOUCHER", "KIND", "WORTH", "LEFT", "GOOD", "CHANNEL", "WHY", "PURCHASE", "USED BY")
			for _, r := range resp.GetVouchers() {
				v := r.GetVoucher()
				row(w, v.GetVoucherId(), short(v.GetKind(), "VOUCHER_KIND_"), money(v.GetPrice()), money(r.GetRemaining()), until(v),
					dash(r.GetChannelId()), dash(findReason(r.GetReason())), r.GetPurchaseId(), dash(strings.Join(r.GetUsedBy(), " ")))
			}
		})
	})
}

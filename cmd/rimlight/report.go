package main

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type dropsReportCmd struct {
	clientFlags
	Drop string `arg:"" help:"The drop's id."`
}

func (c *dropsReportCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.Producer, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := verifierv1.NewSupportServiceClient(conn).GetDropReport(ctx, &verifierv1.GetDropReportRequest{DropId: c.Drop})
		if err != nil {
			return err
		}
		if err := c.print(s, r, func(w io.Writer) { reportTable(w, r) }); err != nil {
			return err
		}
		if !r.GetAgrees() {
			return refusal{"the ledger and the purchases differ"}
		}
		return nil
	})
}

func reportTable(w io.Writer, r *verifierv1.GetDropReportResponse) {
	row(w, "drop", r.GetDropId(), r.GetTitle())
	if !r.GetFinal() {
		row(w, "", "not final: the drop is not settled")
	}
	if r.GetTimeBack() != nil {
		row(w, "time back", r.GetTimeBack().AsDuration(), "the drop closes that much later than planned, because answers were late")
	}
	row(w, "units", r.GetUnits())
	row(w, "unsold", r.GetUnsold())
	row(w, "offered", r.GetOffered())
	row(w, "redeemed", r.GetRedeemed())
	row(w, "  settled", r.GetSettled())
	row(w, "  vouchers", r.GetVouchers(), fmt.Sprintf("%d of them lock a price", r.GetPriceLocks()))
	row(w, "  refused", r.GetRefused())
	row(w, "  refunded", r.GetRefunded(), "could not be delivered")
	row(w, "  open", r.GetOpen())
	row(w, "declined", r.GetDeclined(), "of the vouchers and refused: the payment failed")
	fmt.Fprintln(w)
	row(w, "", "LEDGER", "PURCHASES")
	amount := func(minorUnits int64) string {
		return money(&offerv1.Money{CurrencyCode: r.GetCurrencyCode(), MinorUnits: minorUnits})
	}
	ledger, purchases := r.GetLedger(), r.GetPurchases()
	row(w, "captured", amount(ledger.GetCapturedMinorUnits()), amount(purchases.GetCapturedMinorUnits()))
	row(w, "refunded", amount(ledger.GetRefundedMinorUnits()), amount(purchases.GetRefundedMinorUnits()))
	row(w, "vouchers issued", amount(ledger.GetVoucherIssuedMinorUnits()), amount(purchases.GetVoucherIssuedMinorUnits()))
	row(w, "vouchers spent", amount(ledger.GetVoucherSpentMinorUnits()), amount(purchases.GetVoucherSpentMinorUnits()))
	row(w, "net", amount(ledger.GetNetMinorUnits()), amount(purchases.GetNetMinorUnits()))
	row(w, "payment fees", amount(ledger.GetFeesMinorUnits()), amount(purchases.GetFeesMinorUnits()))
	row(w, "net after fees", amount(ledger.GetNetAfterFeesMinorUnits()), amount(purchases.GetNetAfterFeesMinorUnits()))
}

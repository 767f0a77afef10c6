package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type refundCmd struct {
	clientFlags
	Purchase  string `arg:"" help:"Purchase id, 32 hex digits."`
	Reason    string `help:"Why; kept with the refund. No personal data." required:""`
	Amount    string `help:"How much, for example 5.00; default: all that is left."`
	Currency  string `help:"ISO 4217 code of --amount." default:"EUR"`
	Yes       bool   `help:"Do it. Without this flag the command only says what would happen."`
	RequestID string `help:"Repeat a refund safely with the same id; default: a fresh one, printed."`
}

func (c *refundCmd) Run(ctx context.Context, s *streams) error {
	req := &verifierv1.RefundPurchaseRequest{RequestId: c.RequestID, PurchaseId: c.Purchase, Reason: c.Reason, DryRun: !c.Yes}
	if c.Amount != "" {
		amount, err := parseMoney(c.Amount, c.Currency)
		if err != nil {
			return err
		}
		req.Amount = amount
	}
	if req.RequestId == "" {
		req.RequestId = ids.NewV7(time.Now(), rand.Reader)
		if c.Yes {
			fmt.Fprintf(s.err, "request id %s\n", req.RequestId)
		}
	}
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).RefundPurchase(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			what := "would refund"
			if c.Yes {
				what = "refund " + short(resp.GetRefund().GetState(), "REFUND_STATE_")
			}
			row(w, what, money(resp.GetRefund().GetAmount()))
			row(w, "captured", money(resp.GetCaptured()))
			row(w, "refundable afterwards", money(resp.GetRefundable()))
			if resp.GetRefund().GetRefundId() != "" {
				row(w, "refund id", resp.GetRefund().GetRefundId())
			} else {
				row(w, "nothing was changed", "add --yes to do it")
			}
		})
	})
}

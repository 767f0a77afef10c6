package main

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type purchaseCmd struct {
	Get purchaseGetCmd `cmd:"" help:"Show one purchase; needs its receipt, its offer token, or a receipt that 'buy' kept here."`
}

type purchaseGetCmd struct {
	clientFlags
	ID string `arg:"" help:"A purchase id bought on this machine, a receipt, or an offer token."`
}

func (c *purchaseGetCmd) Run(ctx context.Context, s *streams) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	return c.call(ctx, auth.Viewer, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := offerv1.NewOfferServiceClient(conn).GetPurchase(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			p := resp.GetPurchase()
			row(w, "purchase", p.GetPurchaseId())
			row(w, "drop", p.GetDropId())
			row(w, "state", short(p.GetState(), "PURCHASE_STATE_"))
			row(w, "price", money(p.GetPrice()))
			if p.GetReason() != 0 {
				row(w, "reason", reasonName(p.GetReason()))
			}
			if p.GetVoucher() != nil {
				row(w, "voucher", p.GetVoucher().GetVoucherId())
			}
			if p.GetLicenceKey() != "" {
				row(w, "licence key", p.GetLicenceKey())
			}
		})
	})
}

// purchaseIDLen is the length of a purchase id; receipts and tokens are much longer.
const purchaseIDLen = 32

func (c *purchaseGetCmd) request() (*offerv1.GetPurchaseRequest, error) {
	if len(c.ID) == purchaseIDLen {
		var saved savedReceipt
		err := loadFile("receipts", c.ID, &saved)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usageError{"no receipt of this purchase was kept here; give the receipt or the offer token itself"}
		}
		if err != nil {
			return nil, err
		}
		return &offerv1.GetPurchaseRequest{
			Hints:      &offerv1.RoutingHints{PreferredRegion: saved.Region, DropId: saved.DropID},
			Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: saved.Receipt},
		}, nil
	}
	// A receipt holds an offer token, so it is always the longer one.
	if len(c.ID) > longestOfferToken {
		return &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: c.ID}}, nil
	}
	return &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: c.ID}}, nil
}

// longestOfferToken: header 72 bytes and at most some 180 bytes of claims, in base64.
const longestOfferToken = 400

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type purchaseCmd struct {
	Get    purchaseGetCmd    `cmd:"" help:"Show one purchase; needs its receipt, its offer token, or a receipt that 'buy' kept here."`
	Find   purchaseFindCmd   `cmd:"" help:"Find purchases by drop, state, reason, order, id or time: for support."`
	Events purchaseEventsCmd `cmd:"" help:"Follow every change of every purchase, until interrupted."`
	Choose purchaseChooseCmd `cmd:"" help:"Choose a voucher or the money for a purchase that could not be delivered."`
}

type purchaseChooseCmd struct {
	clientFlags
	ID     string `arg:"" help:"A purchase id bought on this machine, a receipt, or an offer token."`
	Choice string `arg:"" help:"voucher or money." enum:"voucher,money"`
}

func (c *purchaseChooseCmd) Run(ctx context.Context, s *streams) error {
	shown, err := purchaseRequest(c.ID)
	if err != nil {
		return err
	}
	req := &offerv1.ChooseMakeGoodRequest{Hints: shown.GetHints(), Choice: map[string]offerv1.MakeGood{
		"voucher": offerv1.MakeGood_MAKE_GOOD_VOUCHER, "money": offerv1.MakeGood_MAKE_GOOD_MONEY,
	}[c.Choice]}
	if receipt := shown.GetReceipt(); receipt != "" {
		req.Credential = &offerv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt}
	} else {
		req.Credential = &offerv1.ChooseMakeGoodRequest_OfferToken{OfferToken: shown.GetOfferToken()}
	}
	return c.call(ctx, auth.Viewer, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := offerv1.NewOfferServiceClient(conn).ChooseMakeGood(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) { showPurchase(w, resp.GetPurchase()) })
	})
}

type purchaseGetCmd struct {
	clientFlags
	ID string `arg:"" help:"A purchase id bought on this machine, a receipt, or an offer token."`
}

func (c *purchaseGetCmd) Run(ctx context.Context, s *streams) error {
	req, err := purchaseRequest(c.ID)
	if err != nil {
		return err
	}
	return c.call(ctx, auth.Viewer, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := offerv1.NewOfferServiceClient(conn).GetPurchase(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) { showPurchase(w, resp.GetPurchase()) })
	})
}

// showPurchase is a purchase for people, one row a fact.
func showPurchase(w io.Writer, p *offerv1.Purchase) {
	row(w, "purchase", p.GetPurchaseId())
	row(w, "drop", p.GetDropId())
	row(w, "state", short(p.GetState(), "PURCHASE_STATE_"))
	row(w, "price", money(p.GetPrice()))
	if c := p.GetCharged(); c != nil && c.GetMinorUnits() != p.GetPrice().GetMinorUnits() {
		row(w, "charged", money(c))
	}
	if p.GetRefunded() != nil {
		row(w, "refunded", money(p.GetRefunded()))
	}
	if p.GetReason() != 0 {
		row(w, "reason", reasonName(p.GetReason()))
	}
	if p.GetChoiceDeadline() != nil {
		row(w, "choose until", p.GetChoiceDeadline().AsTime().Local().Format(time.DateTime))
	}
	if v := p.GetVoucher(); v != nil {
		row(w, "voucher", v.GetVoucherId())
		row(w, "voucher text", v.GetText())
	}
	if p.GetLicenceKey() != "" {
		row(w, "licence key", p.GetLicenceKey())
	}
}

// purchaseIDLen is the length of a purchase id; receipts and tokens are much longer.
const purchaseIDLen = 32

// purchaseRequest reads a purchase by what a person has of it.
func purchaseRequest(id string) (*offerv1.GetPurchaseRequest, error) {
	if len(id) == purchaseIDLen {
		var saved savedReceipt
		err := loadFile("receipts", id, &saved)
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
	if len(id) > longestOfferToken {
		return &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: id}}, nil
	}
	return &offerv1.GetPurchaseRequest{Credential: &offerv1.GetPurchaseRequest_OfferToken{OfferToken: id}}, nil
}

// longestOfferToken: header 72 bytes and at most some 180 bytes of claims, in base64.
const longestOfferToken = 400

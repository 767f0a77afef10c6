package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type dropsCmd struct {
	Create dropsCreateCmd `cmd:"" help:"Plan a drop."`
	List   dropsListCmd   `cmd:"" help:"List drops with their stock, latest opening first."`
	Watch  dropsWatchCmd  `cmd:"" help:"Follow drops as viewers see them, until interrupted."`

	Pause  dropsPauseCmd  `cmd:"" help:"Hold a drop: no offers, no redemptions. The clock runs on."`
	Resume dropsResumeCmd `cmd:"" help:"Let a paused drop go on."`
	Extend dropsExtendCmd `cmd:"" help:"Close a drop later."`
	Close  dropsCloseCmd  `cmd:"" help:"Close a drop now; offers that are out stand."`
	Report dropsReportCmd `cmd:"" help:"Say what a drop came to; exits 1 if the ledger and the purchases differ."`
}

type dropsCreateCmd struct {
	clientFlags
	Channel      string        `help:"The creator's channel." required:""`
	Title        string        `help:"One line for viewers." required:""`
	Units        uint32        `help:"How many units." required:""`
	Price        string        `help:"Price of a unit, for example 19.00." required:""`
	Currency     string        `help:"ISO 4217 code." default:"EUR"`
	Opens        time.Duration `help:"How long from now it opens." default:"5s"`
	Duration     time.Duration `help:"How long it is open." default:"90s"`
	MaxPerViewer uint32        `help:"The most purchases of one viewer session." default:"1"`
	PerCard      uint32        `help:"The most purchases that one payment instrument pays, whatever session it pays for; 0: any number." default:"0"`
	TokenTTL     time.Duration `help:"How long an offer stands." default:"60s"`
	StockKind    string        `help:"What a unit is: how long receipts of a lost node are waited for. reusable: another drop can use it (10 min); physical: on a shelf (72 h); digital: 30 days; auto: as orders are." enum:"auto,reusable,physical,digital" default:"auto"`
	SKU          string        `name:"sku" help:"Sell a physical good, which microfulfillment nodes know by this SKU; default: a digital one." placeholder:"SKU"`
	RequestID    string        `help:"Repeat a creation safely with the same id; default: a fresh one."`
}

var stockKinds = map[string]fulfillmentv1.StockKind{
	"auto":     fulfillmentv1.StockKind_STOCK_KIND_UNSPECIFIED,
	"reusable": fulfillmentv1.StockKind_STOCK_KIND_REUSABLE,
	"physical": fulfillmentv1.StockKind_STOCK_KIND_PHYSICAL,
	"digital":  fulfillmentv1.StockKind_STOCK_KIND_DIGITAL,
}

func (c *dropsCreateCmd) Run(ctx context.Context, s *streams) error {
	price, err := parseMoney(c.Price, c.Currency)
	if err != nil {
		return err
	}
	req := &fulfillmentv1.CreateDropRequest{
		RequestId: c.RequestID, ChannelId: c.Channel, Title: c.Title, Price: price, Units: c.Units,
		OpenTime: timestamppb.New(time.Now().Add(c.Opens)), Duration: durationpb.New(c.Duration), MaxPerViewer: c.MaxPerViewer,
		PerInstrumentCap: c.PerCard,
		StockKind:        stockKinds[c.StockKind],
		Arms:             []*fulfillmentv1.OfferArm{{Name: "control", Weight: 1, TokenTtl: durationpb.New(c.TokenTTL)}},
	}
	if c.SKU != "" {
		req.GoodsKind, req.Sku = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, c.SKU
	}
	if req.RequestId == "" {
		req.RequestId = ids.NewV7(time.Now(), rand.Reader)
	}
	return c.call(ctx, auth.Producer, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := fulfillmentv1.NewCatalogServiceClient(conn).CreateDrop(ctx, req)
		if err != nil {
			return err
		}
		for _, w := range resp.GetWarnings() {
			fmt.Fprintf(s.err, "warning: %s\n", w)
		}
		return c.print(s, resp, func(w io.Writer) {
			d := resp.GetDrop()
			row(w, "DROP", "CHANNEL", "STATE", "OPENS", "CLOSES", "UNITS", "PRICE", "TITLE")
			row(w, d.GetDrop().GetDropId(), d.GetDrop().GetChannelId(), short(d.GetDrop().GetState(), "DROP_STATE_"),
				clock(d.GetDrop().GetOpenTime()), clock(d.GetDrop().GetCloseTime()), d.GetUnits(), money(d.GetDrop().GetPrice()), d.GetDrop().GetTitle())
		})
	})
}

type dropsListCmd struct {
	clientFlags
	Channel string `help:"Only this channel's."`
	Limit   int32  `help:"At most this many." default:"20"`
}

func (c *dropsListCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.Producer, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := fulfillmentv1.NewCatalogServiceClient(conn).ListDrops(ctx,
			&fulfillmentv1.ListDropsRequest{ChannelId: c.Channel, PageSize: c.Limit})
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "DROP", "CHANNEL", "STATE", "OPENS", "CLOSES", "PRICE", "UNITS", "FREE", "LEASED", "SOLD", "TITLE")
			for _, d := range resp.GetDrops() {
				drop, stock := d.GetDrop().GetDrop(), d.GetStock()
				row(w, drop.GetDropId(), drop.GetChannelId(), short(drop.GetState(), "DROP_STATE_"), clock(drop.GetOpenTime()),
					closes(drop), money(drop.GetPrice()), stock.GetUnits(), stock.GetFree(), stock.GetLeased(), stock.GetSold(), drop.GetTitle())
			}
		})
	})
}

type dropsWatchCmd struct {
	clientFlags
	Channel string `help:"Only this channel's."`
}

func (c *dropsWatchCmd) Run(ctx context.Context, s *streams) error {
	conn, err := c.dial(auth.Viewer)
	if err != nil {
		return err
	}
	defer conn.Close()
	watch := dropWatch{offers: offerv1.NewOfferServiceClient(conn), channel: c.Channel}
	return watch.run(ctx, func(m *offerv1.WatchDropsResponse) error {
		if c.Output == "json" {
			return printJSON(s.out, m)
		}
		drops := m.GetSnapshot().GetDrops()
		if d := m.GetChanged(); d != nil {
			drops = []*offerv1.Drop{d}
		}
		for _, d := range drops {
			fmt.Fprintf(s.out, "%s  %-9s %-9s %s  %s - %s  %s  %s\n", clock(m.GetServerTime()), short(d.GetState(), "DROP_STATE_"),
				availability(d), d.GetDropId(), clock(d.GetOpenTime()), closes(d), money(d.GetPrice()), d.GetTitle())
		}
		return nil
	})
}

// closes is when a drop closes, and by how much later than planned because answers were late.
func closes(d *offerv1.Drop) string {
	planned := d.GetPlannedCloseTime()
	if planned == nil {
		return clock(d.GetCloseTime())
	}
	return fmt.Sprintf("%s (+%v: slow answers)", clock(d.GetCloseTime()), d.GetCloseTime().AsTime().Sub(planned.AsTime()))
}

// availability is unknown of a drop that sells nothing any more, or not yet.
func availability(d *offerv1.Drop) string {
	if d.GetAvailability() == offerv1.Availability_AVAILABILITY_UNSPECIFIED {
		return "-"
	}
	return short(d.GetAvailability(), "AVAILABILITY_")
}

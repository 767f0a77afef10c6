package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/viewers"
)

// The demo: two channels, each with a 90 s drop every two minutes, one minute apart. Every third drop has 20 units and
// 400 viewers who come at once, so that it really sells out; the others have enough for everybody. Where somebody can send
// it, a third channel sells a print beside every second drop.
const (
	demoPeriod     = time.Minute
	demoOpen       = 90 * time.Second
	demoLead       = 15 * time.Second // planned this long before it opens: nodes arm 10 s before
	demoUnits      = 500
	demoScarce     = 20
	demoScarceEach = 3
	demoBurst      = 400
	demoBurstOver  = 3 * time.Second
)

var demoChannels = []struct {
	id, title string
	price     *offerv1.Money
}{
	{"aurora", "Aurora: signed session recording", &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}},
	{"nocturne", "Nocturne: sample pack", &offerv1.Money{CurrencyCode: "USD", MinorUnits: 1200}},
}

const demoParcelChannel, demoParcelTitle = "atelier", "Atelier: signed print, by parcel"

var demoParcelPrice = &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 3400}

// demoAddress is where the audience wants its prints.
var demoAddress = []byte("TEST: 1 Example Street, Nowhere")

// demo plans drops for ever; with an audience it sends a crowd to the scarce ones.
type demo struct {
	catalog fulfillmentv1.CatalogServiceClient
	crowd   *viewers.Audience // nil: nobody comes
	sku     string            // of the print; empty: nobody sends any
	log     *slog.Logger
}

func (d *demo) run(ctx context.Context) error {
	opens := time.Now().Add(demoLead)
	for n := 0; ; n++ {
		drop, err := d.plan(ctx, n, opens)
		if err == nil && d.sku != "" && n%2 == 0 {
			_, err = d.create(ctx, &fulfillmentv1.CreateDropRequest{
				ChannelId: demoParcelChannel, Title: demoParcelTitle, Price: demoParcelPrice, Units: demoUnits, OpenTime: timestamppb.New(opens),
				GoodsKind: fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, Sku: d.sku,
			})
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("a demo drop could not be planned", "error", err)
		}
		if drop != nil && d.crowd != nil && scarce(n) {
			if !wait(ctx, time.Until(opens)) {
				return nil
			}
			d.crowd.Burst(ctx, drop, demoBurst, demoBurstOver)
		}
		opens = opens.Add(demoPeriod)
		if !wait(ctx, time.Until(opens.Add(-demoLead))) {
			return nil
		}
	}
}

func scarce(n int) bool { return n%demoScarceEach == demoScarceEach-1 }

func (d *demo) plan(ctx context.Context, n int, opens time.Time) (*offerv1.Drop, error) {
	channel := demoChannels[n%len(demoChannels)]
	units, title := uint32(demoUnits), channel.title
	if scarce(n) {
		units, title = demoScarce, fmt.Sprintf("%s (only %d)", channel.title, demoScarce)
	}
	return d.create(ctx, &fulfillmentv1.CreateDropRequest{
		ChannelId: channel.id, Title: title, Price: channel.price, Units: units, OpenTime: timestamppb.New(opens),
	})
}

// create plans a drop with what all of the demo's have in common.
func (d *demo) create(ctx context.Context, req *fulfillmentv1.CreateDropRequest) (*offerv1.Drop, error) {
	req.RequestId, req.Duration = ids.NewV7(time.Now(), rand.Reader), durationpb.New(demoOpen)
	req.Arms = []*fulfillmentv1.OfferArm{
		{Name: "minute", Weight: 1, TokenTtl: durationpb.New(time.Minute)},
		{Name: "five", Weight: 1, TokenTtl: durationpb.New(5 * time.Minute)},
	}
	resp, err := d.catalog.CreateDrop(ctx, req)
	if err != nil {
		return nil, err
	}
	d.log.Info("a demo drop is planned", "channel", req.GetChannelId(), "units", req.GetUnits(), "opens", req.GetOpenTime().AsTime().Local().Format(time.TimeOnly))
	return resp.GetDrop().GetDrop(), nil
}

// wait reports whether the time passed before ctx ended.
func wait(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// demoPayments is what the audience pays with: mostly well, sometimes not.
var demoPayments = slices.Concat(slices.Repeat([]string{"tp_ok"}, 18), []string{"tp_decline", "tp_timeout_after"})

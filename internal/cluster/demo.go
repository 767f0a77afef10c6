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
// 400 viewers who come at once, so that it really sells out; the others have enough for everybody.
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

// demo plans drops for ever; with an audience it sends a crowd to the scarce ones.
type demo struct {
	catalog fulfillmentv1.CatalogServiceClient
	crowd   *viewers.Audience // nil: nobody comes
	log     *slog.Logger
}

func (d *demo) run(ctx context.Context) error {
	opens := time.Now().Add(demoLead)
	for n := 0; ; n++ {
		drop, err := d.plan(ctx, n, opens)
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
	resp, err := d.catalog.CreateDrop(ctx, &fulfillmentv1.CreateDropRequest{
		RequestId: ids.NewV7(time.Now(), rand.Reader), ChannelId: channel.id, Title: title, Price: channel.price, Units: units,
		OpenTime: timestamppb.New(opens), Duration: durationpb.New(demoOpen),
		Arms: []*fulfillmentv1.OfferArm{
			{Name: "minute", Weight: 1, TokenTtl: durationpb.New(time.Minute)},
			{Name: "five", Weight: 1, TokenTtl: durationpb.New(5 * time.Minute)},
		},
	})
	if err != nil {
		return nil, err
	}
	d.log.Info("a demo drop is planned", "channel", channel.id, "units", units, "opens", opens.Format(time.TimeOnly))
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

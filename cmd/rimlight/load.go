package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/viewers"
	"github.com/rimlight/rimlight/internal/wan"
)

type loadCmd struct {
	clientFlags
	Viewers     int           `help:"How many viewers arrive per minute; a slow platform does not slow them down." default:"600"`
	Duration    time.Duration `help:"For how long they arrive; those inside then finish." default:"1m"`
	Origins     []string      `name:"origin" help:"A place they come from and its last-mile round trip, NAME=RTT or NAME=RTT@URL; repeatable." default:"viewer=60ms" placeholder:"NAME=RTT[@URL]"`
	Channel     string        `help:"Only this channel's drops."`
	AbandonRate float64       `help:"Share of offers that nobody redeems." default:"0.5"`
	DeclineRate float64       `help:"Share of purchases whose payment is declined." default:"0.04"`
	Tries       int           `help:"How often a viewer makes one call at most." default:"8"`
	Think       time.Duration `help:"The longest look at an offer before the tap." default:"3s"`
	Patience    time.Duration `help:"The longest visit." default:"3m"`
}

// connections of one origin: a public port takes 64 streams on each, and every viewer follows a purchase over one.
const (
	streamsPerConnection = 32
	visitTime            = 15 * time.Second // an offer, a think, a purchase followed to its end, on a healthy platform
)

// originFlag is one --origin.
type originFlag struct {
	name   string
	rtt    time.Duration
	router string
}

func (c *loadCmd) Run(ctx context.Context, s *streams) error {
	origins, err := c.parse()
	if err != nil {
		return err
	}
	cfg := viewers.Config{
		Channel: c.Channel, PerMinute: c.Viewers, AbandonRate: c.AbandonRate, DeclineRate: c.DeclineRate, Tries: c.Tries,
		Think: c.Think, Patience: c.Patience, Duration: c.Duration,
	}
	for _, o := range origins {
		origin, closeAll, err := c.open(o, len(origins))
		if err != nil {
			return err
		}
		defer closeAll()
		cfg.Origins = append(cfg.Origins, origin)
	}
	conn, err := c.dial(auth.Producer)
	if err != nil {
		return err
	}
	defer conn.Close()
	catalog := fulfillmentv1.NewCatalogServiceClient(conn)
	// The load begins when the platform answers; one that does not is told apart from one that is slow.
	if _, err := cfg.Origins[0].Offers[0].ListKeys(ctx, &offerv1.ListKeysRequest{PageSize: 1}); err != nil {
		return err
	}
	audience := viewers.New(cfg)
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- audience.Run(ctx) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-tick.C:
			s.live(progressOf(audience.Stats(), time.Since(began)))
		}
	}
	s.live("")
	if err != nil {
		return err
	}
	report := summarize(audience.Stats(), origins, time.Since(began))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout) // the report is due after an interrupt, too
	defer cancel()
	if report.Drops, err = soldOf(ctx, catalog, audience.Drops()); err != nil {
		return fmt.Errorf("asking what the drops sold: %w", err)
	}
	if err := c.show(s, report); err != nil {
		return err
	}
	if report.Unverified > 0 {
		return refusal{fmt.Sprintf("%d receipts or outcomes could not be verified", report.Unverified)}
	}
	return nil
}

// parse checks the flags that kong cannot.
func (c *loadCmd) parse() ([]originFlag, error) {
	switch {
	case c.Viewers < 1 || c.Viewers > viewers.MaxPerMinute:
		return nil, usageError{fmt.Sprintf("--viewers takes 1 to %d a minute", viewers.MaxPerMinute)}
	case c.AbandonRate < 0 || c.AbandonRate > 1 || c.DeclineRate < 0 || c.DeclineRate > 1:
		return nil, usageError{"--abandon-rate and --decline-rate take a share from 0 to 1"}
	case c.Duration <= 0 || c.Patience <= 0 || c.Think < 0:
		return nil, usageError{"--duration and --patience must be longer than nothing, --think not shorter"}
	case c.Tries < 1:
		return nil, usageError{"--tries takes 1 or more"}
	}
	var origins []originFlag
	for _, text := range c.Origins {
		name, rest, ok := strings.Cut(text, "=")
		rtt, router, _ := strings.Cut(rest, "@")
		delay, err := time.ParseDuration(rtt)
		if !ok || name == "" || err != nil || delay < 0 || delay > 10*time.Second {
			return nil, usageError{fmt.Sprintf("--origin %q is not NAME=RTT or NAME=RTT@URL, like tokyo=60ms; RTT up to 10s", text)}
		}
		if slices.ContainsFunc(origins, func(o originFlag) bool { return o.name == name }) {
			return nil, usageError{fmt.Sprintf("--origin %s is there twice", name)}
		}
		origins = append(origins, originFlag{name, delay, cmp.Or(router, c.Router)})
	}
	return origins, nil
}

// open makes an origin's connections, each with its last mile.
func (c *loadCmd) open(o originFlag, origins int) (viewers.Origin, func(), error) {
	target, plain, err := targetOf(o.router)
	if err != nil {
		return viewers.Origin{}, nil, err
	}
	var dialer net.Dialer
	tcp := func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }
	cfg := rpc.DialConfig{Dialer: wan.Dialer(tcp, wan.Path{RTT: func() time.Duration { return o.rtt }})}
	if !plain {
		if cfg.TLS, err = c.trust(); err != nil {
			return viewers.Origin{}, nil, err
		}
	}
	inside := int(float64(c.Viewers) * min(visitTime, c.Patience).Minutes() / float64(origins))
	origin := viewers.Origin{Name: o.name}
	var conns []*grpc.ClientConn
	closeAll := func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	for range 1 + inside/streamsPerConnection {
		conn, err := rpc.Dial(target, cfg)
		if err != nil {
			closeAll()
			return viewers.Origin{}, nil, err
		}
		conns = append(conns, conn)
		origin.Offers = append(origin.Offers, offerv1.NewOfferServiceClient(conn))
	}
	return origin, closeAll, nil
}

// loadReport is the document of `load -o json`. Shares are fractions of 1.
type loadReport struct {
	Seconds    float64                   `json:"seconds"`
	Arrived    int                       `json:"arrived"`
	Offered    int                       `json:"offered"`
	Abandoned  int                       `json:"abandoned"`
	Accepted   int                       `json:"accepted"`
	Unverified int                       `json:"unverified"`
	Outcomes   map[string]int            `json:"outcomes"`
	Calls      map[string]map[string]int `json:"calls"`
	Taps       []tapReport               `json:"taps"`
	Drops      []soldReport              `json:"drops"`
}

// tapReport is how long viewers of one origin waited from the tap to the verified receipt.
type tapReport struct {
	Origin  string  `json:"origin"`
	RTTMs   float64 `json:"rtt_ms"`
	Method  string  `json:"method"`
	Count   int64   `json:"count"`
	P50Ms   float64 `json:"p50_ms"`
	P95Ms   float64 `json:"p95_ms"`
	P99Ms   float64 `json:"p99_ms"`
	Over200 float64 `json:"share_over_200ms"`
}

// soldReport is what a drop that was open meanwhile sold, to whomever.
type soldReport struct {
	DropID      string  `json:"drop_id"`
	Title       string  `json:"title"`
	Units       uint32  `json:"units"`
	Sold        uint32  `json:"sold"`
	SellThrough float64 `json:"sell_through"`
}

func summarize(stats viewers.Stats, origins []originFlag, took time.Duration) loadReport {
	r := loadReport{
		Seconds: took.Seconds(), Arrived: stats.Arrived, Offered: stats.Offered, Abandoned: stats.Abandoned,
		Accepted: stats.Accepted, Unverified: stats.Unverified, Outcomes: map[string]int{}, Calls: stats.Calls,
	}
	for state, n := range stats.Outcomes {
		r.Outcomes[short(state, "PURCHASE_STATE_")] = n
	}
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for _, o := range origins {
		for _, method := range []string{"RedeemOffer", "ClaimOffer"} {
			taps := stats.Taps[viewers.TapKey{Origin: o.name, Method: method}]
			if taps == nil {
				continue
			}
			r.Taps = append(r.Taps, tapReport{
				Origin: o.name, RTTMs: millis(o.rtt), Method: method, Count: taps.Count(),
				P50Ms: millis(taps.Quantile(0.5)), P95Ms: millis(taps.Quantile(0.95)), P99Ms: millis(taps.Quantile(0.99)),
				Over200: float64(taps.Slips()) / float64(taps.Count()),
			})
		}
	}
	return r
}

// soldOf asks fulfillment what the drops sold, those that sold nothing left out.
func soldOf(ctx context.Context, catalog fulfillmentv1.CatalogServiceClient, drops []*offerv1.Drop) ([]soldReport, error) {
	var out []soldReport
	for _, d := range drops {
		resp, err := catalog.GetDrop(ctx, &fulfillmentv1.GetDropRequest{DropId: d.GetDropId()})
		if err != nil {
			return nil, err
		}
		units, sold := resp.GetDrop().GetDrop().GetUnits(), resp.GetDrop().GetStock().GetSold()
		if sold > 0 {
			out = append(out, soldReport{d.GetDropId(), d.GetTitle(), units, sold, float64(sold) / float64(units)})
		}
	}
	slices.SortFunc(out, func(a, b soldReport) int { return cmp.Compare(a.DropID, b.DropID) })
	return out, nil
}

func progressOf(stats viewers.Stats, took time.Duration) string {
	all := viewers.NewLatency()
	for _, taps := range stats.Taps {
		all.Merge(taps)
	}
	return fmt.Sprintf("%4.0f s  %d arrived, %d accepted, tap to receipt p50 %.0f ms, p99 %.0f ms, %d over 200 ms",
		took.Seconds(), stats.Arrived, stats.Accepted, float64(all.Quantile(0.5).Microseconds())/1000,
		float64(all.Quantile(0.99).Microseconds())/1000, all.Slips())
}

func (c *loadCmd) show(s *streams, r loadReport) error {
	if c.Output == "json" {
		raw, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encoding the report: %w", err)
		}
		return printRawJSON(s.out, raw)
	}
	fmt.Fprintf(s.out, "%d viewers in %.0f s: %d offers, %d abandoned, %d accepted\n\n", r.Arrived, r.Seconds, r.Offered, r.Abandoned, r.Accepted)
	for _, table := range []func(io.Writer){
		func(w io.Writer) {
			row(w, "ORIGIN", "RTT MS", "TAP", "COUNT", "P50 MS", "P95 MS", "P99 MS", "OVER 200 MS")
			for _, t := range r.Taps {
				row(w, t.Origin, t.RTTMs, t.Method, t.Count, fmt.Sprintf("%.1f", t.P50Ms), fmt.Sprintf("%.1f", t.P95Ms),
					fmt.Sprintf("%.1f", t.P99Ms), fmt.Sprintf("%.2f %%", 100*t.Over200))
			}
		},
		func(w io.Writer) {
			row(w, "\nDROP", "UNITS", "SOLD", "SELL-THROUGH", "TITLE")
			for _, d := range r.Drops {
				row(w, d.DropID, d.Units, d.Sold, fmt.Sprintf("%.1f %%", 100*d.SellThrough), d.Title)
			}
		},
		func(w io.Writer) {
			row(w, "\nOUTCOME", "PURCHASES")
			for _, state := range slices.Sorted(maps.Keys(r.Outcomes)) {
				row(w, state, r.Outcomes[state])
			}
		},
		func(w io.Writer) {
			row(w, "\nCALL", "ENDED IN", "COUNT")
			for _, method := range slices.Sorted(maps.Keys(r.Calls)) {
				for _, ending := range slices.Sorted(maps.Keys(r.Calls[method])) {
					row(w, method, ending, r.Calls[method][ending])
				}
			}
		},
	} {
		w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
		table(w)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type nodeCmd struct {
	Fulfillment  string        `help:"Fulfillment's address; several, of replicas, are separated by commas." required:"" placeholder:"ADDR"`
	Data         string        `help:"Where the inbox is kept; one directory, one node." required:"" placeholder:"DIR"`
	Tokens       string        `help:"File (JSON) with the token of the role node; it needs no other." required:"" placeholder:"FILE"`
	TrustNetwork bool          `help:"The network to fulfillment is the platform's own: tokens may travel in plaintext."`
	SKUs         []string      `name:"skus" help:"The goods that it has." required:"" placeholder:"SKU"`
	Zones        []string      `help:"The regions that it delivers for, or first parts of their names; default: all." placeholder:"ZONE"`
	Parallel     int           `help:"How many orders it has at the same time." default:"10"`
	PerHour      int           `help:"How many orders it takes in an hour; 0: any number." default:"0"`
	Hours        []string      `help:"When it takes orders, every day, in UTC; default: always." placeholder:"HH:MM-HH:MM"`
	PackTime     time.Duration `help:"TEST: how long a parcel takes to pack." default:"1s"`
	LogLevel     string        `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	traceFlags
	metricsFlags
}

func (c *nodeCmd) Run(ctx context.Context, s *streams) error {
	hours, err := parseHours(c.Hours)
	if err != nil {
		return err
	}
	tokens, err := auth.Load(c.Tokens, auth.Node)
	if err != nil {
		return err
	}
	log := newLog(s, c.LogLevel)
	traces, err := c.config(ctx, log)
	if err != nil {
		return err
	}
	run, err := process.StartNode(ctx, process.Node{
		Common: process.Common{
			DataDir: c.Data, Tokens: tokens, TrustNetwork: c.TrustNetwork, Version: version, Log: log, Metrics: prometheus.NewRegistry(),
			MetricsListen: c.MetricsListen, Traces: traces,
		},
		Config:      node.Config{Zones: c.Zones, SKUs: c.SKUs, Parallel: c.Parallel, PerHour: c.PerHour, Hours: hours},
		Fulfillment: c.Fulfillment, PackTime: c.PackTime,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "node works on %s\n", strings.Join(c.SKUs, ", "))
	return run(ctx)
}

func parseHours(texts []string) (hours []*fulfillmentv1.OpeningHours, err error) {
	for _, text := range texts {
		from, to, ok := strings.Cut(text, "-")
		a, aErr := time.Parse("15:04", from)
		b, bErr := time.Parse("15:04", to)
		if !ok || aErr != nil || bErr != nil {
			return nil, usageError{fmt.Sprintf("--hours takes HH:MM-HH:MM, not %q", text)}
		}
		hours = append(hours, &fulfillmentv1.OpeningHours{FromMinute: uint32(a.Hour()*60 + a.Minute()), ToMinute: uint32(b.Hour()*60 + b.Minute())})
	}
	return hours, nil
}

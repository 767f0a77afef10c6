package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/router/slo"
)

// sloFlags say which calls are late for a router, and how many of them are a slip.
type sloFlags struct {
	SLO map[string]string `name:"slo" mapsep:"none" help:"When a flow's calls are late, and which share of them is a slip: FLOW is a method of OfferService like RequestOffer, a forwarded service, or 'all'. Default: all=200ms,5%. Repeatable; the same on all routers." placeholder:"FLOW=TIME[,SHARE]"`
}

// config reads the flags; forwarded are the services that are flows, too.
func (f *sloFlags) config(forwarded []string) (slo.Config, error) {
	c := slo.Config{Objectives: map[string]time.Duration{}, LateShares: map[string]float64{}}
	flows := slices.Clone(forwarded)
	for _, m := range offerv1.OfferService_ServiceDesc.Methods {
		flows = append(flows, m.MethodName)
	}
	for _, s := range offerv1.OfferService_ServiceDesc.Streams {
		flows = append(flows, s.StreamName)
	}
	for flow, text := range f.SLO {
		objective, share, err := readObjective(text)
		switch {
		case err != nil:
			return c, usageError{fmt.Sprintf("--slo %s=%s: %v", flow, text, err)}
		case flow == "all":
			c.Objective, c.LateShare = objective, share
		case !slices.Contains(flows, flow):
			return c, usageError{fmt.Sprintf("--slo: no flow is called %q; there are all, %s", flow, strings.Join(flows, ", "))}
		default:
			c.Objectives[flow] = objective
			if share > 0 {
				c.LateShares[flow] = share
			}
		}
	}
	return c, nil
}

// readObjective reads "150ms" or "150ms,2%"; without a share it gives 0.
func readObjective(text string) (objective time.Duration, share float64, err error) {
	first, second, both := strings.Cut(text, ",")
	if objective, err = time.ParseDuration(first); err != nil || objective <= 0 {
		return 0, 0, fmt.Errorf("%q is not a time like 200ms", first)
	}
	if !both {
		return objective, 0, nil
	}
	number, isPercent := strings.CutSuffix(second, "%")
	percent, err := strconv.ParseFloat(number, 64)
	if err != nil || !isPercent || !(percent > 0 && percent < 100) {
		return 0, 0, fmt.Errorf("%q is not a share like 5%%", second)
	}
	return objective, percent / 100, nil
}

// timeBackFlags say how much of a drop's window fulfillment gives back after late answers.
type timeBackFlags struct {
	TimeBack time.Duration `name:"time-back" help:"How much later than planned a drop closes at most because answers to its viewers were late, and never more than a quarter of its window; 0: not at all." default:"30s"`
}

// Validate implements kong's.
func (f *timeBackFlags) Validate() error {
	if f.TimeBack < 0 || f.TimeBack > dropclock.LongestBack {
		return fmt.Errorf("--time-back is 0 to %v", dropclock.LongestBack)
	}
	return nil
}

// offWhenZero is a flag's value for a config in which zero is the default.
func offWhenZero(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

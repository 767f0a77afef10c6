package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// late is the share of the fleet's calls of the last five seconds that were late.
func (p *devProcess) late(t *testing.T) float64 {
	t.Helper()
	calls, late := 0, 0
	for _, w := range p.slips(t).Windows {
		if w.Scope == "SLIP_SCOPE_FLOW" {
			calls, late = calls+w.Calls, late+w.LateCalls
		}
	}
	return float64(late) / float64(max(calls, 1))
}

// choice is where a router sent a viewer's call first.
type choice struct {
	at     time.Time
	region string
}

// arbitrated are the methods that go to whichever region is soonest; reads of a purchase go to the one that accepted it.
var arbitrated = []string{
	offerv1.OfferService_RequestOffer_FullMethodName, offerv1.OfferService_RedeemOffer_FullMethodName, offerv1.OfferService_ClaimOffer_FullMethodName,
}

// choicesSince are those that every router remembers, oldest first.
func (p *devProcess) choicesSince(t *testing.T, since time.Time) (all []choice) {
	t.Helper()
	for _, router := range p.routers {
		f := clientFlags{Router: router, Timeout: time.Minute}
		if err := f.call(t.Context(), auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
			client, q := routerv1.NewRouterAdminServiceClient(conn), &routerv1.ListDecisionsRequest{PageSize: 500}
			for {
				page, err := client.ListDecisions(ctx, q)
				if err != nil {
					return err
				}
				for _, d := range page.GetDecisions() { // newest first
					at := d.GetTime().AsTime()
					if at.Before(since) {
						return nil
					}
					if len(d.GetChoices()) > 0 && slices.Contains(arbitrated, d.GetMethod()) {
						all = append(all, choice{at, d.GetChoices()[0].GetRegion()})
					}
				}
				if q.PageToken = page.GetNextPageToken(); q.PageToken == "" {
					return nil
				}
			}
		}); err != nil {
			t.Fatalf("decisions of %s: %v", router, err)
		}
	}
	slices.SortFunc(all, func(a, b choice) int { return a.at.Compare(b.at) })
	return all
}

const (
	// A region's share before is that of the last seconds; afterwards it is looked at in short buckets that overlap.
	shareWindow = 5 * time.Second
	shareBucket = 500 * time.Millisecond
	shareStep   = 250 * time.Millisecond
	// bucketCalls is how many calls a bucket must have to say anything: a longer one is looked at until it has.
	bucketCalls = 5
)

// shareOf is a region's share of the choices from one moment to another, and of how many.
func shareOf(all []choice, region string, from, to time.Time) (share float64, of int) {
	for _, c := range all {
		if !c.at.Before(from) && c.at.Before(to) {
			of++
			if c.region == region {
				share++
			}
		}
	}
	return share / float64(max(of, 1)), of
}

// movedAfter is how long after a moment 95 % of a region's traffic goes elsewhere: the beginning of the first bucket in which
// the region's share of first choices is at most a twentieth of what it was. False: not before the end.
func movedAfter(all []choice, region string, began, end time.Time) (time.Duration, bool) {
	before, _ := shareOf(all, region, began.Add(-shareWindow), began)
	for from := began; from.Before(end); from = from.Add(shareStep) {
		to, of := from, 0
		share := 0.0
		for of < bucketCalls && to.Before(end) {
			to = to.Add(shareBucket)
			share, of = shareOf(all, region, from, to)
		}
		if of >= bucketCalls && share <= before/20 {
			return from.Sub(began), true
		}
	}
	return 0, false
}

func TestWhenTrafficHasMoved(t *testing.T) {
	began := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	var all []choice
	send := func(from, to time.Duration, shareInTen int) { // 40 calls a second
		for i := from; i < to; i += 25 * time.Millisecond {
			region := "other"
			if int(i/(25*time.Millisecond)+1_000_000)%10 < shareInTen {
				region = "victim"
			}
			all = append(all, choice{began.Add(i), region})
		}
	}
	send(-shareWindow, 0, 6)
	send(0, 600*time.Millisecond, 6)
	send(600*time.Millisecond, 5*time.Second, 0)
	if got, ok := movedAfter(all, "victim", began, began.Add(5*time.Second)); !ok || got != 750*time.Millisecond {
		t.Errorf("moved after %v, %v", got, ok)
	}
	if got, ok := movedAfter(all, "other", began, began.Add(5*time.Second)); ok {
		t.Errorf("what did not move is said to have after %v", got)
	}
}

// measureBrownouts repeats the drill, and prints in one line how soon a slip was told, how soon the region's traffic had
// moved, and how many calls were late before the slip, while it was told, and once the window had only calls of after it.
// The brownout lasts all the while.
func (p *devProcess) measureBrownouts(t *testing.T, runs int) {
	t.Helper()
	const window = 5 * time.Second
	var told, moved, before, during, after []float64
	defer func() { // of as many as there were, should the machine never be calm again
		if len(after) == 0 {
			return
		}
		line, err := json.Marshal(struct {
			Runs       int     `json:"runs"`
			Told       float64 `json:"told_median_s"`
			ToldMax    float64 `json:"told_max_s"`
			Moved      float64 `json:"moved_median_s"`
			MovedMax   float64 `json:"moved_max_s"`
			LateBefore float64 `json:"late_before_median"`
			LateDuring float64 `json:"late_when_told_median"`
			LateAfter  float64 `json:"late_after_told_median"`
			LateMax    float64 `json:"late_after_told_max"`
		}{len(after), median(told), slices.Max(told), median(moved), slices.Max(moved), median(before), median(during), median(after), slices.Max(after)})
		if err != nil {
			t.Error(err)
		}
		fmt.Println(string(line)) // for make brownouts
	}()
	fmt.Printf("%-4s %-24s %8s %8s %12s %12s %12s\n", "run", "region", "told s", "moved s", "late before", "when told", "after")
	for i := range runs {
		victim, calls := "", 0
		eventually(t, "viewers buy, and nothing is late", func() bool {
			victim, calls = p.busiest(t)
			return calls > 40 && p.slipOf(t, victim, time.Now()).Region == ""
		})
		before = append(before, p.late(t))
		began := time.Now()
		if code, errOut := p.asks(t, nil, "fault", "brownout", victim, "--for", "20s", "--added", "1s"); code != exitDone {
			t.Fatalf("fault: %d %s", code, errOut)
		}
		eventually(t, "a slip of "+victim, func() bool { return p.slipOf(t, victim, began).Region != "" })
		noticed := time.Now()
		told = append(told, noticed.Sub(began).Seconds())
		during = append(during, p.late(t))
		eventually(t, "the window has moved on", func() bool { return time.Since(noticed) > window })
		after = append(after, p.late(t))
		left, ok := movedAfter(p.choicesSince(t, began.Add(-shareWindow)), victim, began, time.Now())
		if !ok {
			t.Errorf("run %d: %s keeps more than a twentieth of its traffic", i+1, victim)
			left = time.Since(began)
		}
		moved = append(moved, left.Seconds())
		fmt.Printf("%-4d %-24s %8.2f %8.2f %11.1f%% %11.1f%% %11.1f%%\n", i+1, victim, told[i], moved[i], 100*before[i], 100*during[i], 100*after[i])
		eventually(t, "the drill is over", func() bool { return p.faults(t) == 0 })
		eventually(t, "traffic is back", func() bool { return p.attempts(t, victim) > calls/4 })
	}
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

package forward_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/forward"
)

// value adds up a counter, over all of its labels or those with one label's value.
func value(t *testing.T, g prometheus.Gatherer, name, label string) (sum float64) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			wanted := label == ""
			for _, l := range m.GetLabel() {
				wanted = wanted || l.GetValue() == label
			}
			if wanted {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// When every region is full, calls must not be doubled: what is saved up is spent once, and then the shed is passed on.
func TestOverloadIsNotAnsweredWithARetryStorm(t *testing.T) {
	shed := fails(typed(codes.ResourceExhausted, "OVERLOADED", rpcerr.RetryAfter(70*ms)))
	var far atomic.Int32
	w := newWorld(t, forward.Config{HedgeShare: -1}, node{"near", shed}, node{"far", counted(&far, shed)})
	const calls = 2000
	for range calls {
		_, err := w.call(t.Context(), requestOffer, nil)
		wantStatus(t, err, codes.ResourceExhausted, "OVERLOADED")
		if wait, ok := rpcerr.Retry(err); !ok || wait != 70*ms {
			t.Fatalf("got retry after %v, %v; want the region's own word", wait, ok)
		}
	}
	if far.Load() != 500 {
		t.Errorf("%d of %d sheds were tried elsewhere, want the 500 that were saved up", far.Load(), calls)
	}
	made, withheld := value(t, w.metrics, "rimlight_router_retries_total", "REASON_OVERLOADED"), value(t, w.metrics, "rimlight_router_retries_withheld_total", "REASON_OVERLOADED")
	if made != 500 || withheld != calls-500 {
		t.Errorf("counted %v retries and %v withheld", made, withheld)
	}
}

func TestRetriesAreOneInFiveCallsThatWentWell(t *testing.T) {
	var near, far atomic.Int32
	w := newWorld(t, forward.Config{HedgeShare: -1}, node{"near", func(srv any, stream grpc.ServerStream) error {
		if near.Add(1)%2 == 0 {
			return fails(status.Error(codes.Unavailable, "broken"))(srv, stream)
		}
		return answers("near")(srv, stream)
	}}, node{"far", counted(&far, fails(status.Error(codes.Unavailable, "broken")))})
	for range 2000 {
		_, err := w.call(t.Context(), requestOffer, nil)
		if err != nil {
			wantStatus(t, err, codes.Unavailable, "UPSTREAM_UNREACHABLE")
		}
	}
	if n := far.Load(); n < 690 || n > 710 {
		t.Errorf("%d retries of 1,000 calls that broke beside 1,000 that went well, want 500 that were saved up and 200", n)
	}
}

func TestRetriesCanBeSwitchedOff(t *testing.T) {
	var far atomic.Int32
	w := newWorld(t, forward.Config{RetryShare: -1, HedgeShare: -1}, node{"near", fails(status.Error(codes.Unavailable, "broken"))}, node{"far", counted(&far, answers("x"))})
	_, err := w.call(t.Context(), requestOffer, nil)
	wantStatus(t, err, codes.Unavailable, "UPSTREAM_UNREACHABLE")
	if far.Load() != 0 {
		t.Errorf("far was asked")
	}
}

// A node without units is healthy: the search for units elsewhere must not end because many look for them.
func TestARefusalOfAHealthyNodeCostsNoBudget(t *testing.T) {
	var far atomic.Int32
	none := fails(typed(codes.ResourceExhausted, "NO_UNIT_HERE"))
	w := newWorld(t, forward.Config{RetryShare: -1, HedgeShare: -1}, node{"near", none}, node{"far", counted(&far, none)})
	for range 600 {
		_, err := w.call(t.Context(), redeemOffer, nil)
		wantStatus(t, err, codes.ResourceExhausted, "NO_UNIT_HERE")
	}
	if far.Load() != 600 {
		t.Errorf("far was asked %d times, want 600", far.Load())
	}
}

func TestAShedWithoutATimeGetsOne(t *testing.T) {
	for _, near := range []error{typed(codes.ResourceExhausted, "OVERLOADED"), status.Error(codes.ResourceExhausted, "slow down")} {
		w := newWorld(t, forward.Config{}, node{"near", fails(near)})
		_, err := w.call(t.Context(), requestOffer, nil)
		wantStatus(t, err, codes.ResourceExhausted, "OVERLOADED")
		if wait, ok := rpcerr.Retry(err); !ok || wait <= 0 {
			t.Errorf("%v: got retry after %v, %v", near, wait, ok)
		}
	}
}

// Two regions that die in the same instant.
func TestAThirdNodeIsAskedWhenNothingWasHeard(t *testing.T) {
	broken := fails(status.Error(codes.Unavailable, "broken"))
	noUnit := fails(typed(codes.ResourceExhausted, "NO_UNIT_HERE"))
	for _, tt := range []struct {
		rule   string
		method string
		middle grpc.StreamHandler
		change func(*world)
		code   codes.Code
	}{
		{rule: "an offer", method: requestOffer, middle: broken},
		{rule: "a redemption: the token makes it once", method: redeemOffer, middle: broken},
		{rule: "a stream", method: watchDrops, middle: broken},
		{rule: "not if somebody answered", method: redeemOffer, middle: noUnit, code: codes.ResourceExhausted},
		{rule: "not what may not be sent twice", method: redeemOffer, middle: broken, change: func(w *world) { w.Forbid(redeemOffer) }, code: codes.Unavailable},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			w := newWorld(t, forward.Config{HedgeShare: -1}, node{"near", broken}, node{"middle", tt.middle}, node{"far", answers("far")}, node{"last", answers("last")})
			if tt.change != nil {
				tt.change(w)
			}
			got, err := w.call(t.Context(), tt.method, nil)
			if status.Code(err) != tt.code || tt.code == codes.OK && string(got) != "far" {
				t.Errorf("got %q and %v, want code %v", got, err, tt.code)
			}
		})
	}
}

func TestAThirdNodeIsAskedInsideTheDeadlineOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far, cancelled atomic.Int32
		silent := after(time.Hour, &cancelled, answers("x"))
		w := newWorld(t, forward.Config{HedgeShare: -1}, node{"near", silent}, node{"middle", silent}, node{"far", counted(&far, silent)}, node{"last", counted(&far, silent)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := w.call(ctx, requestOffer, nil)
		wantStatus(t, err, codes.DeadlineExceeded, "DEADLINE_EXCEEDED")
		if took := time.Since(start); took > time.Second || far.Load() != 1 {
			t.Errorf("%d further nodes were asked, and it took %v", far.Load(), took)
		}
		synctest.Wait()
	})
}

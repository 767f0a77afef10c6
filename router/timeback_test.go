package router_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/router"
)

// centre is fulfillment, which takes reports after its first failures.
type centre struct {
	mu    sync.Mutex
	fails int
	hangs bool
	got   []*fulfillmentv1.ReportDelayRequest
}

func (c *centre) ReportDelay(ctx context.Context, r *fulfillmentv1.ReportDelayRequest, _ ...grpc.CallOption) (*fulfillmentv1.ReportDelayResponse, error) {
	c.mu.Lock()
	hangs, fails := c.hangs, c.fails > 0
	if fails {
		c.fails--
	} else if !hangs {
		c.got = append(c.got, r)
	}
	c.mu.Unlock()
	switch {
	case hangs:
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case fails:
		return nil, status.Error(codes.Unavailable, "away")
	}
	return &fulfillmentv1.ReportDelayResponse{Extra: r.GetDelay()}, nil
}

func (c *centre) reports() []*fulfillmentv1.ReportDelayRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

func TestWhatLateAnswersCostIsReported(t *testing.T) {
	for name, c := range map[string]*centre{"a centre that answers": {}, "a centre that is away for a while": {fails: 3}} {
		t.Run(name, func(t *testing.T) {
			inFleetWith(t, func(_ *router.Config, d *router.Deps) { d.TimeBack = c }, func(t *testing.T, f *fleet) {
				f.reads(t, 6*time.Second)
				if got := c.reports(); len(got) != 0 {
					t.Fatalf("a healthy fleet reports %v", got)
				}
				for _, r := range f.regions {
					r.slowDown(300 * ms)
				}
				f.reads(t, 8*time.Second)
				for _, r := range f.regions {
					r.slowDown(0)
				}
				f.reads(t, 12*time.Second)
				s := f.slips(t, "r1")["SLIP_RULE_SLIDING 01890a5d-ac96-774b-bcce-b302099a8057"]
				if lost := s.GetTimeLost().AsDuration(); lost < 6*time.Second || lost > 9*time.Second || s.GetEndTime() == nil {
					t.Errorf("eight late seconds cost %v: %v", lost, s)
				}
				most := time.Duration(0)
				for _, r := range c.reports() {
					most = max(most, r.GetDelay().AsDuration())
					if r.GetDropId() != s.GetDropId() || r.GetSlipId() == "" || r.GetCause() != "service" {
						t.Errorf("got %v", r)
					}
				}
				if most < 6*time.Second || most > 9*time.Second {
					t.Errorf("%v were reported", most)
				}
			})
		})
	}
}

func TestACentreThatHangsHoldsNobodyUp(t *testing.T) {
	c := &centre{hangs: true}
	inFleetWith(t, func(_ *router.Config, d *router.Deps) { d.TimeBack = c }, func(t *testing.T, f *fleet) {
		for _, r := range f.regions {
			r.slowDown(300 * ms)
		}
		f.reads(t, 8*time.Second)
		s := f.slips(t, "r1")["SLIP_RULE_SLIDING 01890a5d-ac96-774b-bcce-b302099a8057"]
		if s == nil || time.Since(s.GetStartTime().AsTime()) < 5*time.Second {
			t.Errorf("got %v", s)
		}
	})
}

package router_test

import (
	"context"
	"sync"
	"testing"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

func (r *regionNode) slowDown(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slow = d
}

// reads lets viewers of both routers read for a while, a call of each every 100 ms, however long the answers take.
//
//rimlight:bubble it plays in virtual time
func (f *fleet) reads(t *testing.T, during time.Duration) {
	var reading sync.WaitGroup
	defer reading.Wait()
	for range during / (100 * ms) {
		for _, name := range []string{"r1", "r2"} {
			reading.Go(func() {
				_, err := f.viewer[name].GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{Hints: &offerv1.RoutingHints{DropId: "01890a5d-ac96-774b-bcce-b302099a8057"}})
				if err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(100 * ms)
	}
}

func (f *fleet) slips(t *testing.T, router string) map[string]*routerv1.Slip {
	resp, err := f.routers[router].ListSlips(t.Context(), &routerv1.ListSlipsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetSilentRouters()) != 1 || resp.GetSilentRouters()[0] != "r3" {
		t.Errorf("%s is silent, want r3", resp.GetSilentRouters())
	}
	byName := map[string]*routerv1.Slip{}
	for _, s := range resp.GetSlips() {
		byName[s.GetRule().String()+" "+s.GetFlow()+s.GetRegion()+s.GetDropId()] = s
	}
	return byName
}

// How a slip that lasts is now is told as it is now, although that is no news to who watches.
func TestASlipThatLastsTellsOfNow(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.reads(t, 6*time.Second)
		f.regions["near"].slowDown(time.Second)
		better := 0
		for range 40 {
			f.reads(t, 250*ms)
			resp, err := f.admin.ListSlips(t.Context(), &routerv1.ListSlipsRequest{ActiveOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			now := map[string]float64{}
			for _, w := range resp.GetWindows() {
				if w.GetScope() == routerv1.SlipScope_SLIP_SCOPE_REGION {
					now[w.GetName()] = w.GetLateShare()
				}
			}
			for _, s := range resp.GetSlips() {
				if s.GetShareAfter() != now["near"] {
					t.Errorf("it tells of %v now, and the window of %v", s.GetShareAfter(), now["near"])
				}
				if s.GetShareAfter() < s.GetWorstShare() {
					better++
				}
			}
		}
		if better == 0 {
			t.Error("it was never better while it lasted: the test shows nothing")
		}
	})
}

// A region that the routers cover up for is a slip of the region, and of nobody else.
func TestARegionThatOthersMakeGoodForSlips(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.reads(t, 6*time.Second)
		if got := f.slips(t, "r1"); len(got) != 0 {
			t.Fatalf("got %v of a healthy fleet", got)
		}
		f.regions["near"].slowDown(time.Second)
		f.reads(t, 5*time.Second)
		for _, name := range []string{"r1", "r2"} { // each has too few late calls to know by itself
			got := f.slips(t, name)
			s := got["SLIP_RULE_SLIDING near"]
			if s == nil {
				t.Fatalf("%s tells of no slip", name)
			}
			if len(got) != 1 || s.GetCause() != routerv1.SlipCause_SLIP_CAUSE_SERVICE || s.GetShareBefore() != 0 || s.GetWorstShare() <= 0.05 ||
				s.GetEndTime() != nil || len(s.GetDecisionIds()) == 0 {
				t.Errorf("%s tells %v", name, got)
			}
			if _, err := f.admin.ExplainDecision(t.Context(), &routerv1.ExplainDecisionRequest{DecisionId: s.GetDecisionIds()[0]}); err != nil {
				t.Errorf("the example cannot be explained: %v", err)
			}
		}
		f.regions["near"].slowDown(0)
		f.reads(t, 12*time.Second)
		if s := f.slips(t, "r1")["SLIP_RULE_SLIDING near"]; s.GetEndTime() == nil || s.GetShareAfter() > 0.05 {
			t.Errorf("got %v, want it to be over", s)
		}
	})
}

func TestLateAnswersSlipTheirFlowAndDrop(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		for _, r := range f.regions {
			r.slowDown(300 * ms)
		}
		f.reads(t, 3*time.Second)
		got := f.slips(t, "r2")
		for _, want := range []string{"SLIP_RULE_SLIDING GetPurchase", "SLIP_RULE_SLIDING 01890a5d-ac96-774b-bcce-b302099a8057"} {
			if s := got[want]; s.GetWorstShare() != 1 || s.GetExplanation() == "" {
				t.Errorf("%s: got %v", want, s)
			}
		}
		resp, err := f.admin.ListSlips(t.Context(), &routerv1.ListSlipsRequest{PageSize: 1})
		if err != nil || len(resp.GetSlips()) != 1 || resp.GetNextPageToken() == "" || len(resp.GetWindows()) < 3 {
			t.Errorf("got %v and %v", resp, err)
		}
	})
}

func TestWatchSlipsResumes(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		ctx, leave := context.WithCancel(t.Context())
		stream, err := f.admin.WatchSlips(ctx, &routerv1.WatchSlipsRequest{ResumeToken: "another life:7"})
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil || first.GetSnapshot() == nil || len(first.GetSnapshot().GetSlips()) != 0 {
			t.Fatalf("got %v and %v, want an empty snapshot", first, err)
		}
		leave() // the browser's tab sleeps
		f.reads(t, 3*time.Second)
		f.regions["near"].slowDown(time.Second)
		f.reads(t, 5*time.Second)
		for token, wantSnapshot := range map[string]bool{first.GetResumeToken(): false, "": true} {
			ctx, leave := context.WithCancel(t.Context())
			stream, err := f.admin.WatchSlips(ctx, &routerv1.WatchSlipsRequest{ResumeToken: token})
			if err != nil {
				t.Fatal(err)
			}
			m, err := stream.Recv()
			if err != nil || (m.GetSnapshot() != nil) != wantSnapshot || m.GetChanged().GetRegion() != map[bool]string{false: "near"}[wantSnapshot] {
				t.Errorf("resumed with %q: got %v and %v", token, m, err)
			}
			leave()
		}
	})
}

func TestListDecisionsOfARegionAndFailedOnes(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.read(t, "r1")
		for region, want := range map[string]int{"near": 1, "far": 0, "": 1} {
			got, err := f.admin.ListDecisions(t.Context(), &routerv1.ListDecisionsRequest{Region: region})
			if err != nil || len(got.GetDecisions()) != want {
				t.Errorf("of %q: got %d and %v, want %d", region, len(got.GetDecisions()), err, want)
			}
		}
		if got, err := f.admin.ListDecisions(t.Context(), &routerv1.ListDecisionsRequest{FailedOnly: true}); err != nil || len(got.GetDecisions()) != 0 {
			t.Errorf("got %v and %v of no failures", got, err)
		}
	})
}

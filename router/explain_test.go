package router_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

func TestExplainDecision(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		for _, maker := range []string{"r1", "r2"} { // r1 is asked for both
			id := f.read(t, maker)
			got, err := f.admin.ExplainDecision(t.Context(), &routerv1.ExplainDecisionRequest{DecisionId: id})
			if err != nil {
				t.Fatal(err)
			}
			d := got.GetDecision()
			if d.GetDecisionId() != id || d.GetRouter() != maker || len(d.GetChoices()) != 1 || len(d.GetAttempts()) != 1 ||
				d.GetAttempts()[0].GetRegion() != "near" || d.GetChoices()[0].GetRegime() != routerv1.Regime_REGIME_NORMAL ||
				len(d.GetChoices()[0].GetCandidates()) != 2 || !strings.HasPrefix(d.GetChoices()[0].GetExplanation(), "near is expected") {
				t.Errorf("got %v", d)
			}
		}
		for id, want := range map[string]string{
			"r1/nothing": "DECISION_NOT_FOUND", "r2/nothing": "DECISION_NOT_FOUND", "r9/nothing": "DECISION_NOT_FOUND", "nonsense": "DECISION_NOT_FOUND",
		} {
			_, err := f.admin.ExplainDecision(t.Context(), &routerv1.ExplainDecisionRequest{DecisionId: id})
			wantStatus(t, err, codes.NotFound, want)
		}
		_, err := f.admin.ExplainDecision(t.Context(), &routerv1.ExplainDecisionRequest{DecisionId: "r3/nothing"})
		wantStatus(t, err, codes.Unavailable, "UPSTREAM_UNREACHABLE")
	})
}

func TestSimulateDecision(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		for _, maker := range []string{"r1", "r2"} { // r1 is asked for both
			id := f.read(t, maker)
			for _, tt := range []struct {
				change *routerv1.RegionChange
				want   string
			}{
				{nil, "near"},
				{&routerv1.RegionChange{Region: "near", Drained: true}, "far"},
				{&routerv1.RegionChange{Region: "near", Slower: durationpb.New(time.Second)}, "far"},
				{&routerv1.RegionChange{Region: "near", WithoutStock: true}, "near"}, // it is a read
				{&routerv1.RegionChange{Region: "far", Drained: true}, "near"},
			} {
				q := &routerv1.SimulateDecisionRequest{DecisionId: id}
				if tt.change != nil {
					q.Changes = append(q.Changes, tt.change)
				}
				got, err := f.admin.SimulateDecision(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if got.GetActual().GetRegion() != "near" || got.GetSimulated().GetRegion() != tt.want || got.GetSimulated().GetExplanation() == "" {
					t.Errorf("%v: got %v, want %s", tt.change, got, tt.want)
				}
			}
			_, err := f.admin.SimulateDecision(t.Context(), &routerv1.SimulateDecisionRequest{
				DecisionId: id, Changes: []*routerv1.RegionChange{{Region: "atlantis", Drained: true}},
			})
			wantStatus(t, err, codes.NotFound, "REGION_NOT_FOUND")
		}
		_, err := f.admin.SimulateDecision(t.Context(), &routerv1.SimulateDecisionRequest{DecisionId: "r1/nothing"})
		wantStatus(t, err, codes.NotFound, "DECISION_NOT_FOUND")
	})
}

func TestListDecisionsNewestFirst(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		var want []string
		for range 5 {
			want = append([]string{f.read(t, "r1")}, want...)
		}
		var got []string
		request := &routerv1.ListDecisionsRequest{PageSize: 2}
		for {
			page, err := f.admin.ListDecisions(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page.GetDecisions() {
				got = append(got, d.GetDecisionId())
			}
			f.read(t, "r1") // newer ones do not shift the pages
			if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
				break
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("got %v, want %v", got, want)
		}
		none, err := f.admin.ListDecisions(t.Context(), &routerv1.ListDecisionsRequest{MinTotal: durationpb.New(time.Hour)})
		if err != nil || len(none.GetDecisions()) != 0 {
			t.Errorf("got %v and %v", none, err)
		}
	})
}

package forward_test

import (
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

// farthest is a policy that no product has.
type farthest struct {
	mu    sync.Mutex
	heard []string
}

func (f *farthest) Pick(s *arbiter.Snapshot, r arbiter.Request, _ float64) arbiter.Choice {
	for _, g := range slices.Backward(s.Regions) {
		if !slices.Contains(r.Tried, g.Key) {
			return arbiter.Choice{Region: g, Others: len(s.Regions) - len(r.Tried) - 1}
		}
	}
	return arbiter.Choice{Regime: arbiter.None}
}

func (f *farthest) hear(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard = append(f.heard, what)
}

func (f *farthest) Sent(key string)                    { f.hear("sent " + key) }
func (f *farthest) Done(key string, o measure.Outcome) { f.hear(o.Verdict.String() + " " + key) }

func TestAnotherPolicyChoosesAndHearsOfEveryAttempt(t *testing.T) {
	p := &farthest{}
	w := newWorldWith(t, forward.Config{HedgeShare: -1}, p, node{"near", answers("near")}, node{"far", fails(status.Error(codes.Unavailable, "broken"))})
	if got, err := w.call(t.Context(), requestOffer, nil); err != nil || string(got) != "near" {
		t.Errorf("got %q and %v", got, err)
	}
	if want := []string{"sent far", "broken far", "sent near", "good near"}; !slices.Equal(p.heard, want) {
		t.Errorf("heard %q, want %q", p.heard, want)
	}
}

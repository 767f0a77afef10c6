package arbiter_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
)

func TestWhatIf(t *testing.T) {
	offer := arbiter.Request{Kind: arbiter.Offer, Drop: "d"}
	near := node("near", 20*ms)
	s := snapshot(near, node("near", 21*ms), node("far", 80*ms))
	for _, tt := range []struct {
		rule    string
		changes []arbiter.Change
		want    string
	}{
		{"nothing changes", nil, "near"},
		{"the region is drained", []arbiter.Change{{Region: "near", Drained: true}}, "far"},
		{"it is slower", []arbiter.Change{{Region: "near", Slower: 70 * ms}}, "far"},
		{"it is a little slower", []arbiter.Change{{Region: "near", Slower: 10 * ms}}, "near"},
		{"it has no unit", []arbiter.Change{{Region: "near", WithoutStock: true}}, "far"},
		{"both are slower", []arbiter.Change{{Region: "near", Slower: 70 * ms}, {Region: "far", Slower: time.Hour}}, "near"},
		{"somebody unknown changes", []arbiter.Change{{Region: "atlantis", Drained: true}}, "near"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got := name(arbiter.Pick(s.With("d", tt.changes...), offer, 0.5)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if near.Mode != arbiter.Serving || near.Service != 2*ms || near.Stock["d"] != arbiter.StockHeld {
				t.Errorf("the snapshot itself changed: %+v", near)
			}
		})
	}
}

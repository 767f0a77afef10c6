package stock_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/stock"
)

func TestClaimsEnd(t *testing.T) {
	over := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	const skew, window = 2 * time.Second, 10 * time.Minute
	for name, c := range map[string]struct{ quarantine, want time.Time }{
		"a node that was fenced while the drop was open sells until it is over": {over.Add(-time.Minute), over.Add(skew + window)},
		"a node that came back later is waited for from then":                   {over.Add(time.Hour), over.Add(time.Hour + window)},
		"its clock may be behind":                                               {over.Add(time.Second), over.Add(skew + window)},
	} {
		if got := stock.ClaimsEnd(c.quarantine, over, skew, window); !got.Equal(c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

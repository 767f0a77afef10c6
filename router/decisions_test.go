package router

import (
	"strconv"
	"testing"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
)

func TestTheLastDecisionsAreKept(t *testing.T) {
	d := newDecisions()
	const made = keptDecisions + 100
	for i := range made {
		region := &arbiter.Region{Key: []string{"a", "a", "a", "b"}[i%4]}
		d.add(&forward.Decision{ID: strconv.Itoa(i), Attempts: []forward.Attempt{
			{Choice: arbiter.Choice{Region: &arbiter.Region{Key: "lost"}}}, {Choice: arbiter.Choice{Region: region}}}})
	}
	if d.find("99") != nil || d.find("100").ID != "100" || d.find(strconv.Itoa(made-1)) == nil {
		t.Error("want exactly the last 4,096")
	}
	if len(d.byID) != keptDecisions {
		t.Errorf("%d ids are indexed", len(d.byID))
	}
	all, more := d.list(-1, made, func(*forward.Decision) bool { return true })
	if len(all) != keptDecisions || more != 0 || all[0].ID != strconv.Itoa(made-1) || all[len(all)-1].ID != "100" {
		t.Errorf("got %d from %s to %s, more %d", len(all), all[0].ID, all[len(all)-1].ID, more)
	}
	if s := d.shares(); len(s) != 2 || s["a"] != 0.75 || s["b"] != 0.25 { // by the last attempt
		t.Errorf("got shares %v", s)
	}
}

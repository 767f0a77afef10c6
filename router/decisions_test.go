package router

import (
	"strconv"
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/slo"
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

// What keeping and counting a finished call costs: the whole is what every viewer's call pays besides being forwarded.
func BenchmarkRecord(b *testing.B) {
	region := &arbiter.Region{Key: "tokyo@a:1", Name: "tokyo"}
	call := forward.Decision{
		ID: "r1/x", Flow: "RequestOffer", Drop: "d1", Ours: 40 * time.Millisecond, Total: 40 * time.Millisecond,
		Attempts: []forward.Attempt{{Choice: arbiter.Choice{Region: region}, Duration: 40 * time.Millisecond, Residence: 2 * time.Millisecond}},
	}
	b.Run("decision", func(b *testing.B) {
		d := newDecisions()
		b.ReportAllocs()
		for b.Loop() {
			d.add(&call)
		}
	})
	b.Run("slo", func(b *testing.B) {
		w := newWatcher(slo.Config{}, nil)
		b.ReportAllocs()
		for b.Loop() {
			w.record(&call)
		}
	})
}

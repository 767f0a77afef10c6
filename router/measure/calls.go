package measure

import (
	"log/slog"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
)

// Verdict is what a call's end says about the node.
type Verdict uint8

// The verdicts.
const (
	Good    Verdict = iota // it answered, be it with a refusal
	Failed                 // it answered, and could not do its work: lowers the success rate
	Broken                 // no answer: lowers the success rate, and three in a row mean unreachable
	Ignored                // the caller went away or asked for nonsense: says nothing
)

// String is the verdict in the words of the metrics.
func (v Verdict) String() string { return [...]string{"good", "failed", "broken", "ignored"}[v] }

// Outcome is how one call at a node went.
type Outcome struct {
	Verdict Verdict
	// Total is from sending the request to the answer; 0 when that says nothing about the node (streams).
	Total time.Duration
	// Load came with the answer; nil when none did.
	Load *regionv1.LoadReport
	// OutOfStock names the drop of which the node said that it has no unit; believed until its next probe.
	OutOfStock string
	// Late tells that this is a second word about a call: a stream that broke after its first message.
	Late bool
	// Draining tells that the node refuses new work; believed until gossip or a probe tells otherwise.
	Draining bool
}

// Begin counts a call that is being sent to a node, so that the next pick sees it in the node's queue, until its Observe
// or a newer report of the node.
func (t *Table) Begin(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.entries[key]; ok {
		e.sent++
		t.touch(e)
	}
}

// Observe takes in how a call went, once per Begin but for Late ones. Calls of targets that are gone are ignored.
func (t *Table) Observe(key string, o Outcome) {
	if target, reachable, changed := t.observe(key, o); changed {
		t.tell(target, reachable)
	}
}

func (t *Table) observe(key string, o Outcome) (target Target, reachable, changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	if !ok {
		return Target{}, false, false
	}
	t.metrics.calls.WithLabelValues(e.target.Region, o.Verdict.String()).Inc()
	before := e.state()
	e.observe(t.now(), o)
	if o.Verdict == Good {
		e.lastAnswer = t.deps.Now()
	}
	t.changed(e, before)
	return e.target, e.reachable, e.reachable != before.reachable
}

// tell logs a change of reachability. It must not hold the mutex: a log may block.
func (t *Table) tell(target Target, reachable bool) {
	t.deps.Log.Info("region node changed reachability", slog.String("region", target.Region),
		slog.String("address", target.Address), slog.Bool("reachable", reachable))
}

// changed publishes at once when a node's state is another one, else soon.
func (t *Table) changed(e *entry, before state) {
	if after := e.state(); after != before {
		if after.reachable != before.reachable {
			t.metrics.transitions.WithLabelValues(e.target.Region, transition(after.reachable)).Inc()
		}
		e.stale = true
		t.publish()
		return
	}
	t.touch(e)
}

func (t *Table) touch(e *entry) {
	e.stale = true
	notify(t.dirty)
}

// publish builds the next snapshot; rows of unchanged entries are shared with the last one. Needs the mutex.
func (t *Table) publish() {
	now := t.now()
	t.version++
	s := &arbiter.Snapshot{Version: t.version, Time: time.Now(), Regions: make([]*arbiter.Region, 0, len(t.entries))}
	for _, e := range t.sorted() {
		if e.stale || e.row == nil {
			e.row, e.stale = e.region(now), false
		}
		s.Regions = append(s.Regions, e.row)
	}
	t.snapshot.Store(s)
}

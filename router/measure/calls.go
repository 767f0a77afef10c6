package measure

import (
	"log/slog"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
)

// Verdict is what a call's end says about the node.
type Verdict = arbiter.Verdict

// The verdicts.
const (
	Good    = arbiter.Good    // it answered, be it with a refusal
	Failed  = arbiter.Failed  // it answered, and could not do its work: three in a row, or half of 20, eject it
	Broken  = arbiter.Broken  // no answer: lowers the success rate, and three in a row mean unreachable
	Ignored = arbiter.Ignored // the caller went away or asked for nonsense: says nothing
	Shed    = arbiter.Shed    // it is too busy: lowers the success rate
	Outrun  = arbiter.Outrun  // it is late and another node answered first: it still owes its answer
)

// Outcome is how one call at a node went.
type Outcome struct {
	Verdict Verdict
	// Sent is what Begin returned.
	Sent time.Duration
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
	// JournalFull tells that the node's disk is full; believed until its next probe.
	JournalFull bool
}

// Begin counts a call that is being sent to a node, so that the next pick sees it in the node's queue, until its Observe
// or a report of the node that must have counted it. An awaited one makes the node suspect when its answer is overdue;
// streams are not awaited. What it returns goes into the call's Outcome.
func (t *Table) Begin(key string, awaited bool) (sent time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if e, ok := t.entries[key]; ok {
		e.node.Send(now, awaited)
		t.touch(e)
	}
	return now
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
	t.metrics.called(e, o.Verdict)
	now := t.now()
	before := e.state(now)
	if !e.observe(now, o) {
		t.metrics.nonsense.WithLabelValues(e.target.Region).Inc()
	}
	if o.Verdict == Good {
		e.lastAnswer = t.deps.Now()
	}
	after := t.changed(now, e, before)
	return e.target, after.reachable, after.reachable != before.reachable
}

// tell logs a change of reachability. It must not hold the mutex: a log may block.
func (t *Table) tell(target Target, reachable bool) {
	t.deps.Log.Info("region node changed reachability", slog.String("region", target.Region),
		slog.String("address", target.Address), slog.Bool("reachable", reachable))
}

// changed publishes at once when a node's state is another one, else soon. It returns the new state.
func (t *Table) changed(now time.Duration, e *entry, before state) state {
	after := e.state(now)
	if after == before {
		t.touch(e)
		return after
	}
	t.metrics.count(e.target.Region, before, after)
	notify(e.kick)
	e.stale = true
	t.publish()
	return after
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
	restless := false // time alone will change the picture: the next one is due although nothing happens
	for _, e := range t.sorted() {
		if e.stale || e.row == nil || e.watched {
			was := e.row
			e.row, e.stale = e.region(now), false
			e.watched = e.node.Watched(now)
			if e.row.Suspect && !(was != nil && was.Suspect) {
				t.metrics.suspicions.WithLabelValues(e.target.Region).Inc()
				notify(e.kick)
			}
		}
		restless = restless || e.watched
		s.Regions = append(s.Regions, e.row)
	}
	t.snapshot.Store(s)
	if restless {
		notify(t.dirty)
	}
}

package measure

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
)

// entry is one target's state. The table's mutex guards it.
type entry struct {
	key    string
	target Target
	node   *arbiter.Node
	mode   arbiter.Mode
	full   bool          // its disk is, by its last word
	probed bool          // the first probe is over, however it ended
	kick   chan struct{} // its state changed: the next probe is due now

	answer *regionv1.ProbeResponse // the last good one; nil of a foreign backend
	stock  map[string]arbiter.Stock

	lastAnswer time.Time
	lastError  string

	row     *arbiter.Region // as last published
	stale   bool            // row is behind
	watched bool            // time alone may change it

	counted [arbiter.Verdicts]prometheus.Counter // the calls of its region; nil until the first with that verdict
}

// state is what a snapshot must not show late.
type state struct {
	reachable, ejected, suspect, full bool
	mode                              arbiter.Mode
}

func newEntry(target Target, cold bool) *entry {
	return &entry{
		key: target.Key(), target: target, mode: target.Mode, node: arbiter.NewNode(cold), kick: make(chan struct{}, 1), stale: true,
	}
}

func (e *entry) state(now time.Duration) state {
	var r arbiter.Region
	e.node.Measure(now, &r)
	return state{r.Reachable, r.Ejected, r.Suspect, e.full, e.mode}
}

func (e *entry) retarget(target Target) {
	if target.Mode != e.target.Mode { // gossip has news; else the node's own word is the newer one
		e.mode = target.Mode
	}
	e.target, e.stale = target, true
}

func (e *entry) setMode(mode arbiter.Mode) bool {
	differs := e.mode != mode
	e.mode = mode
	e.stale = e.stale || differs
	return differs
}

// answered takes in a good probe and tells whether the node's figures made sense.
func (e *entry) answered(now, total time.Duration, answer *regionv1.ProbeResponse) bool {
	e.lastError, e.answer = "", answer
	load, sane := loadOf(answer.GetLoad(), total)
	if answer != nil && load == nil {
		load = &arbiter.Load{}
	}
	e.node.Probed(now, total, load)
	if answer == nil {
		return true
	}
	e.mode, e.full = ModeOf(answer.GetMode()), answer.GetJournalFull()
	e.stock = make(map[string]arbiter.Stock, len(answer.GetStock()))
	for _, s := range answer.GetStock() {
		e.stock[s.GetDropId()] = arbiter.StockNone
		if s.GetUntouched() > 0 {
			e.stock[s.GetDropId()] = arbiter.StockHeld
		}
	}
	return sane
}

// missed takes in a failed probe.
func (e *entry) missed(err error) {
	e.lastError = err.Error()
	e.node.Lost()
}

// observe takes in a call's end and tells whether the node's figures made sense.
func (e *entry) observe(now time.Duration, o Outcome) bool {
	load, sane := loadOf(o.Load, o.Total)
	outcome := arbiter.Outcome{Verdict: o.Verdict, Elapsed: now - o.Sent, Load: load}
	if o.Total > 0 {
		outcome.Elapsed, outcome.Timed = o.Total, o.Load == nil || o.Load.GetResidence() != nil
	}
	if o.Late {
		e.node.Heard(now, outcome)
	} else {
		e.node.Done(now, o.Sent, outcome)
	}
	if o.OutOfStock != "" && e.stock[o.OutOfStock] != arbiter.StockNone {
		stock := maps.Clone(e.stock) // the old map is in published rows
		if stock == nil {
			stock = map[string]arbiter.Stock{}
		}
		stock[o.OutOfStock] = arbiter.StockNone
		e.stock = stock
	}
	e.full = e.full || o.JournalFull
	if o.Draining && e.mode == arbiter.Serving {
		e.mode = arbiter.Cordoned // not drained: it may still redeem, and says so if not
	}
	return sane
}

// loadOf reads a report of a call that took total; nil stays nil.
func loadOf(r *regionv1.LoadReport, total time.Duration) (*arbiter.Load, bool) {
	if r == nil {
		return nil, true
	}
	load, sane := arbiter.Load{
		Residence: r.GetResidence().AsDuration(), Service: r.GetServiceTime().AsDuration(), InFlight: r.GetInFlight(),
		Parallelism: r.GetParallelism(), Arrivals: r.GetArrivalsPerSecond(),
	}.Sane(total)
	return &load, sane
}

// region is the entry as a row of a snapshot.
func (e *entry) region(now time.Duration) *arbiter.Region {
	r := &arbiter.Region{
		Key: e.key, Name: e.target.Region, NodeID: e.nodeID(), Zones: e.zones(), Mode: e.mode, Full: e.full, Stock: e.stock,
	}
	e.node.Measure(now, r)
	return r
}

func (e *entry) nodeID() string {
	if id := e.answer.GetNodeId(); id != "" {
		return id
	}
	return e.target.NodeID
}

func (e *entry) zones() []string {
	if z := e.answer.GetZones(); len(z) > 0 {
		return z
	}
	return e.target.Zones
}

// ModeOf translates a mode of the API; an unspecified one serves.
func ModeOf(mode regionv1.RegionMode) arbiter.Mode {
	switch mode {
	case regionv1.RegionMode_REGION_MODE_CORDONED:
		return arbiter.Cordoned
	case regionv1.RegionMode_REGION_MODE_DRAINED:
		return arbiter.Drained
	default:
		return arbiter.Serving
	}
}

// State is one target as people see it.
type State struct {
	Target     Target
	Row        arbiter.Region          // as now, not as last published
	Answer     *regionv1.ProbeResponse // the last good probe's; nil when there was none or the backend is foreign
	LastAnswer time.Time               // zero: never
	LastError  string                  // why the last probe failed; empty if it did not
}

// States lists all targets by region, then address.
func (t *Table) States() []State {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	states := make([]State, 0, len(t.entries))
	for _, e := range t.sorted() {
		states = append(states, State{e.target, *e.region(now), e.answer, e.lastAnswer, e.lastError})
	}
	return states
}

func (t *Table) sorted() []*entry {
	return slices.SortedFunc(maps.Values(t.entries), func(a, b *entry) int {
		if c := strings.Compare(a.target.Region, b.target.Region); c != 0 {
			return c
		}
		return strings.Compare(a.target.Address, b.target.Address)
	})
}

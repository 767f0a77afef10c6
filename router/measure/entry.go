package measure

import (
	"maps"
	"slices"
	"strings"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
)

// entry is one target's state. The table's mutex guards it.
type entry struct {
	key      string
	target   Target
	network  arbiter.Network
	service  arbiter.Service // of a backend that does not report its own
	outcomes *arbiter.Window

	mode      arbiter.Mode
	reachable bool
	probed    bool // the first probe is over, however it ended
	lost      int  // probes in a row that failed
	broken    int  // calls in a row that broke

	answer *regionv1.ProbeResponse // the last good one; nil of a foreign backend
	load   *regionv1.LoadReport    // the last one, from a probe or a call
	sent   uint32                  // calls sent since load was reported, and not over
	stock  map[string]arbiter.Stock

	lastAnswer time.Time
	lastError  string

	row   *arbiter.Region // as last published
	stale bool            // row is behind
}

// state is what a snapshot must not show late.
type state struct {
	reachable bool
	mode      arbiter.Mode
}

func newEntry(target Target) *entry {
	return &entry{key: target.Key(), target: target, mode: target.Mode, outcomes: arbiter.NewOutcomes(), stale: true}
}

func (e *entry) state() state { return state{e.reachable, e.mode} }

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

// answered takes in a good probe.
func (e *entry) answered(now, total time.Duration, answer *regionv1.ProbeResponse) {
	e.lost, e.broken, e.reachable, e.lastError = 0, 0, true, ""
	e.answer = answer
	if answer == nil {
		e.network.Observe(now, total, true)
		return
	}
	e.network.Observe(now, total-answer.GetLoad().GetResidence().AsDuration(), true)
	e.report(answer.GetLoad())
	e.mode = ModeOf(answer.GetMode())
	e.stock = make(map[string]arbiter.Stock, len(answer.GetStock()))
	for _, s := range answer.GetStock() {
		e.stock[s.GetDropId()] = arbiter.StockNone
		if s.GetUntouched() > 0 {
			e.stock[s.GetDropId()] = arbiter.StockHeld
		}
	}
}

// missed takes in a failed probe.
func (e *entry) missed(err error) {
	e.lost++
	e.lastError = err.Error()
	if e.lost >= failuresToUnreachable {
		e.reachable = false
	}
}

func (e *entry) observe(now time.Duration, o Outcome) {
	if e.sent > 0 && !o.Late {
		e.sent--
	}
	switch o.Verdict {
	case Ignored:
		return
	case Broken:
		e.outcomes.Add(now, false)
		if e.broken++; e.broken >= failuresToUnreachable {
			e.reachable = false
		}
		return
	case Failed:
		e.outcomes.Add(now, false)
	case Good:
		e.outcomes.Add(now, true)
	}
	e.broken, e.reachable = 0, true // it did answer
	e.report(o.Load)
	if o.Total > 0 {
		e.timed(now, o.Total, o.Load)
	}
	if o.OutOfStock != "" && e.stock[o.OutOfStock] != arbiter.StockNone {
		stock := maps.Clone(e.stock) // the old map is in published rows
		if stock == nil {
			stock = map[string]arbiter.Stock{}
		}
		stock[o.OutOfStock] = arbiter.StockNone
		e.stock = stock
	}
	if o.Draining && e.mode == arbiter.Serving {
		e.mode = arbiter.Cordoned // not drained: it may still redeem, and says so if not
	}
}

// timed splits a call's time into network and service. Without the node's word, the probes know the network.
func (e *entry) timed(now, total time.Duration, load *regionv1.LoadReport) {
	if load.GetResidence() != nil {
		e.network.Observe(now, total-load.GetResidence().AsDuration(), false)
	} else if e.answer == nil && e.network.Known() {
		e.service.Observe(now, total-e.network.Value())
	}
}

func (e *entry) report(load *regionv1.LoadReport) {
	if load != nil {
		e.load, e.sent = load, 0
	}
}

// region is the entry as a row of a snapshot.
func (e *entry) region(now time.Duration) *arbiter.Region {
	r := &arbiter.Region{
		Key: e.key, Name: e.target.Region, NodeID: e.nodeID(), Zones: e.zones(), Mode: e.mode, Stock: e.stock,
		Reachable: e.reachable, Network: e.network.Value(), Deviation: e.network.Deviation(),
		Service: e.service.Value(), SuccessRate: e.outcomes.Rate(now),
	}
	if e.load != nil {
		r.Service = e.load.GetServiceTime().AsDuration()
		r.Parallelism = e.load.GetParallelism()
		r.InFlight = e.load.GetInFlight() + e.sent
	}
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

package measure

import "time"

// Memory is what a table knew of a region: how far it is and how long its work takes. It is better than nothing until a
// node of the region answers, and counts for nothing from then on.
type Memory struct {
	Network time.Duration `json:"network_ns"` // there and back
	Service time.Duration `json:"service_ns"` // one call's work
}

// Memories is what is known now, by region: of its nodes that answer, the nearest one's figures.
func (t *Table) Memories() map[string]Memory {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	known := map[string]Memory{}
	for _, e := range t.entries {
		r := e.region(now)
		if m, there := known[r.Name]; r.Reachable && r.Network > 0 && (!there || r.Network < m.Network) {
			known[r.Name] = Memory{r.Network, r.Service}
		}
	}
	return known
}

// Remember takes in what a former process knew. Call it before Set.
func (t *Table) Remember(known map[string]Memory) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memories = known
}

// recall gives a new entry what another node of its region measured, else what is remembered. Needs the mutex.
func (t *Table) recall(e *entry) {
	for _, other := range t.entries {
		if n, _ := other.node.NetworkTime(); n > 0 && other.target.Region == e.target.Region {
			e.node.Remember(t.now(), n, other.region(t.now()).Service)
			return
		}
	}
	if m, there := t.memories[e.target.Region]; there {
		e.node.Remember(t.now(), m.Network, m.Service)
	}
}

// Hear takes in what another router measured, by region, with what asking it took there and back: the way over it is as
// long as a node's can be. It stands in for nodes of which nothing is known, until their first answer, and tells for how
// many it now does. It makes nobody reachable, suspect or ejected, and no probe sooner or shorter.
func (t *Table) Hear(way time.Duration, told map[string]Memory) (taken int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if way < 0 {
		return 0
	}
	now := t.now()
	for _, e := range t.entries {
		if m, there := told[e.target.Region]; there && m.Network > 0 && e.node.Hear(now, way+m.Network, m.Service) {
			t.touch(e)
			taken++
		}
	}
	return taken
}

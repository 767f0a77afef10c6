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

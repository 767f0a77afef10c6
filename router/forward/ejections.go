package forward

import (
	"sync"

	"google.golang.org/protobuf/proto"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

// ejections remembers what probes say of nodes that are ejected because their calls fail. An ejection that every probe
// contradicts and that the first call afterwards contradicts as well was probably wrong: it took capacity for nothing.
type ejections struct {
	mu      sync.Mutex
	healthy map[string]bool // by key, of the ejected: every probe since found the node well and not busy
}

func (e *ejections) probed(key string, healthy bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.healthy == nil {
		e.healthy = map[string]bool{}
	}
	before, known := e.healthy[key]
	e.healthy[key] = healthy && (before || !known)
}

// readmitted forgets an ejection and tells whether its probes contradicted it.
func (e *ejections) readmitted(key string) (contradicted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	contradicted = e.healthy[key]
	delete(e.healthy, key)
	return contradicted
}

// Probed takes in a probe's end: what was sent, and the answer, nil if the probe failed or the backend is foreign.
func (f *Forwarder) Probed(t measure.Target, sent *regionv1.ProbeRequest, answer *regionv1.ProbeResponse, err error) {
	f.metrics.probeBytes.WithLabelValues(t.Region, "sent").Add(float64(proto.Size(sent)))
	f.metrics.probeBytes.WithLabelValues(t.Region, "received").Add(float64(proto.Size(answer)))
	if g := row(f.deps.Measured.Snapshot(), t.Key()); g != nil && g.Ejected {
		busy := answer.GetLoad().GetInFlight() > answer.GetLoad().GetParallelism()
		f.ejections.probed(t.Key(), err == nil && !busy)
	}
}

// observe tells the measurements and the policy how an attempt ended.
func (f *Forwarder) observe(n *node, o measure.Outcome) {
	f.deps.Measured.Observe(n.region.Key, o)
	f.deps.Policy.Done(n.region.Key, o)
	// Nodes that warm up are few, so the lock is off the common path. An ejected one that is asked in panic is not back.
	if n.region.Held > 0 && !n.region.Ejected && o.Verdict != measure.Ignored && f.ejections.readmitted(n.region.Key) && o.Verdict == measure.Good {
		f.metrics.wrong.WithLabelValues(n.region.Name).Inc()
	}
}

// row finds a node in a snapshot; nil if it is gone.
func row(s *arbiter.Snapshot, key string) *arbiter.Region {
	for _, g := range s.Regions {
		if g.Key == key {
			return g
		}
	}
	return nil
}

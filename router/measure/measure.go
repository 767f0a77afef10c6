// Package measure keeps what a router knows about its region nodes and publishes it as immutable snapshots.
//
//	Set (targets) ---------------+
//	one probe loop per target ---+--> entries (under a mutex) --every 20 ms, if changed--> Snapshot (atomic pointer)
//	Begin, Observe (live calls) -+        at once when a node's state changes: silent, ejected, suspect, mode
//
// What a node's calls and probes mean is arbiter.Node's to say; the table feeds one per target, and publishes every 20 ms
// while an answer is due or a node warms up. Troubled nodes are probed five times as often.
//
// The table does not choose (router/arbiter does), does not dial (the Prober does) and never explores with a viewer's
// call: a new node gets calls once it answered a probe, a quarter of its share at first. Until a node answers,
// what a former process or another node of its region knew stands in (Memory).
package measure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
)

// Config is how often the table looks and how fast it gives up. The zero value takes every default.
type Config struct {
	// ProbeInterval is the time between the starts of two probes of one target, jittered by 10 %. Default 1 s. Half
	// doubles the idle traffic; double makes stock, mode and network twice as old when nobody calls.
	ProbeInterval time.Duration
	// FailingInterval is the same while the target's last probe failed, or it is unreachable, suspect, ejected or
	// warming up. Default 200 ms. It bounds how long a node that came back stays unused.
	FailingInterval time.Duration
	// ProbeTimeout is the longest that a probe may take, and what a target without a measured network time gets.
	// Default 1 s; must be above the longest round trip.
	ProbeTimeout time.Duration
	// PublishInterval is the least time between two snapshots that only differ in figures. Default 20 ms. Longer lets
	// more calls of a burst pick by the same picture.
	PublishInterval time.Duration
	// ReadyTimeout is how long Ready waits for the first probes. Default 400 ms, a round trip around the earth.
	ReadyTimeout time.Duration
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.ProbeInterval, time.Second},
		{&c.FailingInterval, 200 * time.Millisecond},
		{&c.ProbeTimeout, time.Second},
		{&c.PublishInterval, 20 * time.Millisecond},
		{&c.ReadyTimeout, 400 * time.Millisecond},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return c
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"ProbeInterval": c.ProbeInterval, "FailingInterval": c.FailingInterval, "ProbeTimeout": c.ProbeTimeout,
		"PublishInterval": c.PublishInterval, "ReadyTimeout": c.ReadyTimeout,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is negative", name, d))
		}
	}
	return errors.Join(errs...)
}

// Target is one region node as gossip or the flags describe it.
type Target struct {
	Region  string       // its region's name
	NodeID  string       // empty when the flags do not know it
	Address string       // where it serves
	Zones   []string     // residency zones; a probe's answer replaces them
	Mode    arbiter.Mode // as gossip announces it; whoever spoke last, gossip or the node itself, is believed
	Version string       // its program's version
	Suspect bool         // gossip doubts it: it is probed twice as often, and no worse for it
}

// Key names a target: one address of one region. A node that comes back at its address keeps its measurements.
func (t Target) Key() string { return t.Region + "@" + t.Address }

// Prober asks a target for its load, stock and mode. The answer is nil for a backend that is alive but does not know
// how to answer. An error is a failed probe. Implementations honour the context.
type Prober interface {
	Probe(ctx context.Context, t Target) (*regionv1.ProbeResponse, error)
	// Connect returns once there is a connection to probe over, or with why there is none. Its time is not measured.
	Connect(ctx context.Context, t Target) error
}

// Deps is what the table needs of others.
type Deps struct {
	Prober  Prober
	Now     func() time.Time // for stamps that people read
	Random  *rand.Rand       // jitter; the table's alone
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: nowhere
}

// Table is the measured state of all targets. Safe for concurrent use.
type Table struct {
	config  Config
	deps    Deps
	metrics metrics
	base    time.Time // of the steady clock

	snapshot atomic.Pointer[arbiter.Snapshot]
	retarget chan struct{} // Set was called
	dirty    chan struct{} // something worth publishing happened
	ready    chan struct{}

	mu       sync.Mutex
	entries  map[string]*entry
	memories map[string]Memory // by region
	version  int64
	isReady  bool
}

// New makes a table without targets. It starts nothing.
func New(config Config, deps Deps) (*Table, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	t := &Table{
		config: config.withDefaults(), deps: deps, metrics: newMetrics(deps.Metrics), base: time.Now(),
		retarget: make(chan struct{}, 1), dirty: make(chan struct{}, 1), ready: make(chan struct{}),
		entries: map[string]*entry{},
	}
	t.snapshot.Store(&arbiter.Snapshot{Time: time.Now()})
	return t, nil
}

// Snapshot is the newest published picture. It never blocks and never returns nil.
func (t *Table) Snapshot() *arbiter.Snapshot { return t.snapshot.Load() }

// Ready is closed once every target was probed once, or ReadyTimeout after Run started.
func (t *Table) Ready() <-chan struct{} { return t.ready }

// Set replaces the targets. Those whose Key stays keep their measurements.
func (t *Table) Set(targets []Target) {
	t.mu.Lock()
	wanted := make(map[string]bool, len(targets))
	for _, target := range targets {
		key := target.Key()
		wanted[key] = true
		if e, ok := t.entries[key]; ok {
			e.retarget(target)
		} else {
			e := newEntry(target, t.isReady)
			t.recall(e)
			t.entries[key] = e
		}
	}
	for key := range t.entries {
		if !wanted[key] {
			delete(t.entries, key)
		}
	}
	t.publish()
	t.mu.Unlock()
	notify(t.retarget)
}

// SetMode believes that a node is in a mode until gossip or a probe tells otherwise: an operator who just changed it
// through this router must not wait for the next probe.
func (t *Table) SetMode(key string, mode arbiter.Mode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.entries[key]; ok && e.setMode(mode) {
		t.publish()
	}
}

// now reads the steady clock.
func (t *Table) now() time.Duration { return time.Since(t.base) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one notice is waiting already
	}
}

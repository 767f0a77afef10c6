package measure

import (
	"context"
	"maps"
	"sync"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

// Run probes and publishes until the context ends, and returns when all of it has.
func (t *Table) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	defer loops.Wait()
	defer cancel()

	running := map[*entry]context.CancelFunc{} // the probe loops
	deadline := time.NewTimer(t.config.ReadyTimeout)
	defer deadline.Stop()
	pause := time.NewTimer(0) // over: the next figures may be published
	defer pause.Stop()
	dirty := t.dirty

	t.reconcile(ctx, &loops, running)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.retarget:
			t.reconcile(ctx, &loops, running)
		case <-deadline.C:
			t.mu.Lock()
			t.becomeReady()
			t.mu.Unlock()
		case <-dirty:
			t.mu.Lock()
			t.publish()
			t.mu.Unlock()
			dirty = nil
			pause.Reset(t.config.PublishInterval)
		case <-pause.C:
			dirty = t.dirty
		}
	}
}

// reconcile starts and stops probe loops so that every target has one.
func (t *Table) reconcile(ctx context.Context, loops *sync.WaitGroup, running map[*entry]context.CancelFunc) {
	t.mu.Lock()
	entries := maps.Clone(t.entries)
	t.mu.Unlock()
	for e, stop := range running {
		if entries[e.key] != e {
			stop()
			delete(running, e)
		}
	}
	for _, e := range entries {
		if running[e] == nil {
			loopCtx, stop := context.WithCancel(ctx)
			running[e] = stop
			loops.Go(func() { t.probeLoop(loopCtx, e) })
		}
	}
}

// probeLoop probes one target, at once and then for ever: at its interval, and when the calls changed its state.
func (t *Table) probeLoop(ctx context.Context, e *entry) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-e.kick:
		}
		start := time.Now()
		t.probe(ctx, e)
		timer.Reset(max(0, t.interval(e)-time.Since(start)))
	}
}

func (t *Table) probe(ctx context.Context, e *entry) {
	target, timeout := t.next(e)
	total, answer, err := t.ask(ctx, target, timeout)
	if ctx.Err() != nil {
		return // the target is gone or the router ends; the target is not to blame
	}

	if t.learn(e, total, answer, err) {
		t.tell(target, err == nil)
	}
}

// ask connects first, so that the two or three round trips of a handshake never pass for the network's time.
func (t *Table) ask(ctx context.Context, target Target, timeout time.Duration) (time.Duration, *regionv1.ProbeResponse, error) {
	connectCtx, cancel := context.WithTimeout(ctx, t.config.ProbeTimeout)
	defer cancel()
	if err := t.deps.Prober.Connect(connectCtx, target); err != nil {
		return 0, nil, err
	}
	probeCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	answer, err := t.deps.Prober.Probe(probeCtx, target)
	return time.Since(start), answer, err
}

// learn takes in a probe's result and tells whether the target's reachability changed.
func (t *Table) learn(e *entry, total time.Duration, answer *regionv1.ProbeResponse, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	before := e.state(now)
	if err != nil {
		t.metrics.probes.WithLabelValues(e.target.Region, "failed").Inc()
		e.missed(err)
	} else {
		t.metrics.probes.WithLabelValues(e.target.Region, "good").Inc()
		if !e.answered(now, total, answer) {
			t.metrics.nonsense.WithLabelValues(e.target.Region).Inc()
		}
		e.lastAnswer = t.deps.Now()
	}
	e.probed = true
	after := t.changed(now, e, before)
	select {
	case <-e.kick: // by this probe: it is its own news
	default:
	}
	allProbed := true
	for _, other := range t.entries {
		allProbed = allProbed && other.probed
	}
	if allProbed {
		t.becomeReady()
	}
	return after.reachable != before.reachable
}

// next is what to probe and how long to wait for it: a probe that takes several times the usual is lost.
func (t *Table) next(e *entry) (Target, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	timeout := t.config.ProbeTimeout
	if n, d := e.node.NetworkTime(); n > 0 {
		timeout = min(timeout, 2*n+8*d+t.config.FailingInterval)
	}
	return e.target, timeout
}

// interval is the time from one probe's start to the next one's, jittered so that routers do not march in step.
func (t *Table) interval(e *entry) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.config.ProbeInterval
	switch {
	case e.node.Troubled(t.now()):
		d = t.config.FailingInterval
	case e.target.Suspect:
		d /= 2
	}
	return time.Duration(float64(d) * (0.9 + 0.2*t.deps.Random.Float64()))
}

// becomeReady needs the mutex.
func (t *Table) becomeReady() {
	if !t.isReady {
		t.isReady = true
		close(t.ready)
	}
}

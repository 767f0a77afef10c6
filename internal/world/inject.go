package world

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rimlight/rimlight/region/journal"
)

// meetCommit is how long a crash at a commit waits for its commit before it gives up.
const meetCommit = 15 * time.Second

// causeFaults plays the plan's faults and returns when the last one is over and everything is up. What takes one host
// down is one after the other: a host that is still down when its next fault comes stays down for longer.
func (w *world) causeFaults(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, f := range w.plan.faults {
		if !f.downs() {
			running.Go(func() { w.cause(ctx, f) })
		}
	}
	for name, h := range w.hosts() {
		running.Go(func() {
			for _, f := range w.plan.faults {
				if f.downs() && f.Host == name && !w.takeDown(ctx, h, f) {
					return
				}
			}
		})
	}
}

// cause plays a fault that leaves its host running.
func (w *world) cause(ctx context.Context, f Fault) {
	if !w.sleepUntil(ctx, f.At) {
		return
	}
	w.watch.fault(string(f.Kind))
	end := func() { w.sleepUntil(ctx, f.At+f.For) }
	switch f.Kind {
	case Cut:
		w.net.Cut(f.Host, f.To)
		end()
		w.net.Heal(f.Host, f.To) // the same pair's other cut, if there is one, ends with it
	case Swizzle:
		w.swizzle(ctx, f)
	case Slow:
		w.weather.slow(f.Host, f.By)
		end()
		w.weather.slow(f.Host, -f.By)
	case Storm:
		w.weather.storm(f.Share)
		end()
		w.weather.storm(-f.Share)
	case Paused:
		w.pauseDrops(ctx, f)
	case LateAnswers:
		w.reportDelays(ctx, f)
	case NoPayments:
		w.weather.payments(1)
		end()
		w.weather.payments(-1)
	case Fence:
		w.fence(ctx, f)
	case FullDisk:
		w.fillDisk(ctx, f)
	case Replace, Copy:
		w.net.CutBoth(f.Host, "fulfillment")
		another := func() error { return w.replace(f.Host) }
		if f.Kind == Copy {
			another = func() error { return w.copyNode(f) }
		}
		if err := another(); err != nil {
			w.watch.surprise("%v", err)
		}
		end()
		w.net.HealBoth(f.Host, "fulfillment")
	case Step:
		clock := w.hosts()[f.Host].clock
		clock.set(f.By, 0)
		end()
		clock.set(0, 0)
	case Drift:
		clock := w.hosts()[f.Host].clock
		clock.set(0, f.By.Seconds()/max(f.For.Seconds(), 1e-3))
		end()
		clock.set(0, 0)
	}
}

// swizzle cuts and heals each link of a host at a time of its own.
func (w *world) swizzle(ctx context.Context, f Fault) {
	r := w.cfg.draws("swizzle "+f.Host, int(f.At))
	var links sync.WaitGroup
	defer links.Wait()
	for _, peer := range append([]string{"verifier", "fulfillment"}, w.cfg.Regions...) {
		for _, way := range [][2]string{{f.Host, peer}, {peer, f.Host}} {
			from, to := time.Duration(r.Int64N(int64(f.For)+1)), time.Duration(r.Int64N(int64(f.For)+1))
			links.Go(func() {
				w.sleepUntil(ctx, f.At+min(from, to))
				w.net.Cut(way[0], way[1])
				w.sleepUntil(ctx, f.At+max(from, to))
				w.net.Heal(way[0], way[1])
			})
		}
	}
}

// takeDown takes a host down and up again. false: it could not, or the world ends.
func (w *world) takeDown(ctx context.Context, h *host, f Fault) bool {
	var backup []byte
	if f.Kind == Restore {
		if !w.sleepUntil(ctx, f.At-f.By) {
			return false
		}
		var err error
		if backup, err = (*w.centre.database(h.name)).Image(ctx); err != nil {
			w.watch.surprise("backing %s up: %v", h.name, err)
			return false
		}
	}
	if !w.sleepUntil(ctx, f.At) {
		return false
	}
	switch f.Kind {
	case CrashBeforeCommit, CrashAfterCommit, BadSync:
		if sprung := h.lay(&trap{kind: f.Kind, left: max(f.Nth, 1), sprung: make(chan struct{})}); !waitFor(ctx, sprung, meetCommit) {
			h.lay(nil)
			return ctx.Err() == nil // the host wrote nothing
		}
		if f.Kind == BadSync { // it stops by itself
			<-h.ended
		}
	}
	w.watch.fault(string(f.Kind) + " of " + h.kind())
	from := time.Since(w.start)
	if err := h.down(f.Kind != Stop && f.Kind != Retire); err != nil {
		w.watch.surprise("stopping %s: %v", h.name, err)
	}
	if !w.sleepUntil(ctx, from+f.For) {
		return false
	}
	if f.Kind == Retire {
		if err := w.retire(ctx, w.nodeAt(h.name)); err != nil && ctx.Err() == nil {
			w.watch.surprise("retiring %s: %v", h.name, err)
			return false
		}
	}
	w.watch.down(Down{h.name, from, time.Since(w.start)})
	if f.Kind == Restore {
		if err := w.restore(ctx, h, backup); err != nil {
			w.watch.surprise("%v", err)
			return false
		}
	}
	if f.Kind == LoseDisk {
		if err := h.loseDisk(); err != nil {
			w.watch.surprise("%v", err)
			return false
		}
	}
	if err := h.start(); err != nil {
		w.watch.surprise("%v", err)
		return false
	}
	return true
}

func (h *host) kind() string {
	switch {
	case h.name == "verifier" || h.name == "fulfillment":
		return h.name
	case slices.Contains(Depots, h.name):
		return "depot"
	}
	return "node"
}

// trap waits for a commit of a host's store.
type trap struct {
	kind   Kind
	left   int // commits until it springs
	sprung chan struct{}
}

var (
	errPowerCut = errors.New("world: the power was cut")
	errBadSync  = errors.New("world: input/output error")
)

// lay replaces the host's trap.
func (h *host) lay(t *trap) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trap = t
	if t == nil {
		return nil
	}
	return t.sprung
}

// commit is asked by every store of a life before and after each commit. After the power was cut everything fails.
func (h *host) commit(life int, committed bool) error {
	h.mu.Lock()
	t := h.trap
	switch {
	case h.dead || life != h.life:
		h.mu.Unlock()
		return errPowerCut
	case t == nil || committed != (t.kind == CrashAfterCommit):
		h.mu.Unlock()
		return nil
	}
	if t.left--; t.left > 0 {
		h.mu.Unlock()
		return nil
	}
	h.trap = nil
	if t.kind == BadSync {
		h.failing = true
		h.mu.Unlock()
		close(t.sprung)
		return errBadSync
	}
	h.dead = true
	h.mu.Unlock()
	h.sim.Down() // nothing that it says from here on is heard
	close(t.sprung)
	return errPowerCut
}

// atStage is commit for journals.
func (h *host) atStage(life int) func(journal.Stage) error {
	return func(s journal.Stage) error {
		if slow := h.w.weather.delay(h.name); slow > 0 && s == journal.BeforeCommit {
			time.Sleep(slow) //rimlight:bubble a slow disk in virtual time
		}
		if err := h.w.room.atRoom(h.name, s); err != nil || s == journal.LookForRoom {
			return err
		}
		err := h.commit(life, s == journal.AfterCommit)
		if errors.Is(err, errPowerCut) {
			return journal.ErrClosed
		}
		return err
	}
}

// isDead tells whether the host lost its power, or ended itself as it should.
func (h *host) isDead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead || h.failing
}

// powerless tells whether the host lost its power.
func (h *host) powerless() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead
}

// clock is a host's, which may be wrong.
type clock struct {
	mu     sync.Mutex // guards what is below
	base   time.Duration
	offset time.Duration
	rate   float64 // seconds per second
	since  time.Time
}

func (c *clock) set(offset time.Duration, rate float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.rate, c.since = offset, rate, time.Now()
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	off := c.base + c.offset
	if c.rate != 0 {
		off += time.Duration(c.rate * float64(now.Sub(c.since)))
	}
	return now.Add(max(-maxSkew, min(off, maxSkew)))
}

// maxSkew bounds what the faults of one clock add up to: two clocks agree within the grace.
const maxSkew = 950 * time.Millisecond

// weather is what holds for the whole network, or for all of one host's links.
type weather struct {
	mu      sync.Mutex // guards what is below
	slowBy  map[string]time.Duration
	share   float64
	outages int
}

func (x *weather) slow(host string, by time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.slowBy == nil {
		x.slowBy = map[string]time.Duration{}
	}
	x.slowBy[host] += by
}

func (x *weather) delay(host string) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.slowBy[host]
}

func (x *weather) storm(share float64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.share += share
}

func (x *weather) stormy() float64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return max(x.share, 0)
}

func (x *weather) payments(outages int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.outages += outages
}

func (x *weather) paymentsFail() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.outages > 0
}

// waitFor waits for a channel to close, for some time at most.
func waitFor(ctx context.Context, done <-chan struct{}, patience time.Duration) bool {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// sleepUntil waits for a moment of the world's time; false when the world ends first.
func (w *world) sleepUntil(ctx context.Context, at time.Duration) bool {
	return sleep(ctx, time.Until(w.start.Add(at)))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

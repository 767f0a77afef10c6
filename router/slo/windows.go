package slo

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// Window is how far back the sliding window looks, in steps of width.
	Window = 5 * time.Second
	width  = 250 * time.Millisecond
	slots  = int(Window / width)

	// dropIdle is how long after its last call a drop is forgotten: longer than a drop may pause.
	dropIdle = 5 * time.Minute
	// regionIdle is the same of a region: as far back as its latencies look.
	regionIdle = time.Minute
	// keptLate is how many late calls are kept as examples.
	keptLate = 3
)

// most is how many windows of each scope are kept. A fleet has tens of regions and a few open drops; callers choose the
// drop's name, so it must be bounded.
var most = [scopes]int{Flow: 32, Region: 1024, Drop: 256}

// Windows are one router's counts. Safe for concurrent use.
type Windows struct {
	mu       sync.Mutex
	windows  map[Key]*window
	kept     [scopes]int
	overflow int64
}

// window is one key's counts.
type window struct {
	since    time.Duration // when it was first recorded to
	last     time.Duration // the same, last
	sliding  [slots]bucket
	whole    Counts   // since the first call; of drops
	past     *past    // of flows
	latency  *latency // of regions
	late     [keptLate]string
	lateSeen int
}

// bucket is a step of the sliding window.
type bucket struct {
	slot   int64
	calls  uint32
	causes [causes]uint32
}

// NewWindows makes empty ones.
func NewWindows() *Windows { return &Windows{windows: map[Key]*window{}} }

// Sample is what one call says about one window.
type Sample struct {
	Key   Key
	Took  time.Duration
	Late  bool
	Cause Cause // of a late one
}

// Record takes in one call: a sample per window that it counts in. decision names it, as an example of a late one.
func (w *Windows) Record(now time.Duration, decision string, samples ...Sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range samples {
		if x := w.window(now, s.Key); x != nil {
			x.record(now, decision, s)
		} else {
			w.overflow++
		}
	}
}

// window finds or makes one; nil when there is no room. Needs the mutex.
func (w *Windows) window(now time.Duration, key Key) *window {
	if x, ok := w.windows[key]; ok {
		return x
	}
	if w.kept[key.Scope] >= most[key.Scope] {
		return nil
	}
	x := &window{since: now}
	switch key.Scope {
	case Flow:
		x.past = newPast()
	case Region:
		x.latency = &latency{}
	}
	w.windows[key] = x
	w.kept[key.Scope]++
	return x
}

func (x *window) record(now time.Duration, decision string, s Sample) {
	x.last = now
	slot := int64(now / width)
	b := &x.sliding[slot%int64(slots)]
	if b.slot != slot {
		*b = bucket{slot: slot}
	}
	b.calls++
	x.whole.Calls++
	if s.Late {
		b.causes[s.Cause]++
		x.whole.Causes[s.Cause]++
		x.late[x.lateSeen%keptLate] = decision
		x.lateSeen++
	}
	if x.past != nil {
		x.past.add(now, s.Late)
	}
	if x.latency != nil {
		x.latency.add(now, s.Took)
	}
}

// slide is the last five seconds.
func (x *window) slide(now time.Duration) Counts {
	var c Counts
	newest := int64(now / width)
	for _, b := range x.sliding {
		if b.slot > newest-int64(slots) && b.slot <= newest {
			c.Calls += int64(b.calls)
			for i, n := range b.causes {
				c.Causes[i] += int64(n)
			}
		}
	}
	return c
}

// examples are the newest late calls, if there are late ones in the window.
func (x *window) examples(c Counts) []string {
	var ids []string
	for i := 1; i <= min(x.lateSeen, keptLate, int(c.Late())); i++ {
		ids = append(ids, x.late[(x.lateSeen-i)%keptLate])
	}
	return ids
}

// Count is what one window holds.
type Count struct {
	Key      Key
	Seen     time.Duration // since its first call; of a fleet, at the router that counts it longest
	Sliding  Counts
	Whole    Counts             // of drops: since the first call
	Past     [len(spans)]Counts // of flows: see spans
	Examples []string           // late calls, newest first
}

// Counts gives all windows, by key, and forgets those that nobody needs any more.
func (w *Windows) Counts(now time.Duration) []Count {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]Count, 0, len(w.windows))
	for key, x := range w.windows {
		idle := now - x.last
		if key.Scope == Drop && idle > dropIdle || key.Scope == Region && idle > regionIdle {
			delete(w.windows, key)
			w.kept[key.Scope]--
			continue
		}
		c := Count{Key: key, Seen: now - x.since, Sliding: x.slide(now)}
		c.Examples = x.examples(c.Sliding)
		switch key.Scope {
		case Drop:
			c.Whole = x.whole
			c.Examples = x.examples(x.whole)
		case Flow:
			c.Past = x.past.counts(now)
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Count) int { return compareKeys(a.Key, b.Key) })
	return list
}

// Latency is what half and 99 % of a region's attempts took at most, over the last minute; 0 without any.
func (w *Windows) Latency(now time.Duration, region string) (median, p99 time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x, ok := w.windows[Key{Region, region}]
	if !ok {
		return 0, 0
	}
	return x.latency.quantile(now, 0.5), x.latency.quantile(now, 0.99)
}

// Overflow is how many samples found no room so far.
func (w *Windows) Overflow() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.overflow
}

// Sum adds up the routers' counts, by key. What is beyond the bounds of one router's windows is left out, whatever a peer
// tells; how much that was is told, too.
func Sum(routers ...[]Count) (fleet []Count, overflow int) {
	sums := map[Key]Count{}
	var kept [scopes]int
	for _, counts := range routers {
		for _, c := range counts {
			s, ok := sums[c.Key]
			if !ok {
				if kept[c.Key.Scope] >= most[c.Key.Scope] {
					overflow++
					continue
				}
				kept[c.Key.Scope]++
				s.Key = c.Key
			}
			s.Seen = max(s.Seen, c.Seen)
			s.Sliding, s.Whole = s.Sliding.Plus(c.Sliding), s.Whole.Plus(c.Whole)
			for i := range s.Past {
				s.Past[i] = s.Past[i].Plus(c.Past[i])
			}
			if room := keptLate - len(s.Examples); room > 0 {
				s.Examples = append(s.Examples, c.Examples[:min(room, len(c.Examples))]...)
			}
			sums[c.Key] = s
		}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b Count) int { return compareKeys(a.Key, b.Key) }), overflow
}

func compareKeys(a, b Key) int {
	if a.Scope != b.Scope {
		return int(a.Scope) - int(b.Scope)
	}
	return strings.Compare(a.Name, b.Name)
}

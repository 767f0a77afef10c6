package slo

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rule is which rule a slip breaks.
type Rule uint8

// The rules.
const (
	Sliding Rule = iota + 1 // of the last five seconds' calls
	Whole                   // of all calls since the drop's first: a drop of 90 s is 2.5 % of an hour and would never page
	Burn                    // the month's error budget burns too fast
)

// String is the rule in the words of logs and metrics.
func (r Rule) String() string { return [...]string{"", "sliding", "drop", "burn"}[r] }

// burnRules are the multiwindow, multi-burn-rate alerts of the Google SRE Workbook, chapter 5, table 5-8, for an
// objective over 30 days: 2 % of the budget in an hour, 5 % in six, 10 % in three days. The short window, a twelfth of the
// long one, ends the alert soon after the burning does. Indices are into spans.
var burnRules = [...]struct {
	long, short int
	rate        float64
}{
	{2, 0, 14.4},
	{3, 1, 6},
	{4, 3, 1},
}

// burnSeen is which part of a rule's long window, a quarter, must have been counted before the rule says anything: after a
// restart, one bad minute is the whole past.
const burnSeen = 4

// Slip is a time in which too many calls were late.
type Slip struct {
	Number     int64 // counts the judge's slips from 1
	Key        Key
	Rule       Rule
	Cause      Cause
	Start, End time.Time // End is zero while it lasts
	// Share of late calls one window before it, in its worst window, and at its end; until then After is of now.
	Before, Worst, After float64
	Calls, Late          int64         // of the worst window
	Span                 time.Duration // how long the window of the rule is; 0: the drop's own
	Examples             []string      // late calls
	Silent               []string      // routers whose counts were missing at the start
}

// Ended tells whether it is over.
func (s Slip) Ended() bool { return !s.End.IsZero() }

// Sentence tells the slip to people.
func (s Slip) Sentence(objective time.Duration) string {
	of := fmt.Sprintf("%d of %d calls", s.Late, s.Calls)
	if s.Key.Scope == Region {
		of = fmt.Sprintf("%d of %d attempts", s.Late, s.Calls)
	}
	over := "since the drop's first call"
	if s.Span > 0 {
		over = "within " + strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(s.Span.String())
	}
	why := map[Cause]string{
		Network: "the network to the region", Service: "the region's work", Queue: "the region's queue",
		NoRegion: "no region could be asked", Unknown: "not known",
	}[s.Cause]
	late := fmt.Sprintf("took longer than %v or failed", objective)
	if s.Rule == Burn {
		return fmt.Sprintf("%s %s: %s %s %s; the month's error budget burns too fast.", s.Key.Scope, s.Key.Name, of, late, over)
	}
	return fmt.Sprintf("%s %s: %s %s %s; most because of: %s.", s.Key.Scope, s.Key.Name, of, late, over, why)
}

// Judge turns the fleet's counts into slips. Not safe for concurrent use.
type Judge struct {
	config  Config
	number  int64
	open    map[ruled]*opened
	history map[Key][]point // of the sliding windows, for Slip.Before
}

type ruled struct {
	key  Key
	rule Rule
}

type opened struct {
	slip     Slip
	breached time.Duration // last time
}

type point struct {
	at    time.Duration
	share float64
}

// NewJudge makes one without slips.
func NewJudge(config Config) *Judge {
	return &Judge{config: config.WithDefaults(), open: map[ruled]*opened{}, history: map[Key][]point{}}
}

// verdict is what one rule says about one window now.
type verdict struct {
	counts   Counts
	breached bool
	span     time.Duration
	linger   time.Duration // a slip ends only after it was not breached for so long
}

// Evaluate judges the fleet's counts at a time, with its stamp for people. It gives the slips that began, changed or
// ended. silent are the routers whose counts are missing.
func (j *Judge) Evaluate(now time.Duration, stamp time.Time, fleet []Count, silent []string) []Slip {
	var changes []Slip
	seen := map[ruled]bool{}
	judge := func(c Count, rule Rule, v verdict) {
		at := ruled{c.Key, rule}
		seen[at] = true
		if s, changed := j.step(now, stamp, at, v, c.Examples, silent); changed {
			changes = append(changes, s)
		}
	}
	for _, c := range fleet {
		judge(c, Sliding, j.share(c.Key, c.Sliding, Window, Window))
		j.remember(now, c)
		switch c.Key.Scope {
		case Drop:
			v := j.share(c.Key, c.Whole, 0, 0)
			if j.open[ruled{c.Key, Sliding}] != nil && j.open[ruled{c.Key, Whole}] == nil {
				v.breached = false // it was told already; when that is over, this says that the drop as a whole is late
			}
			judge(c, Whole, v)
		case Flow:
			judge(c, Burn, j.burn(c))
		}
	}
	for at := range j.open {
		if !seen[at] { // nobody counts it any more
			if s, changed := j.step(now, stamp, at, verdict{}, nil, silent); changed {
				changes = append(changes, s)
			}
		}
	}
	for key, points := range j.history {
		if now-points[len(points)-1].at > 2*Window {
			delete(j.history, key)
		}
	}
	slices.SortFunc(changes, func(a, b Slip) int { return int(a.Number - b.Number) })
	return changes
}

func (j *Judge) share(key Key, c Counts, span, linger time.Duration) verdict {
	return verdict{c, c.Calls >= j.config.MinCalls && c.Share() > j.config.shareOf(key), span, linger}
}

// burn finds the first burn rule that both of its windows break.
func (j *Judge) burn(c Count) verdict {
	for _, r := range burnRules {
		if c.Seen < spans[r.long]/burnSeen {
			continue
		}
		limit := r.rate * j.config.MonthShare
		long, short := c.Past[r.long], c.Past[r.short]
		if short.Calls >= j.config.MinCalls && long.Share() > limit && short.Share() > limit {
			return verdict{counts: long, breached: true, span: spans[r.long]}
		}
	}
	return verdict{counts: c.Past[burnRules[0].long], span: spans[burnRules[0].long]}
}

// step moves one window's slip on and tells whether anybody should hear of it.
func (j *Judge) step(now time.Duration, stamp time.Time, at ruled, v verdict, examples, silent []string) (Slip, bool) {
	o := j.open[at]
	switch {
	case o == nil && !v.breached:
		return Slip{}, false
	case o == nil:
		j.number++
		o = &opened{breached: now, slip: Slip{
			Number: j.number, Key: at.key, Rule: at.rule, Cause: v.counts.Cause(), Start: stamp, Span: v.span, Silent: silent,
			Before: j.before(now, at), Worst: v.counts.Share(), After: v.counts.Share(), Calls: v.counts.Calls,
			Late: v.counts.Late(), Examples: examples,
		}}
		j.open[at] = o
		return o.slip, true
	}
	s := &o.slip
	s.After = v.counts.Share()
	if !v.breached {
		if now-o.breached < v.linger {
			return Slip{}, false
		}
		s.End = stamp
		delete(j.open, at)
		return *s, true
	}
	o.breached = now
	changed := false
	if share := v.counts.Share(); share > s.Worst {
		s.Worst, s.Calls, s.Late, s.Span = share, v.counts.Calls, v.counts.Late(), v.span
		s.Examples = examples
		changed = true
	}
	if cause := v.counts.Cause(); cause != s.Cause {
		s.Cause, changed = cause, true
	}
	return *s, changed
}

// remember keeps a sliding window's share for as long as Before looks back.
func (j *Judge) remember(now time.Duration, c Count) {
	points := j.history[c.Key]
	for len(points) > 1 && now-points[1].at >= Window {
		points = points[1:]
	}
	j.history[c.Key] = append(slices.Clip(points), point{now, c.Sliding.Share()})
}

// before is the share one window ago.
func (j *Judge) before(now time.Duration, at ruled) float64 {
	if points := j.history[at.key]; at.rule == Sliding && len(points) > 0 && now-points[0].at >= Window {
		return points[0].share
	}
	return 0
}

// Active are the slips that last, oldest first.
func (j *Judge) Active() []Slip {
	var list []Slip
	for _, o := range j.open {
		list = append(list, o.slip)
	}
	slices.SortFunc(list, func(a, b Slip) int { return int(a.Number - b.Number) })
	return list
}

package slo

import "time"

// Lost adds up what late answers cost the viewers of each drop. An answer that comes later than its objective loses the
// sale that it was asked for, so the second in which a share of the calls was late is lost by that share: eight seconds in
// which every call is late are eight seconds, as are sixteen in which half of them are. A single call's delay would say
// less: calls give up after two seconds, however long the trouble lasts.
//
// A drop's share is that of the router whose viewers had it worst, since a router serves the viewers near it: those of one
// bad place would otherwise get back what they lost, divided by the whole world.
//
// Time is lost only while a slip of the drop lasts. Not safe for concurrent use.
type Lost struct {
	config Config
	drops  map[string]time.Duration
	at     time.Duration // of the last Add
}

// NewLost makes one that has seen nothing.
func NewLost(config Config) *Lost {
	return &Lost{config: config.WithDefaults(), drops: map[string]time.Duration{}}
}

// Loss is what the viewers of a drop lost so far, over all its slips, and the slip that lasts.
type Loss struct {
	Drop  string
	Total time.Duration
	Slip  Slip
}

// Add takes in the time since the last call: the slips that last, and what each router counts. It returns the losses that
// grew by another second, since nobody acts on less.
func (l *Lost) Add(now time.Duration, active []Slip, routers ...[]Count) []Loss {
	step := min(now-l.at, Window) // a judge that was stopped in between saw nothing
	l.at = now
	fleet, _ := Sum(routers...)
	worst := map[string]float64{}
	for _, counts := range append(routers, fleet) {
		for _, c := range counts {
			if c.Key.Scope == Drop {
				share := worst[c.Key.Name]
				if c.Sliding.Calls >= l.config.MinCalls {
					share = max(share, c.Sliding.Share())
				}
				worst[c.Key.Name] = share
			}
		}
	}
	for name := range l.drops {
		if _, counted := worst[name]; !counted {
			delete(l.drops, name)
		}
	}
	var grown []Loss
	seen := map[string]bool{}
	for _, s := range active {
		name := s.Key.Name
		if s.Key.Scope != Drop || seen[name] { // two rules may be broken at once
			continue
		}
		seen[name] = true
		before := l.drops[name]
		l.drops[name] = before + time.Duration(worst[name]*float64(step))
		if after := l.drops[name]; after.Truncate(time.Second) > before.Truncate(time.Second) {
			grown = append(grown, Loss{name, after, s})
		}
	}
	return grown
}

// Of is what a drop's viewers lost so far.
func (l *Lost) Of(drop string) time.Duration { return l.drops[drop] }

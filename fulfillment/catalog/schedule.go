package catalog

import (
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/mutant"
)

// Schedule is the part of a drop that an operator may change after it is ARMED. Times are exact to the microsecond.
type Schedule struct {
	OpenTime, CloseTime time.Time
	// TimeBack is the last part of the window, which was given back because answers to the drop's viewers were late.
	TimeBack time.Duration
	// OverTime is when nothing of the drop can be redeemed any more under any schedule that it ever had: a node that
	// has not heard of an earlier close still honours its own tokens until then.
	OverTime time.Time
	// Paused is an operator's word: it wins over the clock until the drop is CLOSED.
	Paused bool
	// Settled is the verifier's word: it wins over everything.
	Settled bool
}

// State is where the drop is at now.
func (s Schedule) State(now time.Time) dropclock.State {
	if s.Settled {
		return dropclock.Settled
	}
	state := dropclock.StateAt(s.OpenTime, s.CloseTime, s.OverTime.Sub(s.CloseTime)-dropclock.Grace, now)
	if s.Paused && state != dropclock.Closed {
		return dropclock.Paused
	}
	return state
}

// PlannedClose is when the drop would close had no answer been late.
func (s Schedule) PlannedClose() time.Time { return s.CloseTime.Add(-s.TimeBack) }

// ChangeError says why a change was refused.
type ChangeError struct {
	State    dropclock.State // of the drop now
	Sentence string
}

// Error implements error.
func (e *ChangeError) Error() string { return fmt.Sprintf("the drop is %v: %s", e.State, e.Sentence) }

func (s Schedule) refuse(now time.Time, format string, args ...any) (Schedule, error) {
	return s, &ChangeError{s.State(now), fmt.Sprintf(format, args...)}
}

func (s Schedule) ended(now time.Time) bool { return s.State(now) >= dropclock.Closed }

// Pause holds the drop: no offers, no redemptions. The clock runs on. Pausing a paused drop changes nothing.
func (s Schedule) Pause(now time.Time) (Schedule, error) {
	if s.ended(now) {
		return s.refuse(now, "Nothing is left to pause.")
	}
	s.Paused = true
	return s, nil
}

// Resume lets a paused drop go on where the clock is now. Resuming a drop that is not paused changes nothing.
func (s Schedule) Resume(now time.Time) (Schedule, error) {
	if s.ended(now) {
		return s.refuse(now, "Its time is over.")
	}
	s.Paused = false
	return s, nil
}

// Extend closes the drop later. It must not have closed yet, since nodes would open it again at different moments, and
// it is open for MaxDuration at most.
func (s Schedule) Extend(by time.Duration, now time.Time) (Schedule, error) {
	by = by.Truncate(time.Microsecond)
	switch length := s.PlannedClose().Sub(s.OpenTime) + by; {
	case s.ended(now) || !now.Before(s.CloseTime):
		return s.refuse(now, "It has closed; plan another drop.")
	case by <= 0:
		return s.refuse(now, "An extension is longer than nothing.")
	case length > MaxDuration:
		return s.refuse(now, "A drop is open for %v at most; this one would be for %v.", MaxDuration, length)
	}
	s.CloseTime, s.OverTime = s.CloseTime.Add(by), s.OverTime.Add(by)
	return s, nil
}

// Close closes the drop now; offers that are out stand. One that has not opened yet never does. Closing a drop that has
// closed changes nothing.
func (s Schedule) Close(now time.Time) (Schedule, error) {
	if s.ended(now) || !now.Before(s.CloseTime) {
		return s, nil
	}
	now = now.UTC().Truncate(time.Microsecond)
	s.TimeBack = max(0, now.Sub(s.PlannedClose()))
	s.CloseTime = now
	if now.Before(s.OpenTime) {
		s.OpenTime = now
	}
	return s, nil
}

// backStep is the unit of what is given back: every step is news to all nodes and viewers, and people count in seconds.
const backStep = time.Second

// GiveBack closes the drop later by what its viewers lost to late answers: all that was measured so far, in whole seconds,
// up to most and to dropclock.MostBack. It only grows. limit says in words why less was given than was lost; nothing more
// is given when the drop is not OPEN.
func (s Schedule) GiveBack(lost, most time.Duration, now time.Time) (next Schedule, limit string) {
	state := s.State(now)
	switch {
	case most <= 0:
		return s, "No time is given back here."
	case state != dropclock.Open:
		return s, fmt.Sprintf("The drop is %v.", state)
	}
	allowed := min(most, dropclock.MostBack(s.PlannedClose().Sub(s.OpenTime)))
	if mutant.On(mutant.TimeBackUncapped) {
		allowed = lost
	}
	if lost > allowed {
		lost, limit = allowed, fmt.Sprintf("It is %v at most.", allowed.Truncate(backStep))
	}
	if more := lost.Truncate(backStep) - s.TimeBack; more > 0 {
		s.TimeBack += more
		s.CloseTime, s.OverTime = s.CloseTime.Add(more), s.OverTime.Add(more)
	}
	return s, limit
}

package arbiter

import "time"

const (
	// hardFailures is how many calls in a row must fail, or probes be lost, before a node is given up. One is weather.
	hardFailures = 3

	// A node that fails more than half of this many recent calls is ejected although others in between went well.
	ejectSamples = 20
	ejectRate    = 0.5

	// An ejection for failing calls lasts this long, twice as long each time that the trials after it fail.
	leastBackoff = 500 * time.Millisecond
	mostBackoff  = 8 * time.Second

	// trials is how many calls in a row must go well before a node that failed calls is given more of them.
	trials = 3

	// A node that comes back is given this share of the calls that it would win, rising to all of them.
	rampShare = 0.25
	rampTime  = 2 * time.Second
)

// Health decides whether a node may be chosen at all, by its calls and probes. It tells two troubles apart:
//
//	silence  three calls broke or three probes were lost in a row --> unreachable --a good probe or answer--> ramp
//	failing  three calls failed in a row, or half of 20 did       --> ejected --backoff--> trials --three went well--> ramp
//
// A good probe ends silence at once. It says nothing about failing calls, only calls do; so calls that break while the
// node is warming up count as failing: its probes were good, and promised too much.
type Health struct {
	outcomes *Window

	reachable bool
	met       bool // was reachable before, or must be treated as if: it comes back through the ramp
	lost      int  // probes in a row
	broken    int  // calls in a row without an answer
	failed    int  // calls in a row that failed, with or without an answer

	ejected bool
	until   time.Duration // when the ejection ends
	backoff time.Duration // of the last ejection; 0 once that is forgotten
	trying  int           // calls that must still go well; 0: no trials

	ramping bool
	since   time.Duration // of the ramp or, later, of full trust
}

// NewHealth is for a node that was never heard of: unreachable until its first answer. A cold one ramps up from there.
func NewHealth(cold bool) *Health { return &Health{outcomes: NewOutcomes(), met: cold} }

// Good takes in a call that was answered well.
func (h *Health) Good(now time.Duration) {
	h.outcomes.Add(now, true)
	h.failed = 0
	h.heard(now)
	if h.trying > 0 && !h.Ejected(now) {
		if h.trying--; h.trying == 0 {
			h.ramp(now)
		}
	}
}

// Failed takes in a call that was answered with a failure of the node's.
func (h *Health) Failed(now time.Duration) {
	h.outcomes.Add(now, false)
	h.heard(now)
	h.failed++
	h.decide(now)
}

// Shed takes in a call that was refused because the node is too busy: that is no defect, but it counts.
func (h *Health) Shed(now time.Duration) {
	h.outcomes.Add(now, false)
	h.heard(now)
	h.decide(now)
}

// Broken takes in a call that got no answer.
func (h *Health) Broken(now time.Duration) {
	h.outcomes.Add(now, false)
	h.failed++
	if h.broken++; h.broken >= hardFailures && h.Held(now) == 0 {
		h.reachable = false
		return
	}
	h.decide(now)
}

// Answered takes in a good probe.
func (h *Health) Answered(now time.Duration) {
	h.lost = 0
	h.heard(now)
}

// Lost takes in a failed probe.
func (h *Health) Lost() {
	if h.lost++; h.lost >= hardFailures {
		h.reachable = false
	}
}

// heard ends silence.
func (h *Health) heard(now time.Duration) {
	h.broken = 0
	if h.reachable {
		return
	}
	h.reachable, h.lost = true, 0
	if h.met {
		h.outcomes, h.failed = NewOutcomes(), 0 // what broke before says nothing about now
		h.ramp(now)
	}
	h.met = true
}

func (h *Health) ramp(now time.Duration) { h.ramping, h.since = true, now }

// decide ejects a node whose calls fail.
func (h *Health) decide(now time.Duration) {
	_, all := h.outcomes.Counts(now)
	if h.Ejected(now) || h.failed < hardFailures && (all < ejectSamples || h.outcomes.Rate(now) >= ejectRate) {
		return
	}
	h.backoff = min(max(2*h.backoff, leastBackoff), mostBackoff)
	h.ejected, h.until, h.ramping = true, now+h.backoff, false
	h.trying, h.failed = trials, 0
}

// Reachable tells whether it answers at all.
func (h *Health) Reachable() bool { return h.reachable }

// Failing tells whether its last probe was lost.
func (h *Health) Failing() bool { return h.lost > 0 }

// Ejected tells whether it is out because its calls fail.
func (h *Health) Ejected(now time.Duration) bool {
	if h.ejected && now >= h.until {
		h.ejected = false
		h.outcomes = NewOutcomes() // the trials are judged by themselves
	}
	return h.ejected
}

// Held is the share of its calls that it is not given yet.
func (h *Health) Held(now time.Duration) float64 {
	if h.Ejected(now) || h.trying > 0 {
		return 1 - rampShare
	}
	if h.ramping {
		if passed := now - h.since; passed < rampTime {
			return (1 - rampShare) * float64(rampTime-passed) / float64(rampTime)
		}
		h.ramping, h.since = false, now
	}
	if h.backoff > 0 && now-h.since > mostBackoff {
		h.backoff = 0 // it kept its word long enough
	}
	return 0
}

// Moving tells whether time alone changes it: an ejection ends, a ramp goes on.
func (h *Health) Moving(now time.Duration) bool {
	return h.Ejected(now) || h.trying == 0 && h.Held(now) > 0
}

// Rate is s, the share of the last calls that went well.
func (h *Health) Rate(now time.Duration) float64 { return h.outcomes.Rate(now) }

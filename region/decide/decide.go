// Package decide answers whether one viewer gets an offer, which one, and why not.
//
//	consent ──> window ──> stock's word ──> the viewer's share ──> arm ──> offer terms
//
// Invariants. Consent is no unless it is a clear yes; without any the viewer still gets the drop, chosen by context
// alone. The same session gets the same arm at every node. Every decision carries its reason.
//
// It is pure: the terms, what the node knows and the instant come in. It takes no unit and promises none.
package decide

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/rimlight/rimlight/internal/dropclock"
)

// Consent is what a viewer agreed to, as far as a node may act on it.
type Consent struct {
	Personalisation bool // use of the session's history
	Delivery        bool // use of delivery details
	Measurement     bool // counting the session in experiments
}

// Restrict applies the signals that override single purposes. Sec-GPC switches personalisation off. A TCF or GPP string
// switches everything off: no reader for them is built, and what cannot be read is no consent.
func (c Consent) Restrict(secGPC, unreadable bool) Consent {
	if unreadable {
		return Consent{}
	}
	if secGPC {
		c.Personalisation = false
	}
	return c
}

// Arm is one arm of the experiment on how long an offer stands.
type Arm struct {
	Name   string
	Weight uint32 // its share of the sessions, relative to the other arms'
	TTL    time.Duration
}

// Terms are a drop's, as the node serves them.
type Terms struct {
	Open, Close  time.Time
	Back         time.Duration // the last part of the window, which viewers got back after late answers
	Paused       bool          // an operator's word; it wins over the clock
	Settled      bool          // the verifier's word; it wins over everything
	MaxPerViewer int           // 0 means 1
	Arms         []Arm
	ArmSalt      []byte
}

// LongestTTL is the longest time that an offer of the drop can stand.
func (t Terms) LongestTTL() time.Duration {
	var longest time.Duration
	for _, a := range t.Arms {
		longest = max(longest, a.TTL)
	}
	return longest
}

// State is where the drop is at now.
func (t Terms) State(now time.Time) dropclock.State {
	if t.Settled {
		return dropclock.Settled
	}
	s := dropclock.StateAt(t.Open, t.Close, t.LongestTTL(), now)
	if t.Paused && s != dropclock.Closed {
		return dropclock.Paused
	}
	return s
}

// Next is when the clock changes the state after now; ok is false when it never does again.
func (t Terms) Next(now time.Time) (at time.Time, ok bool) {
	for _, at := range []time.Time{
		t.Open.Add(-dropclock.Lead), t.Open, t.Close, dropclock.OverAt(t.Close, t.LongestTTL()),
	} {
		if at.After(now) {
			return at, !t.Settled
		}
	}
	return time.Time{}, false
}

// Limit is how many purchases one viewer session may have.
func (t Terms) Limit() int { return max(t.MaxPerViewer, 1) }

// Redeemable tells whether a genuine, unexpired token may still be redeemed: while the drop is open, and while tokens
// that were issued then are still valid.
func Redeemable(s dropclock.State) bool { return s == dropclock.Open || s == dropclock.Draining }

// Verdict is what was decided, and why.
type Verdict int

// The verdicts.
const (
	Offer       Verdict = iota + 1 // an offer, with the terms of the Decision
	NotOpen                        // the drop is in Decision.State
	SoldOut                        // on fulfillment's word
	ViewerLimit                    // the session has its share
)

// Viewer is what a node knows of one session at one drop.
type Viewer struct {
	Session [16]byte
	Consent Consent
	Bought  int // live purchases accepted here: best effort, the verifier counts exactly
}

// Decision is an answer with its reason.
type Decision struct {
	Verdict      Verdict
	State        dropclock.State
	Arm          string // empty without consent for measurement
	TTL          time.Duration
	Personalised bool // whether the session's history might be used
	ExtraTime    bool // the offer is made in the part of the window that was given back
}

// Decide answers one viewer. soldOut is fulfillment's word that nothing is free or leased.
func Decide(t Terms, v Viewer, soldOut bool, now time.Time) Decision {
	d := Decision{State: t.State(now), Personalised: v.Consent.Personalisation}
	switch {
	case d.State != dropclock.Open:
		d.Verdict = NotOpen
	case soldOut:
		d.Verdict = SoldOut
	case v.Bought >= t.Limit():
		d.Verdict = ViewerLimit
	default:
		d.Verdict = Offer
		d.Arm, d.TTL = chooseArm(t, v)
		d.ExtraTime = t.Back > 0 && !now.Before(t.Close.Add(-t.Back))
	}
	return d
}

// chooseArm gives a session its arm, or the first arm's terms without its name: a session that did not agree to be
// counted must not be found in a report.
func chooseArm(t Terms, v Viewer) (name string, ttl time.Duration) {
	if len(t.Arms) == 0 {
		return "", time.Minute // the shorter of the two lengths that the catalogue knows
	}
	if !v.Consent.Measurement {
		return "", t.Arms[0].TTL
	}
	a := ArmOf(t.ArmSalt, v.Session, t.Arms)
	return a.Name, a.TTL
}

// ArmOf spreads sessions over the arms by their weights: SHA-256(salt || session), its first 8 bytes modulo the sum of the weights.
// Arms without any weight share equally. There must be at least one arm.
func ArmOf(salt []byte, session [16]byte, arms []Arm) Arm {
	h := sha256.New()
	h.Write(salt)
	h.Write(session[:])
	point := binary.BigEndian.Uint64(h.Sum(nil))
	var total uint64
	for _, a := range arms {
		total += uint64(a.Weight)
	}
	if total == 0 {
		return arms[point%uint64(len(arms))]
	}
	point %= total // the bias is below total / 2^64
	for _, a := range arms {
		if point < uint64(a.Weight) {
			return a
		}
		point -= uint64(a.Weight)
	}
	return arms[len(arms)-1] // not reached: point is below the sum
}

// String is the verdict's name in metrics.
func (v Verdict) String() string {
	switch v {
	case Offer:
		return "granted"
	case NotOpen:
		return "not_open"
	case SoldOut:
		return "sold_out"
	case ViewerLimit:
		return "viewer_limit"
	}
	return "unknown"
}

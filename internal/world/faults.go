package world

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is a way in which things go wrong.
type Kind string

// The kinds. Hosts are regions, "verifier" and "fulfillment".
const (
	// Cut drops what Host sends to To.
	Cut Kind = "cut"
	// Swizzle cuts each of Host's links, both ways, and heals them, each at its own time.
	Swizzle Kind = "swizzled partition"
	// Crash is a power cut; the disk keeps what was synced.
	Crash Kind = "crash"
	// Stop ends the host in order.
	Stop Kind = "stop"
	// CrashBeforeCommit and CrashAfterCommit are power cuts at the Nth commit of any of the host's stores from At on: the
	// first leaves nothing of it, the second all of it, and nobody heard.
	CrashBeforeCommit Kind = "crash before a commit"
	CrashAfterCommit  Kind = "crash after a commit"
	// BadSync fails the node's next fsync: the node must stop by itself.
	BadSync Kind = "failing fsync"
	// FullDisk leaves no room on the node's disk: it must refuse, go on with what it has, and accept again afterwards.
	FullDisk Kind = "full disk"
	// Fence is an operator's fence of the node out of a drop, its Nth, or out of all.
	Fence Kind = "fence"
	// Retire ends the node for good, which seals its journal; it begins again as itself on an empty disk.
	Retire Kind = "retirement"
	// LoseDisk is a power cut after which the node comes back as itself, with an empty disk and another key.
	LoseDisk Kind = "lost disk"
	// Replace starts a second process with a living node's id and an empty disk, as an operator does who takes a node for
	// dead that is cut off from fulfillment. Viewers reach the one or the other.
	Replace Kind = "replaced while alive"
	// Copy starts a second process on a copy of a node's data directory, while the node is cut off from fulfillment. Viewers
	// reach the one or the other. An Nth above 0 is another machine's: there the copy is another disk.
	Copy Kind = "copied directory"
	// Restore takes the verifier or fulfillment down without its store, and starts it on a backup that was made By before.
	Restore Kind = "restored from an old backup"
	// Slow is a gray failure: every message from and to Host, and every fsync of it, takes By longer.
	Slow Kind = "slow host"
	// Step puts Host's clock By off at once, Drift little by little; both end with a step back.
	Step  Kind = "clock step"
	Drift Kind = "clock drift"
	// Storm loses Share of all messages and doubles as many.
	Storm Kind = "storm"
	// Paused is the shop's own doing: it holds every drop, and lets it go on.
	Paused Kind = "paused drops"
	// LateAnswers are routers that measured that By of each drop's window was lost to its viewers, more and more until the end.
	LateAnswers Kind = "late answers"
	// NoPayments makes the provider fail: it refuses, or is silent before or after the effect.
	NoPayments Kind = "payment outage"
)

// Fault is one thing that goes wrong: data, so that a schedule of them can be drawn, replayed and shrunk.
type Fault struct {
	Kind     Kind
	Host, To string
	// At is when it begins, For how long it lasts. A host that crashed stays down for that long.
	At, For time.Duration
	// Nth counts commits, from 1.
	Nth int
	// By is a delay or a clock's error.
	By time.Duration
	// Share is 0 to 1.
	Share float64
}

// String is one line about the fault.
func (f Fault) String() string {
	s := fmt.Sprintf("%8.3f s  %-21s", f.At.Seconds(), f.Kind)
	if f.Host != "" {
		s += " " + f.Host
	}
	if f.To != "" {
		s += " -> " + f.To
	}
	if f.Nth > 0 {
		s += fmt.Sprintf(", number %d", f.Nth)
	}
	if f.By != 0 {
		s += fmt.Sprintf(" by %v", f.By)
	}
	if f.Share > 0 {
		s += fmt.Sprintf(" of %.0f %%", 100*f.Share)
	}
	return s + fmt.Sprintf(", for %.3f s", f.For.Seconds())
}

// downs tells faults that take their host down.
func (f Fault) downs() bool {
	return slices.Contains([]Kind{Crash, Stop, Retire, CrashBeforeCommit, CrashAfterCommit, BadSync, LoseDisk, Restore}, f.Kind)
}

func (f Fault) validate(c Config) error {
	isHost := func(name string) bool {
		return name == "verifier" || name == "fulfillment" || slices.Contains(c.Regions, name) || slices.Contains(c.depots(), name)
	}
	switch {
	case f.Kind != Storm && f.Kind != NoPayments && f.Kind != Paused && f.Kind != LateAnswers && !isHost(f.Host):
		return fmt.Errorf("%s: no host is called %q", f.Kind, f.Host)
	case f.Kind == Cut && !isHost(f.To):
		return fmt.Errorf("%s: no host is called %q", f.Kind, f.To)
	case slices.Contains([]Kind{BadSync, FullDisk, Fence, Retire, LoseDisk, Replace, Copy}, f.Kind) && !slices.Contains(c.Regions, f.Host):
		return fmt.Errorf("%s: %q is no node", f.Kind, f.Host)
	case f.Kind == Restore && f.Host != "fulfillment" && f.Host != "verifier":
		return fmt.Errorf("%s: %q has no backup", f.Kind, f.Host)
	case (f.Kind == Step || f.Kind == Drift) && (f.By <= -time.Second || f.By >= time.Second):
		return fmt.Errorf("%s by %v: two clocks must agree within 2 s", f.Kind, f.By)
	case f.At < 0 || f.For < 0:
		return fmt.Errorf("%s at %v for %v", f.Kind, f.At, f.For)
	}
	return nil
}

// Mix is how many faults of each kind are drawn, between the arming of the first drop and the closing of the last.
type Mix struct {
	// Cuts are one way, between a node and the centre, 2 to 20 s long.
	Cuts int
	// NodeRestarts keep the disk; every second one is a power cut.
	NodeRestarts int
	// VerifierRestarts and FulfillmentRestarts keep the databases.
	VerifierRestarts, FulfillmentRestarts int
}

// drawMix spreads a mix over a span.
func (c Config) drawMix(from, to time.Duration) []Fault {
	var all []Fault
	span := func(r *rand.Rand, shortest, longest time.Duration) (at, length time.Duration) {
		length = shortest + time.Duration(r.Int64N(int64(longest-shortest)))
		return from + time.Duration(r.Int64N(int64(max(to-from-length, 1)))), length
	}
	for i := range c.Mix.Cuts {
		r := c.draws("cut", i)
		f := Fault{Kind: Cut, Host: c.Regions[r.IntN(len(c.Regions))], To: []string{"verifier", "fulfillment"}[r.IntN(2)]}
		if r.IntN(2) == 0 {
			f.Host, f.To = f.To, f.Host
		}
		f.At, f.For = span(r, 2*time.Second, 20*time.Second)
		all = append(all, f)
	}
	restarts := func(n int, host func(*rand.Rand) string, kind string) {
		for i := range n {
			r := c.draws(kind, i)
			f := Fault{Kind: []Kind{Crash, Stop}[i%2], Host: host(r)}
			f.At, f.For = span(r, time.Second, 10*time.Second)
			all = append(all, f)
		}
	}
	restarts(c.Mix.NodeRestarts, func(r *rand.Rand) string { return c.Regions[r.IntN(len(c.Regions))] }, "node restart")
	restarts(c.Mix.VerifierRestarts, func(*rand.Rand) string { return "verifier" }, "verifier restart")
	restarts(c.Mix.FulfillmentRestarts, func(*rand.Rand) string { return "fulfillment" }, "fulfillment restart")
	slices.SortStableFunc(all, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return all
}

package arbiter

import (
	"math"
	"time"
)

// Verdict is what a call's end says about the node.
type Verdict uint8

// The verdicts.
const (
	Good    Verdict = iota // it answered, be it with a refusal
	Failed                 // it answered, and could not do its work
	Broken                 // no answer
	Ignored                // the caller went away or asked for nonsense: says nothing
	Shed                   // it was too busy: lowers the success rate, and is no defect
	Outrun                 // it is late and another node's answer came first: it still owes one

	Verdicts // how many there are
)

// String is the verdict in the words of the metrics.
func (v Verdict) String() string {
	return [...]string{"good", "failed", "broken", "ignored", "shed", "outrun"}[v]
}

// Load is what a node says about itself with an answer.
type Load struct {
	Residence   time.Duration // how long this call was inside; 0 when it does not tell
	Service     time.Duration // S
	InFlight    uint32        // Q
	Parallelism uint32        // c
	Arrivals    float64       // calls per second
}

// What a node may say of itself. More is nonsense, which must not overflow or win picks.
const (
	mostService     = time.Minute
	mostInFlight    = 1_000_000
	mostParallelism = 100_000
	mostArrivals    = 10_000_000
)

// Sane is the report with every figure in its range, and whether all of them were. The call took total from sending to
// answer, so it cannot have been inside for longer; 0: that is not known.
func (l Load) Sane(total time.Duration) (Load, bool) {
	sane := Load{
		Residence: min(max(l.Residence, 0), mostService), Service: min(max(l.Service, 0), mostService),
		InFlight: min(l.InFlight, mostInFlight), Parallelism: min(l.Parallelism, mostParallelism),
	}
	if l.Arrivals > 0 { // not NaN
		sane.Arrivals = math.Min(l.Arrivals, mostArrivals)
	}
	if total > 0 {
		sane.Residence = min(sane.Residence, total)
	}
	return sane, sane == l
}

// Outcome is how a call at a node ended.
type Outcome struct {
	Verdict Verdict
	Elapsed time.Duration // from sending it until now
	Timed   bool          // Elapsed is the network's and the node's doing; false of streams
	Load    *Load         // came with the answer, sane; nil when none did
}

// Node is what is known of one region node: fed with calls and probes, read as a row of a snapshot. now is the reading
// of any steady clock. It keeps O(1) state and the times of the calls in flight, and is not safe for concurrent use.
type Node struct {
	network Network
	service Service // of a backend that does not report its own
	failure Service // f
	health  *Health

	load     Load
	reported bool
	queue    stamps // calls that the last report cannot have counted
	awaited  stamps // calls that are not answered, sent after the newest one that was

	suspect      bool
	suspectSince time.Duration // when the overdue call was sent
	saved        bool
	heard        bool // saved, and by another router's word
}

// NewNode is for a node that was never heard of. A cold one ramps up from its first answer; those that a router finds at
// its own start do not, since all of them would.
func NewNode(cold bool) *Node { return &Node{health: NewHealth(cold)} }

// Remember takes in what was known of the node in a former life, or of its neighbours: better than nothing until its first
// answer.
func (n *Node) Remember(now, network, service time.Duration) {
	if !n.network.Known() {
		n.network.Observe(now, network, false)
		n.load.Service = clamp(service)
		n.saved = true
	}
}

// mostHearsay is the longest way that is believed of another router: longer than around the earth by any cable.
const mostHearsay = time.Second

// Hear takes in the way over another router: to that one and from there on, which is at least as long as the direct one.
// The shortest of them is what a choice in regime Cold goes by, where nothing was measured or remembered; the node's first
// own answer ends it. It says nothing about health. What cannot be is ignored; it tells whether it was taken.
func (n *Node) Hear(now, network, service time.Duration) bool {
	if network <= 0 || network > mostHearsay || service < 0 || service > mostService {
		return false
	}
	if n.network.Known() && !(n.heard && network < n.network.Value()) {
		return false
	}
	n.network = Network{}
	n.Remember(now, network, service)
	n.heard = true
	return true
}

// Send counts a call that is being sent. An awaited one is due within a predictable time; a stream is not.
func (n *Node) Send(now time.Duration, awaited bool) {
	n.queue.add(now)
	if awaited {
		n.awaited.add(now)
	}
}

// Done takes in how a call ended, once per Send, with the time of that Send.
func (n *Node) Done(now, sent time.Duration, o Outcome) {
	n.queue.remove(sent)
	if o.Verdict != Outrun {
		n.awaited.remove(sent)
	}
	n.Heard(now, o)
	if o.Verdict == Good || o.Verdict == Shed || o.Verdict == Failed {
		n.answered(sent)
	}
}

// Heard takes in what a call said that Done was told of already: a stream that broke after its first message.
func (n *Node) Heard(now time.Duration, o Outcome) {
	switch o.Verdict {
	case Good:
		n.health.Good(now)
		n.timed(now, o)
	case Failed:
		n.health.Failed(now)
	case Shed:
		n.health.Shed(now)
	case Broken:
		n.health.Broken(now)
	case Outrun, Ignored:
		return
	}
	if o.Verdict != Good {
		n.failure.Observe(now, o.Elapsed)
	}
	n.report(now, o.Load)
}

// Probed takes in a good probe that took total; load is nil of a backend that does not tell.
func (n *Node) Probed(now, total time.Duration, load *Load) {
	n.forget()
	n.health.Answered(now)
	n.answered(now - total)
	if load == nil {
		n.network.Observe(now, total, true)
		return
	}
	n.network.Observe(now, total-load.Residence, true)
	n.report(now, load)
}

// forget ends what is not its own: the first own sample counts alone.
func (n *Node) forget() {
	if n.saved {
		n.network, n.saved, n.heard = Network{}, false, false
	}
}

// Lost takes in a failed probe.
func (n *Node) Lost() { n.health.Lost() }

// answered takes in that a call sent then was answered: nothing sent before it is overdue any more.
func (n *Node) answered(sent time.Duration) {
	n.awaited.drop(sent)
	if n.suspect && sent >= n.suspectSince {
		n.suspect = false
	}
}

// timed splits a call's time into network and service. Without the node's word, the probes know the network.
func (n *Node) timed(now time.Duration, o Outcome) {
	switch {
	case !o.Timed:
	case o.Load != nil:
		n.forget()
		n.network.Observe(now, o.Elapsed-o.Load.Residence, false)
	case !n.reported && n.network.Known() && !n.saved:
		n.service.Observe(now, o.Elapsed-n.network.Value())
	}
}

// report takes in a load. A call that was sent less than a round trip ago was not there yet when the node counted.
func (n *Node) report(now time.Duration, load *Load) {
	if load != nil {
		n.load, n.reported = *load, true
		n.queue.drop(now - n.network.Value())
	}
}

// overdueSlack keeps a garbage collection or a busy scheduler from making a node suspect.
const overdueSlack = 10 * time.Millisecond

// overdue is how long a call may be unanswered: n + 4d + W + 6S + 10 ms. What was not measured makes nobody suspect.
func (n *Node) overdue(g *Region) time.Duration {
	way := network(g)
	if n.saved {
		way = max(way, unmeasured)
	}
	return way + 4*clamp(g.Deviation) + wait(g) + 6*clamp(g.Service) + overdueSlack
}

// Watched tells whether time alone may change its row: an answer is due, or it is ejected or warming up.
func (n *Node) Watched(now time.Duration) bool {
	_, due := n.awaited.oldest()
	return due && !n.suspect || n.health.Moving(now)
}

// Troubled tells whether it should be probed more often: suspect, silent, ejected or warming up.
func (n *Node) Troubled(now time.Duration) bool {
	return n.suspect || !n.health.Reachable() || n.health.Failing() || n.health.Ejected(now) || n.health.Held(now) > 0
}

// Measure fills in what is known now into a row that names the node.
func (n *Node) Measure(now time.Duration, g *Region) {
	g.Reachable, g.Saved = n.health.Reachable(), n.saved
	g.Ejected, g.Held = n.health.Ejected(now), n.health.Held(now)
	g.Network, g.Deviation, g.Floor = n.network.Value(), n.network.Deviation(), n.network.Floor()
	g.Service, g.SuccessRate, g.FailureTime = n.service.Value(), n.health.Rate(now), n.failure.Value()
	if n.reported || n.saved {
		g.Service, g.Parallelism, g.Arrivals = n.load.Service, n.load.Parallelism, n.load.Arrivals
		g.Unseen = uint32(n.queue.total)
		g.InFlight = n.load.InFlight + g.Unseen
	}
	if sent, due := n.awaited.oldest(); due && now-sent > n.overdue(g) {
		n.suspect, n.suspectSince = true, sent
	}
	g.Suspect = n.suspect
}

// NetworkTime is n and its mean deviation d; 0 before the first sample of its own: a remembered path that got longer must
// not cut the first probe short.
func (n *Node) NetworkTime() (value, deviation time.Duration) {
	if n.saved {
		return 0, 0
	}
	return n.network.Value(), n.network.Deviation()
}

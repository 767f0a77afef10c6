// Package sim plays the arbitration scenarios in virtual time: routers that choose, regions that queue, links that delay,
// lose and break, and one policy at a time that must answer the viewers' calls.
//
//	scenarios/*.json + matrix --> world --> run(policy, seed) --> outcome --> rows
//	                                          |  one heap of events, no goroutine, no clock but its own
//	                                          +-- the production picker (router/arbiter), ports of other balancers, a bound
//
// Invariants. The same scenario, matrix, policy and seed give the same outcome, bit for bit. All policies see the same
// arrivals, the same work per call and the same luck per message (common random numbers). Arrivals are open-loop: a slow
// answer never delays the next call. Every call ends exactly once: answered, shed or failed.
//
// It does not run processes, sockets or gRPC, and its README.md lists what else it cannot show.
package sim

import (
	"math"
	"time"
)

// event is one thing that happens at a time. Events of the same instant happen in the order of their making.
type event struct {
	at   time.Duration
	seq  uint64
	kind kind
	id   int32 // of the attempt, call or router
	arg  int32
}

type kind uint8

const (
	arrival   kind = iota // id router: a viewer calls
	deliver               // id attempt: it reaches its region
	finish                // id attempt: the region has worked it off
	answer                // id attempt: the router hears of it
	tryOver               // id attempt: the time for one attempt is over
	hedgeDue              // id attempt: no answer so far, ask another region as well
	deadline              // id call: the viewer gives up
	probeDue              // id router, arg region
	probeOver             // id attempt: the probe counts as lost
	wake                  // id router: its policy asked for it
	faultEdge             // id fault: it starts or ends
	coldProbe             // id router: the new process looks around before it takes over
	coldSwap              // id router: it takes over
)

// queue is a binary heap of events.
type queue struct {
	events []event
	seq    uint64
}

func (q *queue) before(i, j int) bool {
	a, b := &q.events[i], &q.events[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.events = append(q.events, e)
	i := len(q.events) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !q.before(i, parent) {
			break
		}
		q.events[i], q.events[parent] = q.events[parent], q.events[i]
		i = parent
	}
}

func (q *queue) pop() event {
	top := q.events[0]
	last := len(q.events) - 1
	q.events[0] = q.events[last]
	q.events = q.events[:last]
	i := 0
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if q.before(child, least) {
				least = child
			}
		}
		if least == i {
			return top
		}
		q.events[i], q.events[least] = q.events[least], q.events[i]
		i = least
	}
}

// Purposes of a random draw: each has its own stream, so that a policy's choices cannot shift another's luck.
const (
	drawArrival = iota + 1
	drawWork
	drawJitter
	drawLoss
	drawGray
	drawError
	drawZone
	drawPolicy
	drawProbe
	drawBound
	drawPlace
)

// uniform is a draw in [0,1) that depends on its arguments alone.
func uniform(seed, purpose, a, b uint64) float64 {
	x := mix(seed ^ mix(purpose^mix(a^mix(b+0x9e3779b97f4a7c15))))
	return float64(x>>11) / (1 << 53)
}

// mix is the finaliser of splitmix64 (Steele, Lea and Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func exponential(u float64) float64 { return -math.Log1p(-u) }

func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func toMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

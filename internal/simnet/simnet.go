// Package simnet carries gRPC calls between services in virtual time, over links that delay, lose, double and cut.
//
//	generated client ── Conn(from, to) ──> link from→to ──> Host(to): interceptors, handler
//	                 <─────────────────── link to→from <──
//
// Services register at a Host as at any server, and reach each other through generated clients over Conn. Every message
// is encoded and decoded, never shared; metadata, status details, cancellation and deadlines cross the link as messages
// do. A lost message of a unary call is silence until the caller's deadline, or a torn connection; a lost message of a
// stream always tears it. What tears ends in UNAVAILABLE for the caller and in a cancelled context for the handler.
//
// It belongs in a testing/synctest bubble: delays are timers, and a message arrives only when everything else waits.
// A run replays from its seed as far as the Go scheduler allows: what happens to a message is drawn from the seed, its
// link, its method and its number there, and no two messages arrive in the same instant.
//
// It does not model bandwidth, connections' set-up, flow control in bytes, compression or message size limits.
package simnet

import (
	"cmp"
	"context"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config describes a network.
type Config struct {
	// Seed decides every draw.
	Seed uint64
	// Link gives the quality of the one-way path between two hosts. nil: every link is perfect and takes no time.
	Link func(from, to string) Link
	// Keepalive is how long a stream's ends take to notice a cut. Zero: 5 s.
	Keepalive time.Duration
}

// Link is the quality of a one-way path. Shares are 0 to 1.
type Link struct {
	// Delay is what every message takes.
	Delay time.Duration
	// Jitter is added to Delay, evenly drawn between zero and this. Messages of one stream stay in order.
	Jitter time.Duration
	// Loss is the share of messages that never arrive.
	Loss float64
	// Torn is the share of lost unary messages that the caller sees at once, as UNAVAILABLE; the rest is silence.
	Torn float64
	// Duplicate is the share of unary requests that arrive twice. The second answer goes nowhere.
	Duplicate float64
}

// Stats counts what the network did to messages and calls.
type Stats struct {
	// Calls were begun by clients.
	Calls int
	// Messages were given to a link, requests and answers.
	Messages int
	// Lost messages met Loss: Silent ones nobody notices, Torn ones ended their call.
	Lost, Silent, Torn int
	// Duplicated unary requests were handled twice.
	Duplicated int
	// Cut messages met a cut link or came from a host that is down.
	Cut int
	// Refused calls found their host down or unknown.
	Refused int
	// Broken calls ended because a host went down or a cut was noticed.
	Broken int
}

// Network connects hosts.
type Network struct {
	cfg   Config
	start time.Time
	wg    sync.WaitGroup // handlers

	mu     sync.Mutex // never held while anything waits
	closed bool
	idle   []chan func() // handlers' goroutines that have nothing to do
	hosts  map[string]*Host
	links  map[path]Link // overrides of Config.Link
	cuts   map[path]bool
	sent   map[lane]uint64
	coming []arrival     // the earliest last; no two at the same instant
	sooner chan struct{} // size 1: the earliest is another; nil: nobody delivers yet
	calls  map[uint64]*call
	nextID uint64
	stats  Stats

	// Of draw, kept for the next one.
	name []byte
	pcg  rand.PCG
	rand *rand.Rand // over pcg
}

type path struct{ from, to string }

func (p path) back() path { return path{p.to, p.from} }

// lane numbers the messages of a method on a path, so that a race between two methods changes no draw.
type lane struct {
	path
	method string
}

const defaultKeepalive = 5 * time.Second

// New makes a network without hosts.
func New(cfg Config) *Network {
	if cfg.Keepalive == 0 {
		cfg.Keepalive = defaultKeepalive
	}
	if cfg.Link == nil {
		cfg.Link = func(string, string) Link { return Link{} }
	}
	n := &Network{
		cfg: cfg, start: time.Now(),
		hosts: map[string]*Host{}, links: map[path]Link{}, cuts: map[path]bool{},
		sent: map[lane]uint64{}, calls: map[uint64]*call{},
	}
	n.rand = rand.New(&n.pcg)
	return n
}

// Host is the server of a name, made at its first mention.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.hosts[name]
	if !ok {
		h = &Host{net: n, name: name, services: map[string]*service{}}
		h.life, h.kill = context.WithCancel(context.Background())
		n.hosts[name] = h
	}
	return h
}

// Conn is a client's connection. Neither end must exist yet; opts apply to every call.
func (n *Network) Conn(from, to string, opts ...grpc.CallOption) grpc.ClientConnInterface {
	return &conn{net: n, path: path{from, to}, opts: opts}
}

// SetLink replaces the quality of a one-way path from now on.
func (n *Network) SetLink(from, to string, link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[path{from, to}] = link
}

// Cut drops every message from one host to another, until Heal. Messages under way still arrive; streams between the
// two break when keepalive notices.
func (n *Network) Cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := path{from, to}
	n.cuts[p] = true
	for _, c := range n.sorted() {
		if !c.unary && (c.up.path == p || c.down.path == p) {
			n.noticeCut(c)
		}
	}
}

// CutBoth cuts both ways.
func (n *Network) CutBoth(a, b string) {
	n.Cut(a, b)
	n.Cut(b, a)
}

// Heal undoes Cut.
func (n *Network) Heal(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, path{from, to})
}

// HealBoth undoes CutBoth.
func (n *Network) HealBoth(a, b string) {
	n.Heal(a, b)
	n.Heal(b, a)
}

// HealAll undoes every cut.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

// Stats counts so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Close ends every call and waits for the handlers. Calls after it fail with CANCELLED, like on a closed connection.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	for _, c := range n.sorted() {
		n.endClient(c, errClosed)
	}
	for _, h := range n.hosts {
		h.kill()
	}
	for _, work := range n.idle {
		close(work)
	}
	n.idle, n.coming = nil, nil
	if n.sooner != nil {
		select {
		case n.sooner <- struct{}{}:
		default:
		}
	}
	n.mu.Unlock()
	n.wg.Wait()
}

var errClosed = status.New(codes.Canceled, "simnet: the network is closed")

// The methods below are called with the mutex held.

func (n *Network) link(p path) Link {
	if l, ok := n.links[p]; ok {
		return l
	}
	return n.cfg.Link(p.from, p.to)
}

func (n *Network) down(name string) bool {
	h, ok := n.hosts[name]
	return ok && h.down
}

// sorted gives the open calls in the order of their making: a map's order would not replay.
func (n *Network) sorted() []*call {
	calls := make([]*call, 0, len(n.calls))
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		calls = append(calls, n.calls[id])
	}
	return calls
}

// handle runs a handler on a goroutine that ran others before, if one is free: its stack has grown to what a database
// needs. Growing a stack for each call took a tenth of all time.
func (n *Network) handle(f func()) {
	if last := len(n.idle) - 1; last >= 0 {
		n.idle[last] <- f
		n.idle = n.idle[:last]
		return
	}
	work := make(chan func(), 1)
	work <- f
	n.wg.Go(func() {
		for f := range work {
			f()
			n.mu.Lock()
			if n.closed {
				n.mu.Unlock()
				return
			}
			n.idle = append(n.idle, work)
			n.mu.Unlock()
		}
	})
}

// fate is what happens to one message.
type fate struct {
	lost, torn, duplicate bool
	delay, secondDelay    time.Duration
}

func (n *Network) draw(p path, method string) fate {
	l := lane{p, method}
	n.sent[l]++
	n.name = n.name[:0]
	for _, part := range []string{p.from, p.to, method} {
		n.name = append(append(n.name, part...), 0)
	}
	h := fnv.New64a()
	h.Write(strconv.AppendUint(n.name, n.sent[l], 10))
	n.pcg.Seed(n.cfg.Seed, h.Sum64())
	r := n.rand
	link := n.link(p)
	delay := func() time.Duration {
		const grain = time.Microsecond // distinct instants from the seed, rather than from who comes first
		return link.Delay + time.Duration(r.Float64()*float64(link.Jitter)) + time.Duration(r.Int64N(int64(grain)))
	}
	return fate{
		lost: r.Float64() < link.Loss, torn: r.Float64() < link.Torn, duplicate: r.Float64() < link.Duplicate,
		delay: delay(), secondDelay: delay(),
	}
}

func (n *Network) now() time.Duration { return time.Since(n.start) }

// arrival is what happens at an instant since the start.
type arrival struct {
	instant time.Duration
	happen  func()
}

// at runs f, mutex held, at an instant that it shares with nothing else, not before the given one.
func (n *Network) at(instant time.Duration, f func()) {
	if n.closed {
		return
	}
	place, taken := n.placeOf(instant)
	for taken {
		instant++
		place, taken = n.placeOf(instant)
	}
	n.coming = slices.Insert(n.coming, place, arrival{instant, f})
	if place < len(n.coming)-1 {
		return
	}
	if n.sooner == nil {
		n.sooner = make(chan struct{}, 1)
		n.wg.Go(n.deliver)
	}
	select {
	case n.sooner <- struct{}{}:
	default:
	}
}

func (n *Network) placeOf(instant time.Duration) (place int, taken bool) {
	return slices.BinarySearchFunc(n.coming, instant, func(a arrival, t time.Duration) int { return cmp.Compare(t, a.instant) })
}

// deliver lets arrivals happen until the network is closed. One goroutine does it: a timer and a goroutine of its own for
// each message took a twentieth of all time.
func (n *Network) deliver() {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-n.sooner:
		case <-due.C: // only now, so that nothing arrives while anything else can still go on
			n.happen()
		}
		n.mu.Lock()
		closed, wait := n.closed, time.Duration(-1)
		if last := len(n.coming) - 1; last >= 0 {
			wait = max(n.coming[last].instant-n.now(), 0)
		}
		n.mu.Unlock()
		if closed {
			return
		}
		if due.Stop(); wait >= 0 {
			due.Reset(wait)
		}
	}
}

// happen runs what is due.
func (n *Network) happen() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for last := len(n.coming) - 1; last >= 0 && n.coming[last].instant <= n.now(); last = len(n.coming) - 1 {
		f := n.coming[last].happen
		n.coming[last] = arrival{}
		n.coming = n.coming[:last]
		f()
	}
}

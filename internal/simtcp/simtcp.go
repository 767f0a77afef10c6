// Package simtcp carries bytes between hosts in virtual time, as TCP does over links that delay, lose and cut.
//
//	Dial ── SYN, again after 1, 2, 4 s ──> Listener        no listener: refused; no power: silence
//	Write ── segment ──> link ──> Read at the other end    lost or cut: again after a round trip and 200 ms, doubling
//	      <── acknowledgement ── link back
//
// What was sent arrives once, in order and late, or its connection ends. An end whose bytes nobody acknowledges for the
// user timeout (RFC 5482; grpc-go sets it to its keepalive timeout) gives up by itself and tells nobody. A process that
// is killed leaves a kernel that resets what still arrives; a host without power is silent, and resets once it is back.
//
// It belongs in a testing/synctest bubble: delays are timers, and everything that waits does so in a sync.Cond or a
// channel. Draws follow from the seed and the order of segments on a path, which the Go scheduler has a say in.
//
// It does not model bandwidth, congestion, half-closed connections or reordering that TCP would hide.
package simtcp

import (
	"hash/fnv"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Config describes a network.
type Config struct {
	// Seed decides every draw.
	Seed uint64
	// Link gives the quality of the one-way path between two hosts, now. nil: every link is perfect and takes no time.
	Link func(from, to string) Link
	// DialledTimeout and AcceptedTimeout are how long bytes may stay unacknowledged, for the ends that dialled and those
	// that accepted. Zero: 15 min, about what a kernel takes by itself.
	DialledTimeout, AcceptedTimeout time.Duration
}

// Link is the quality of a one-way path.
type Link struct {
	// Delay is what every segment takes.
	Delay time.Duration
	// Jitter is added to Delay, evenly drawn between zero and this. Bytes stay in order.
	Jitter time.Duration
	// Loss is the share of segments, 0 to 1, that have to be sent again.
	Loss float64
}

// Stats counts what the network did.
type Stats struct {
	// Connections were established.
	Connections int
	// Segments were written; Lost counts those that had to be sent again, and Cut those that met a cut or a host without power.
	Segments, Lost, Cut int
	// Refused dials found nobody listening.
	Refused int
	// Reset connections were ended by the other host, TimedOut ones by their own for want of acknowledgements.
	Reset, TimedOut int
}

const (
	kernelTimeout = 15 * time.Minute
	// retransmit is the least time on top of a round trip before bytes are sent again; synRetry the same for a dial.
	retransmit = 200 * time.Millisecond
	synRetry   = time.Second
	// socketBuffer is how many bytes may be under way or unread before a writer waits.
	socketBuffer = 1 << 20
)

// Network connects hosts, by name. A host needs no more making than its first mention.
type Network struct {
	cfg Config

	mu        sync.Mutex // never held while anything waits
	closed    chan struct{}
	listeners map[string]*Listener
	off       map[string]bool // without power
	conns     []*Conn         // open ends, in the order of their making
	cuts      map[path]bool
	draws     map[path]*rand.Rand
	stats     Stats
}

type path struct{ from, to string }

func (p path) back() path { return path{p.to, p.from} }

// New makes a network.
func New(cfg Config) *Network {
	if cfg.Link == nil {
		cfg.Link = func(string, string) Link { return Link{} }
	}
	for _, timeout := range []*time.Duration{&cfg.DialledTimeout, &cfg.AcceptedTimeout} {
		if *timeout == 0 {
			*timeout = kernelTimeout
		}
	}
	return &Network{
		cfg: cfg, closed: make(chan struct{}),
		listeners: map[string]*Listener{}, off: map[string]bool{}, cuts: map[path]bool{}, draws: map[path]*rand.Rand{},
	}
}

// Cut loses every segment from one host to another, until Heal. Those under way still arrive.
func (n *Network) Cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[path{from, to}] = true
}

// Heal undoes Cut.
func (n *Network) Heal(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, path{from, to})
}

// HealAll undoes every cut.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

// Kill ends a host's process: its ends and its listener are gone, and the kernel resets the other ends.
func (n *Network) Kill(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.forget(host) {
		n.resetPeer(c)
	}
}

// PowerOff ends a host at once. Nobody is told; what is sent to it vanishes.
func (n *Network) PowerOff(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forget(host)
	n.off[host] = true
}

// PowerOn lets a host answer again: that it knows no connection of before.
func (n *Network) PowerOn(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.off, host)
}

// Stats counts so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Close ends every connection, listener and dial.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.isClosed() {
		return
	}
	close(n.closed)
	for _, l := range n.listeners {
		l.shut()
	}
	for _, c := range slices.Clone(n.conns) {
		n.end(c, syscall.ENETDOWN)
	}
}

// The methods below are called with the mutex held.

func (n *Network) isClosed() bool {
	select {
	case <-n.closed:
		return true
	default:
		return false
	}
}

// forget ends everything of a host, and returns its ends.
func (n *Network) forget(host string) []*Conn {
	if l := n.listeners[host]; l != nil {
		l.shut()
	}
	var gone []*Conn
	for _, c := range slices.Clone(n.conns) {
		if c.path.from == host {
			n.end(c, syscall.ECONNABORTED)
			gone = append(gone, c)
		}
	}
	return gone
}

// fate is what happens to one segment now. Not lost, it takes some time. A host without power sends nothing: no answer
// either to what arrives there.
func (n *Network) fate(p path) (takes time.Duration, lost bool) {
	if n.cuts[p] || n.off[p.from] {
		n.stats.Cut++
		return 0, true
	}
	r := n.draws[p]
	if r == nil {
		h := fnv.New64a()
		h.Write([]byte(p.from + "\x00" + p.to))
		r = rand.New(rand.NewPCG(n.cfg.Seed, h.Sum64()))
		n.draws[p] = r
	}
	link := n.cfg.Link(p.from, p.to)
	if r.Float64() < link.Loss {
		n.stats.Lost++
		return 0, true
	}
	return link.Delay + time.Duration(r.Float64()*float64(link.Jitter)), false
}

func (n *Network) roundTrip(p path) time.Duration {
	there, back := n.cfg.Link(p.from, p.to), n.cfg.Link(p.to, p.from)
	return there.Delay + there.Jitter + back.Delay + back.Jitter
}

// after runs f, mutex held, unless the network is closed by then.
func (n *Network) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.isClosed() {
			f()
		}
	})
}

// send gives a segment to the link, and again until it is acknowledged or the sender gives up.
func (n *Network) send(c *Conn, s *segment) {
	s.sent = time.Now()
	n.stats.Segments++
	if !c.peer.gone {
		c.peer.in = append(c.peer.in, s)
		c.peer.unread += len(s.data)
	}
	n.transmit(c, s)
}

func (n *Network) transmit(c *Conn, s *segment) {
	if c.gone || s.acked {
		return
	}
	patience := c.timeout - time.Since(s.sent)
	if patience <= 0 {
		n.stats.TimedOut++
		n.end(c, syscall.ETIMEDOUT)
		return
	}
	again := time.Now().Add(min((n.roundTrip(c.path)+retransmit)<<s.tries, patience))
	s.tries++
	retry := func() { n.after(time.Until(again), func() { n.transmit(c, s) }) }
	takes, lost := n.fate(c.path)
	if lost {
		retry()
		return
	}
	n.after(takes, func() {
		if !n.arrive(c, s) {
			retry()
		}
	})
}

// arrive brings a segment to the other end. false: nothing comes back.
func (n *Network) arrive(c *Conn, s *segment) (answered bool) {
	there := c.peer
	if s.open && !there.gone && !there.accepted {
		l := n.listeners[c.path.to]
		if l == nil {
			n.end(there, syscall.ECONNABORTED)
		} else {
			there.accepted = true
			l.backlog = append(l.backlog, there)
			l.wake.Signal()
		}
	}
	if there.gone || there.shut && len(s.data) > 0 {
		return n.resetPeer(there)
	}
	s.arrived = true
	there.wake.Broadcast()
	if s.fin && there.shut { // both are done
		n.end(c, net.ErrClosed)
		n.end(there, net.ErrClosed)
		return true
	}
	_, lost := n.fate(c.path.back())
	s.acked = !lost
	return s.acked
}

// resetPeer tells the other end of c that c is gone, if that gets through.
func (n *Network) resetPeer(c *Conn) bool {
	takes, lost := n.fate(c.path)
	if !lost {
		n.after(takes, func() {
			if !c.peer.gone {
				n.stats.Reset++
				n.end(c.peer, syscall.ECONNRESET)
			}
		})
	}
	return !lost
}

// end is the end of an end: nothing leaves it any more, and whoever waits there gets the error.
func (n *Network) end(c *Conn, err error) {
	if c.gone {
		return
	}
	c.gone, c.err = true, err
	c.in, c.unread = nil, 0
	n.conns = slices.DeleteFunc(n.conns, func(other *Conn) bool { return other == c })
	c.wake.Broadcast()
	c.peer.wake.Broadcast() // who waited for room
}

//rimlight:bubble everything here runs in synctest bubbles

package gossip_test

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// probesEnd is when a closed member's last probe is over: memberlist does not wait for its goroutines, and a bubble
// does not end before them.
const probesEnd = 30 * time.Second

// links is an in-memory network for memberlist in virtual time: packets and connections take a delay, and pairs of
// addresses can be cut. (memberlist's own mock blocks its senders for ever once a receiver shut down.)
type links struct {
	delay time.Duration

	mu    sync.Mutex
	ends  map[string]*transport
	group map[string]int // addresses of different groups do not hear each other
	ports int
}

func newLinks(t *testing.T, delay time.Duration) *links {
	t.Cleanup(func() { time.Sleep(probesEnd) }) // runs last, after every member has left
	return &links{delay: delay, ends: map[string]*transport{}, group: map[string]int{}}
}

// split puts addresses into a group of their own.
func (l *links) split(group int, addrs ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs {
		l.group[a] = group
	}
}

func (l *links) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.group)
}

func (l *links) newTransport() *transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports++
	t := &transport{
		links: l, addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(l.ports)), Port: 7946},
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 64),
	}
	l.ends[t.addr.String()] = t
	return t
}

// reach is the listening end, if a message gets there now.
func (l *links) reach(from, to string) *transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.group[from] != l.group[to] {
		return nil
	}
	return l.ends[to]
}

// transport implements memberlist.Transport.
type transport struct {
	links   *links
	addr    *net.TCPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.IP, t.addr.Port, nil
}

func (t *transport) WriteTo(b []byte, to string) (time.Time, error) {
	packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: t.addr}
	time.AfterFunc(t.links.delay, func() {
		if end := t.links.reach(t.addr.String(), to); end != nil {
			packet.Timestamp = time.Now()
			select {
			case end.packets <- packet:
			default: // a full buffer loses packets, like UDP's
			}
		}
	})
	return time.Now(), nil
}

func (t *transport) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	wait := 2 * t.links.delay
	end := t.links.reach(t.addr.String(), to)
	if end == nil {
		wait = timeout
	}
	<-time.After(wait)
	if end == nil {
		return nil, errors.New("no answer")
	}
	mine, theirs := net.Pipe()
	select {
	case end.streams <- theirs:
		return mine, nil
	default:
		return nil, fmt.Errorf("%s: the backlog is full", to)
	}
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) Shutdown() error {
	t.links.mu.Lock()
	defer t.links.mu.Unlock()
	delete(t.links.ends, t.addr.String())
	return nil
}

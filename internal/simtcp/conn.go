package simtcp

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a connection.
type Conn struct {
	net     *Network
	path    path
	peer    *Conn
	timeout time.Duration
	wake    *sync.Cond // of the network's mutex: something below changed

	// Guarded by the network's mutex.
	in       []*segment // written by the peer and not read, in order
	unread   int        // bytes in it
	accepted bool       // the listener has it
	shut     bool       // Close was called: what was written still leaves
	gone     bool       // nothing leaves any more, for this reason
	err      error

	readBy, writeBy deadline
}

var _ net.Conn = (*Conn)(nil)

// segment is what one Write wrote, the opening of a connection, or its end.
type segment struct {
	data      []byte
	open, fin bool
	sent      time.Time
	tries     int
	arrived   bool
	acked     bool
}

func (n *Network) pair(p path) (dialled, accepted *Conn) {
	dialled = &Conn{net: n, path: p, timeout: n.cfg.DialledTimeout, wake: sync.NewCond(&n.mu)}
	accepted = &Conn{net: n, path: p.back(), timeout: n.cfg.AcceptedTimeout, wake: sync.NewCond(&n.mu)}
	dialled.peer, accepted.peer = accepted, dialled
	return dialled, accepted
}

// Dial connects one host to another. It tries until the context ends, unless the other host refuses.
func (n *Network) Dial(ctx context.Context, from, to string) (*Conn, error) {
	p := path{from, to}
	for pause := synRetry; ; pause *= 2 {
		again := time.Now().Add(pause)
		c, answered, err := n.knock(ctx, p)
		if answered || err != nil {
			if err != nil {
				err = &net.OpError{Op: "dial", Net: "sim", Addr: addr(to), Err: err}
			}
			return c, err
		}
		if err := n.sleep(ctx, time.Until(again)); err != nil {
			return nil, &net.OpError{Op: "dial", Net: "sim", Addr: addr(to), Err: err}
		}
	}
}

// knock sends one SYN and waits for what comes back, if anything does.
func (n *Network) knock(ctx context.Context, p path) (c *Conn, answered bool, err error) {
	n.mu.Lock()
	takes, lost := n.fate(p)
	n.mu.Unlock()
	if lost {
		return nil, false, nil
	}
	if err := n.sleep(ctx, takes); err != nil {
		return nil, false, err
	}
	n.mu.Lock()
	listens := n.listeners[p.to] != nil
	takes, lost = n.fate(p.back())
	n.mu.Unlock()
	if lost {
		return nil, false, nil
	}
	if err := n.sleep(ctx, takes); err != nil {
		return nil, false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !listens {
		n.stats.Refused++
		return nil, true, syscall.ECONNREFUSED
	}
	if n.isClosed() || n.off[p.from] {
		return nil, true, syscall.ENETDOWN
	}
	n.stats.Connections++
	c, accepted := n.pair(p)
	n.conns = append(n.conns, c, accepted)
	n.send(c, &segment{open: true})
	return c, true, nil
}

func (n *Network) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.closed:
		return syscall.ENETDOWN
	}
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		for len(c.in) > 0 && c.in[0].arrived && c.in[0].open {
			c.in = c.in[1:]
		}
		switch {
		case c.shut:
			return 0, c.failed("read", net.ErrClosed)
		case c.gone:
			return 0, c.failed("read", c.err)
		case c.readBy.passed():
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		case len(c.in) > 0 && c.in[0].arrived:
			head := c.in[0]
			if head.fin {
				return 0, io.EOF
			}
			n := copy(b, head.data)
			if head.data = head.data[n:]; len(head.data) == 0 {
				c.in = c.in[1:]
			}
			c.unread -= n
			c.peer.wake.Broadcast() // it has room again
			return n, nil
		}
		c.wake.Wait()
	}
}

// Write implements net.Conn. It returns when the bytes are under way; what becomes of them shows later.
func (c *Conn) Write(b []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		switch {
		case c.shut:
			return 0, c.failed("write", net.ErrClosed)
		case c.gone:
			return 0, c.failed("write", c.err)
		case c.writeBy.passed():
			return 0, c.failed("write", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case c.peer.unread < socketBuffer:
			c.net.send(c, &segment{data: append([]byte(nil), b...)})
			return len(b), nil
		}
		c.wake.Wait()
	}
}

// Close implements net.Conn. What was written still arrives, if it can.
func (c *Conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.shut {
		return c.failed("close", net.ErrClosed)
	}
	c.shut = true
	c.readBy.stop()
	c.writeBy.stop()
	if !c.gone {
		c.net.send(c, &segment{fin: true})
	}
	c.wake.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return addr(c.path.from) }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return addr(c.path.to) }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.readBy, &c.writeBy) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.readBy) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writeBy) }

func (c *Conn) setDeadlines(t time.Time, which ...*deadline) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.shut {
		return c.failed("set", net.ErrClosed)
	}
	for _, d := range which {
		d.set(t, c.net, c.wake)
	}
	c.wake.Broadcast()
	return nil
}

func (c *Conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "sim", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// deadline ends a wait. The network's mutex guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) set(at time.Time, n *Network, wake *sync.Cond) {
	d.stop()
	d.at = at
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			wake.Broadcast()
		})
	}
}

// Listener takes the connections to a host.
type Listener struct {
	net  *Network
	host string
	wake *sync.Cond // of the network's mutex

	// Guarded by the network's mutex.
	backlog []*Conn
	closed  bool
}

var _ net.Listener = (*Listener)(nil)

// Listen takes a host's connections from now on. One listener at a time.
func (n *Network) Listen(host string) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[host] != nil {
		return nil, fmt.Errorf("simtcp: listening at %s: %w", host, syscall.EADDRINUSE)
	}
	l := &Listener{net: n, host: host, wake: sync.NewCond(&n.mu)}
	n.listeners[host] = l
	return l, nil
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.wake.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "sim", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close implements net.Listener. It may be called again.
func (l *Listener) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.shut()
	return nil
}

// shut is called with the mutex held. Connections that nobody accepted are reset.
func (l *Listener) shut() {
	if l.closed {
		return
	}
	l.closed = true
	delete(l.net.listeners, l.host)
	for _, c := range l.backlog {
		l.net.end(c, syscall.ECONNABORTED)
		l.net.resetPeer(c)
	}
	l.wake.Broadcast()
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return addr(l.host) }

// addr is a host's name.
type addr string

// Network implements net.Addr.
func (addr) Network() string { return "sim" }

// String implements net.Addr.
func (a addr) String() string { return cmp.Or(string(a), "nowhere") }

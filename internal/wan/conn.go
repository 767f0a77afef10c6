package wan

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// chunk is how much one read of the underlying connection takes.
	chunk = 32 << 10
	// inFlight is how many bytes a direction holds before the writer waits: what 100 Mbit/s fill in 0.3 s.
	inFlight = 4 << 20
	// linger is how long Close waits for a peer that does not read.
	linger = 250 * time.Millisecond
)

// Conn is a connection over a path: what one end writes reaches the other half a round trip later. Only one end of a
// connection is wrapped; it delays both directions.
//
//	Write -> out -> pumpOut -> base.Write        base.Read -> pumpIn -> in -> Read
type Conn struct {
	base    net.Conn
	path    Path
	out, in *flight

	readLimit, writeLimit *deadline

	closeOnce sync.Once
	closed    chan struct{} // Close was called
	closeErr  error
	resetOnce sync.Once
	reset     chan struct{} // Switch.Reset was called
	outDone   chan struct{}
	inDone    chan struct{}
}

var _ net.Conn = (*Conn)(nil)

// NewConn puts a connection on a path. The caller must Close it, as two goroutines run until then.
func NewConn(base net.Conn, path Path) *Conn {
	c := &Conn{
		base: base, path: path, out: newFlight(), in: newFlight(), readLimit: newDeadline(), writeLimit: newDeadline(),
		closed: make(chan struct{}), reset: make(chan struct{}), outDone: make(chan struct{}), inDone: make(chan struct{}),
	}
	path.Switch.add(c)
	go c.pumpOut()
	go c.pumpIn()
	return c
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.base.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.base.RemoteAddr() }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		select {
		case <-c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case <-c.reset:
			return 0, c.opError("read", ErrReset)
		case <-c.readLimit.wait():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		default:
		}
		if len(b) == 0 {
			return 0, nil
		}
		n, due, changed, err := c.in.take(b, c.path.Switch.isCut())
		if n > 0 || errors.Is(err, io.EOF) {
			return n, err
		}
		if err != nil {
			return 0, c.opError("read", err)
		}
		if err := c.sleep(due, changed, c.readLimit, "read"); err != nil {
			return 0, err
		}
	}
}

// Write implements net.Conn. It returns when the bytes are under way; an error of the far end shows at a later Write.
func (c *Conn) Write(b []byte) (int, error) {
	var written int
	for {
		select {
		case <-c.closed:
			return written, c.opError("write", net.ErrClosed)
		case <-c.reset:
			return written, c.opError("write", ErrReset)
		case <-c.writeLimit.wait():
			return written, c.opError("write", os.ErrDeadlineExceeded)
		default:
		}
		n, changed, err := c.out.put(b[written:], c.path.oneWay())
		written += n
		if err != nil {
			return written, c.opError("write", err)
		}
		if written == len(b) {
			return written, nil
		}
		if err := c.sleep(time.Time{}, changed, c.writeLimit, "write"); err != nil {
			return written, err
		}
	}
}

// sleep waits until something changed, or until due when that is set.
func (c *Conn) sleep(due time.Time, changed <-chan struct{}, limit *deadline, op string) error {
	var arrival <-chan time.Time
	if !due.IsZero() {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		arrival = timer.C
	}
	select {
	case <-arrival:
	case <-changed:
	case <-c.closed:
		return c.opError(op, net.ErrClosed)
	case <-c.reset:
		return c.opError(op, ErrReset)
	case <-limit.wait():
		return c.opError(op, os.ErrDeadlineExceeded)
	}
	return nil
}

// Close ends the connection. Like a socket with SO_LINGER it first waits until the bytes already written have left, which
// takes half a round trip; a peer that does not read is given up 250 ms later, a cut path at once.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		close(c.closed)
		c.path.Switch.remove(c)
		giveUp := time.Now().Add(linger)
		if due := c.out.lastDue(); due.After(time.Now()) {
			giveUp = due.Add(linger)
		}
		_ = c.base.SetWriteDeadline(giveUp) // fails only when writes fail too
		<-c.outDone
		c.closeErr = c.base.Close()
		<-c.inDone
		select {
		case <-c.reset: // the base was closed before
			c.closeErr = nil
		default:
		}
	})
	return c.closeErr
}

// abort is Switch.Reset.
func (c *Conn) abort() {
	c.resetOnce.Do(func() {
		close(c.reset)
		_ = c.base.Close() // Close reports what matters
	})
}

// pumpOut lets written bytes arrive at their time. After Close it goes on until nothing is under way.
func (c *Conn) pumpOut() {
	defer close(c.outDone)
	for {
		data, due, changed := c.out.head()
		if data == nil {
			select {
			case <-changed:
			case <-c.reset:
				return
			case <-c.closed:
				if c.out.empty() {
					return
				}
			}
			continue
		}
		if !c.hold(due) {
			return
		}
		if _, err := c.base.Write(data); err != nil {
			c.out.end(err, 0)
			return
		}
		c.out.pop()
	}
}

// hold waits until bytes may arrive; false when they never will.
func (c *Conn) hold(due time.Time) bool {
	if wait := time.Until(due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.reset:
			return false
		}
	}
	for healed := c.path.Switch.isCut(); healed != nil; healed = c.path.Switch.isCut() {
		select {
		case <-healed:
		case <-c.reset:
			return false
		case <-c.closed:
			return false
		}
	}
	return true
}

// pumpIn takes what the far end wrote; Read waits for its time.
func (c *Conn) pumpIn() {
	defer close(c.inDone)
	buffer := make([]byte, chunk)
	for {
		n, err := c.base.Read(buffer)
		for data := buffer[:n]; len(data) > 0; {
			taken, changed, _ := c.in.put(data, c.path.oneWay())
			data = data[taken:]
			if len(data) == 0 {
				break
			}
			select {
			case <-changed:
			case <-c.closed:
				return
			case <-c.reset:
				return
			}
		}
		if err != nil {
			c.in.end(err, c.path.oneWay())
			return
		}
	}
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setLimit(c.readLimit, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setLimit(c.writeLimit, t) }

func (c *Conn) setLimit(limit *deadline, t time.Time) error {
	select {
	case <-c.closed:
		return c.opError("set", net.ErrClosed)
	default:
		limit.set(t)
		return nil
	}
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

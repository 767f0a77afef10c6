package wan

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// DialFunc opens a connection to an address, like grpc.WithContextDialer wants it.
type DialFunc func(ctx context.Context, addr string) (net.Conn, error)

// Path is what lies between two ends. The zero value is no delay.
type Path struct {
	// RTT is the round trip now; half of it is added to each direction. Called once per chunk of bytes. Nil: 0.
	RTT func() time.Duration
	// Switch cuts the path. Nil: it is never cut.
	Switch *Switch
}

func (p Path) oneWay() time.Duration {
	if p.RTT == nil {
		return 0
	}
	return max(0, p.RTT()/2)
}

// Dialer makes base's connections take a path: the dial itself takes one round trip, like TCP's handshake, also when it is
// refused.
func Dialer(base DialFunc, path Path) DialFunc {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		rtt := 2 * path.oneWay()
		if err := path.Switch.wait(ctx); err != nil {
			return nil, fmt.Errorf("dialling %s over a cut path: %w", addr, err)
		}
		conn, err := base(ctx, addr)
		timer := time.NewTimer(rtt)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			if err == nil {
				_ = conn.Close() // never handed out
			}
			return nil, fmt.Errorf("dialling %s: %w", addr, ctx.Err())
		}
		if err != nil {
			return nil, err
		}
		return NewConn(conn, path), nil
	}
}

// ErrReset is what reads and writes end in after Switch.Reset.
var ErrReset = fmt.Errorf("wan: %w", syscall.ECONNRESET)

// Switch cuts and heals a path, for any number of connections. The zero value lets everything through.
//
// While it is cut, nothing arrives and no dial succeeds: reads hang, and writes once as much is under way as a path
// holds. After Heal everything arrives, in order, as TCP would have sent it again.
type Switch struct {
	mu     sync.Mutex
	healed chan struct{}      // closed by Heal; nil while the path is whole
	conns  map[*Conn]struct{} // open over this path
}

// Cut stops the path. Cutting twice is cutting once.
func (s *Switch) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healed == nil {
		s.healed = make(chan struct{})
	}
}

// Heal lets the path go on.
func (s *Switch) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healed != nil {
		close(s.healed)
		s.healed = nil
	}
}

// Reset breaks the connections that are open now: their reads and writes end in ErrReset, what was under way is lost. New
// dials are not affected.
func (s *Switch) Reset() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
}

func (s *Switch) add(c *Conn) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
}

func (s *Switch) remove(c *Conn) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// isCut returns a channel that closes when the path heals; nil when it is whole.
func (s *Switch) isCut() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.healed
}

// wait returns when the path is whole or the context ended.
func (s *Switch) wait(ctx context.Context) error {
	for healed := s.isCut(); healed != nil; healed = s.isCut() {
		select {
		case <-healed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

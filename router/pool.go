package router

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"google.golang.org/grpc"
)

// pool holds one connection per endpoint.
type pool struct {
	dial func(name, address string) (Conn, error)

	mu    sync.RWMutex
	conns map[string]Conn // replaced, never changed
}

// endpoint is whom to dial.
type endpoint struct{ name, address string }

// get is a connection by its key; nil when there is none.
func (p *pool) get(key string) grpc.ClientConnInterface {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if c, ok := p.conns[key]; ok {
		return c
	}
	return nil
}

// all lists the connections by key.
func (p *pool) all() map[string]Conn {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.conns
}

// set dials what is missing and gives up what is not wanted any more; the caller closes that. Only one goroutine at a
// time may call it. What could not be dialled is tried again with the next call.
func (p *pool) set(wanted map[string]endpoint) (retired []Conn, errs []error) {
	next := make(map[string]Conn, len(wanted))
	old := p.all()
	for key, e := range wanted {
		if c, ok := old[key]; ok {
			next[key] = c
			continue
		}
		c, err := p.dial(e.name, e.address)
		if err != nil {
			errs = append(errs, fmt.Errorf("dialling %s at %s: %w", e.name, e.address, err))
			continue
		}
		next[key] = c
	}
	for key, c := range old {
		if _, stays := next[key]; !stays {
			retired = append(retired, c)
		}
	}
	p.mu.Lock()
	p.conns = next
	p.mu.Unlock()
	return retired, errs
}

func (p *pool) close() error {
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	var errs []error
	for c := range maps.Values(conns) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

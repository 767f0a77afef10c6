package store

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"

	"github.com/rimlight/rimlight/internal/sqldb"
)

// counted is the database with a count of what was written, the failed attempts too. What leaves leases, units and drops as
// they are may pass by it.
type counted struct {
	*sqldb.DB
	writes atomic.Uint64
}

// Write is sqldb.DB's.
func (c *counted) Write(ctx context.Context, fn func(*sql.Tx) error) error {
	defer c.writes.Add(1) // whoever was answered sees the new count
	return c.DB.Write(ctx, fn)
}

// memo keeps what every heartbeat reads until the next write: most heartbeats come when nothing changed since the last, and
// would read the same again. Only a process that is alone on its store may believe it. The zero value is ready.
type memo[K comparable, V any] struct {
	mu     sync.Mutex // guards what is below
	writes uint64     // when known was read
	known  map[K]V
}

// recall is what is known under a key, or what read says.
func recall[K comparable, V any](m *memo[K, V], db *counted, key K, read func() (V, error)) (V, error) {
	if !db.Alone() {
		return read()
	}
	writes := db.writes.Load() // before reading: what comes in between makes the answer older than it is
	m.mu.Lock()
	v, ok := m.known[key]
	ok = ok && m.writes == writes
	m.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := read()
	if err != nil {
		return v, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || m.writes < writes {
		m.writes, m.known = writes, map[K]V{}
	}
	if m.writes == writes {
		m.known[key] = v
	}
	return v, nil
}

// forget drops what time has made wrong.
func (m *memo[K, V]) forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, key)
}

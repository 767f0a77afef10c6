package journal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Disk is what survives a crash of a simulated machine. One Memory at a time may be open on it.
type Disk struct {
	mu        sync.Mutex
	records   [][]byte
	snapshots []stored
}

// Copy is another disk with what is durable on this one: a data directory that somebody copied.
func (d *Disk) Copy() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Disk{records: slices.Clone(d.records)}
}

// Memory is the engine for tests in virtual time: records are durable when they reached the Disk.
type Memory struct {
	*writer
	disk     *Disk
	syncTime time.Duration
}

// MemoryOptions are the properties of a simulated disk.
type MemoryOptions struct {
	// QueueRecords bounds what waits for the next commit. 0: 4,096.
	QueueRecords int
	// SyncTime is how long one commit takes. 0: no time at all.
	SyncTime time.Duration
	// Fault is asked at every stage of a commit; see Options.
	Fault func(Stage) error
}

// OpenMemory opens a journal on a simulated disk.
func (d *Disk) OpenMemory(o MemoryOptions) *Memory {
	d.mu.Lock()
	last := int64(len(d.records))
	d.mu.Unlock()
	return &Memory{disk: d, syncTime: o.SyncTime, writer: newWriter(last, o.QueueRecords, o.Fault, func(_ int64, payloads [][]byte) error {
		if o.SyncTime > 0 {
			time.Sleep(o.SyncTime)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, p := range payloads {
			d.records = append(d.records, slices.Clone(p))
		}
		return nil
	})}
}

// ReadAfter implements Journal.
func (m *Memory) ReadAfter(_ context.Context, sequence int64, limit int) ([]Record, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	var out []Record
	for i := max(sequence, 0); i < int64(len(m.disk.records)) && len(out) < limit; i++ {
		out = append(out, Record{Sequence: i + 1, Payload: slices.Clone(m.disk.records[i])})
	}
	return out, nil
}

// SaveSnapshot implements Journal.
func (m *Memory) SaveSnapshot(_ context.Context, s Snapshot) error {
	return m.save(func() error {
		if m.syncTime > 0 {
			time.Sleep(m.syncTime)
		}
		d := m.disk
		d.mu.Lock()
		defer d.mu.Unlock()
		if s.Through > int64(len(d.records)) || s.Through <= s.After {
			return fmt.Errorf("%w: there is no record %d after record %d", ErrSnapshot, s.Through, s.After)
		}
		digest := s.digest(d.records[s.Through-1])
		s.Payload = slices.Clone(s.Payload)
		d.snapshots = slices.DeleteFunc(d.snapshots, func(old stored) bool { return old.Through > s.After })
		d.snapshots = append(d.snapshots, stored{Snapshot: s, digest: digest[:]})
		return nil
	})
}

// ReadSnapshots implements Journal.
func (m *Memory) ReadSnapshots(_ context.Context, fn func(Snapshot) error) error {
	through := int64(0)
	for i := 0; ; i++ {
		s, ok := m.disk.snapshot(i)
		if !ok {
			return nil
		}
		if err := s.follow(through); err != nil {
			return err
		}
		if err := fn(s.Snapshot); err != nil {
			return err
		}
		through = s.Through
	}
}

func (d *Disk) snapshot(i int) (s stored, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i >= len(d.snapshots) {
		return stored{}, false
	}
	s = d.snapshots[i]
	if s.found = s.Through <= int64(len(d.records)); s.found {
		s.record = d.records[s.Through-1]
	}
	return s, true
}

// SpoilSnapshot flips a bit in the newest snapshot, and tells whether there is one.
func (d *Disk) SpoilSnapshot() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.snapshots) == 0 {
		return false
	}
	newest := &d.snapshots[len(d.snapshots)-1]
	newest.Payload = slices.Clone(newest.Payload)
	newest.Payload[len(newest.Payload)/2] ^= 1
	return true
}

// CheckStructure implements Journal: memory has none.
func (m *Memory) CheckStructure(context.Context) error { return nil }

// Resume implements Journal. Whether there is room is the Fault's to say.
func (m *Memory) Resume(context.Context) error {
	return m.resume(func() (int64, error) {
		m.disk.mu.Lock()
		defer m.disk.mu.Unlock()
		return int64(len(m.disk.records)), nil
	})
}

// Close implements Journal.
func (m *Memory) Close() error {
	m.close()
	return nil
}

// Crash is a power cut: what is queued is lost, nobody is told of what became durable at the last moment, and the Disk
// may be opened again.
func (m *Memory) Crash() { m.crash() }

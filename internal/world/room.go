package world

import (
	"context"
	"sync"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/region/journal"
)

// room is which disks are full, and what was refused for that.
type room struct {
	mu      sync.Mutex // guards what is below
	full    map[string]int
	spans   []FullSpan
	refused []RoomRefusal
}

// FullSpan is a time in which a node's disk was full.
type FullSpan struct {
	Host     string
	From, To time.Duration
}

// RoomRefusal is one call that a node refused for want of room.
type RoomRefusal struct {
	Host string
	At   time.Duration
}

// fillDisk leaves no room on a node's disk for a while.
func (w *world) fillDisk(ctx context.Context, f Fault) {
	x := &w.room
	change := func(by int) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.full == nil {
			x.full = map[string]int{}
		}
		x.full[f.Host] += by
	}
	from := time.Since(w.start)
	change(1)
	w.sleepUntil(ctx, f.At+f.For)
	change(-1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.spans = append(x.spans, FullSpan{f.Host, from, time.Since(w.start)})
}

// atRoom is what a journal meets that needs room on its host's disk.
func (x *room) atRoom(host string, s journal.Stage) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.full[host] > 0 && s != journal.AfterCommit {
		return journal.ErrNoSpace
	}
	return nil
}

func (x *room) refuse(host string, at time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refused = append(x.refused, RoomRefusal{host, at})
}

// stillFull asks the nodes in the end which of them accept nothing.
func (w *world) stillFull(ctx context.Context) []string {
	var full []string
	for _, n := range w.allNodes() {
		answer, err := regionv1.NewRegionServiceClient(w.net.Conn("operator", n.name)).Probe(ctx, &regionv1.ProbeRequest{})
		if n.isFenced() { // perhaps while it was asked
			continue
		}
		if err != nil || answer.GetJournalFull() {
			full = append(full, n.name)
		}
	}
	return full
}

func (w *world) readRoom(ctx context.Context, e *Evidence) {
	e.StillFull = w.stillFull(ctx)
	w.room.mu.Lock()
	defer w.room.mu.Unlock()
	e.FullSpans, e.RoomRefusals = w.room.spans, w.room.refused
}

// afterRoom is how long a node may go on to refuse when there is room: the pause between two looks, and the slowest fsync.
const afterRoom = 5 * time.Second

func roomIsFound(e *Evidence, _ *index, broken func(string, ...any)) {
	for _, host := range e.StillFull {
		broken("%s accepts nothing, though its disk has room", host)
	}
	for _, r := range e.RoomRefusals {
		meant := false
		for _, s := range e.FullSpans {
			meant = meant || s.Host == r.Host && s.From <= r.At && r.At <= s.To+afterRoom
		}
		if !meant {
			broken("%s refused a call for want of room after %v, when there was room", r.Host, r.At)
		}
	}
}

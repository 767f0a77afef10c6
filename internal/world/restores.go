package world

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// restore puts an old copy in the place of fulfillment's store, while it is down, and marks it as `rimlight restore` does. The
// lost store is closed with the world: a call of the last life may still be on its way to it.
func (w *world) restore(ctx context.Context, backup []byte) error {
	db, err := sqldb.OpenImage(ctx, backup)
	if err != nil {
		return fmt.Errorf("restoring fulfillment: %w", err)
	}
	c := w.centre
	c.lostDBs, c.stockDB = append(c.lostDBs, c.stockDB), db
	return fulfillment.MarkRestored(ctx, db, c.fulfillment.clock.now())
}

// restored tells that fulfillment went on from an old backup.
func (e *Evidence) restored() bool {
	return slices.ContainsFunc(e.Config.Schedule, func(f Fault) bool { return f.Kind == Restore })
}

// givenUp is when a lease was given up, for the units that redemptions name; false: it was not. A lease that was lost with
// fulfillment's store is given up with the frozen one that its unit was in.
func (e *Evidence) givenUp(lease string, serial uint32) (time.Duration, bool) {
	if end, given := e.Tombstones[lease]; given || !e.restored() {
		return end, given
	}
	if slices.ContainsFunc(e.Leases, func(l Lease) bool { return l.ID == lease }) {
		return 0, false
	}
	for _, l := range e.Leases {
		if end, given := e.Tombstones[l.ID]; given && l.Epoch == 0 && slices.Contains(l.Serials, serial) {
			return end, true
		}
	}
	return 0, false
}

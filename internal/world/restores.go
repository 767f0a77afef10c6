package world

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/saga"
)

// database is the store of a host of the centre.
func (c *centre) database(host string) **sqldb.DB {
	if host == "verifier" {
		return &c.verifierDB
	}
	return &c.stockDB
}

// restore puts an old copy in the place of a service's store, while it is down, and marks it as `rimlight restore` does. The
// lost store is closed with the world: a call of the last life may still be on its way to it.
func (w *world) restore(ctx context.Context, h *host, backup []byte) error {
	db, err := sqldb.OpenImage(ctx, backup)
	if err != nil {
		return fmt.Errorf("restoring %s: %w", h.name, err)
	}
	store := w.centre.database(h.name)
	lost := *store
	w.centre.lostDBs, *store = append(w.centre.lostDBs, lost), db
	if h.name != "verifier" {
		return fulfillment.MarkRestored(ctx, db, h.clock.now())
	}
	l, err := whatIsLost(ctx, lost, db)
	if err != nil {
		return err
	}
	w.watch.lose(l)
	return verifier.MarkRestored(ctx, db, h.clock.now())
}

// Lost is what a verifier's lost store had and the backup that took its place had not, as far as docs/operations.md says that
// it does not come back. A law excuses these purchases, and no other ones.
type Lost struct {
	Cancelled map[string]bool  // tokens
	Released  map[string]bool  // units that no path could settle any more, as Candidate.unit names them; true: it had been settled
	Histories map[string][]int // all states of purchases that went on after the backup, by purchase
}

// whatIsLost compares a lost store with the backup.
func whatIsLost(ctx context.Context, lost, backup *sqldb.DB) (Lost, error) {
	before, err := readMemory(ctx, lost)
	if err != nil {
		return before, err
	}
	after, err := readMemory(ctx, backup)
	maps.DeleteFunc(before.Cancelled, func(tok string, _ bool) bool { return after.Cancelled[tok] })
	maps.DeleteFunc(before.Released, func(unit string, _ bool) bool { _, known := after.Released[unit]; return known })
	maps.DeleteFunc(before.Histories, func(id string, states []int) bool { return slices.Equal(states, after.Histories[id]) })
	return before, err
}

func readMemory(ctx context.Context, db *sqldb.DB) (Lost, error) {
	l := Lost{Cancelled: map[string]bool{}, Released: map[string]bool{}, Histories: map[string][]int{}}
	var none []struct{}
	return l, errors.Join(
		rows(ctx, db, &none, func(scan func(...any) error) (x struct{}, err error) {
			var tok []byte
			err = scan(&tok)
			l.Cancelled[hex.EncodeToString(tok)] = true
			return x, err
		}, fmt.Sprintf(`SELECT token_id FROM purchases WHERE reason = %d`, saga.Cancelled)),
		rows(ctx, db, &none, func(scan func(...any) error) (x struct{}, err error) {
			var tok, lease []byte
			c := Candidate{}
			err = scan(&tok, &lease, &c.Serial, &c.Settled)
			c.Token, c.Lease = hex.EncodeToString(tok), uuid(lease)
			l.Released[c.unit()] = c.Settled != 0
			return x, err
		}, fmt.Sprintf(`SELECT token_id, lease_id, serial, settled FROM candidates WHERE state IN (%d, %d)`, toRelease, released)),
		rows(ctx, db, &none, func(scan func(...any) error) (x struct{}, err error) {
			var id []byte
			var state int
			err = scan(&id, &state)
			l.Histories[hex.EncodeToString(id)] = append(l.Histories[hex.EncodeToString(id)], state)
			return x, err
		}, `SELECT p.purchase_id, e.state FROM events e JOIN purchases p ON p.token_id = e.token_id ORDER BY e.cursor`),
	)
}

// lostCancel tells that a verifier forgot that it refused a token for ever.
func (e *Evidence) lostCancel(token string) bool {
	return slices.ContainsFunc(e.Lost, func(l Lost) bool { return l.Cancelled[token] })
}

// lostRelease tells that a verifier forgot that it gave a redemption's unit back: fulfillment may have sold it to somebody else.
// A token that gave back a unit that it had gets no other one, so that its duplicates are denied, too.
func (e *Evidence) lostRelease(c *Candidate, all []*Candidate) bool {
	return slices.ContainsFunc(e.Lost, func(l Lost) bool {
		_, gone := l.Released[c.unit()]
		return gone || slices.ContainsFunc(all, func(other *Candidate) bool { return l.Released[other.unit()] })
	})
}

// endsAgain tells that a viewer was told the end of a purchase by a verifier that forgot it, and that the purchase came to
// the same end again, under another signature, or to one that differs as docs/operations.md says.
func (e *Evidence) endsAgain(p *Purchase, end Ending) bool {
	told := saga.State(offerv1.PurchaseState_value[end.State])
	if !slices.ContainsFunc(e.lives(p.ID), func(states []int) bool { return slices.Contains(states, int(told)) }) {
		return false
	}
	switch {
	case told == p.State, e.lostCancel(p.Token):
		return true
	case told == saga.Refused && end.Reason == errorsv1.Reason_REASON_VIEWER_LIMIT.String():
		return true // another one of the session counts
	case told == saga.Refused || told == saga.Voucher:
		return p.Reason == saga.UnitDenied || p.Reason == saga.ViewerLimit
	}
	return false
}

// lives are the histories of a purchase that a verifier forgot, in their order.
func (e *Evidence) lives(purchase string) (lives [][]int) {
	for _, l := range e.Lost {
		if states := l.Histories[purchase]; states != nil {
			lives = append(lives, states)
		}
	}
	return lives
}

// restored tells that a service went on from an old backup.
func (e *Evidence) restored(host string) bool { return e.Config.restores(host) }

func (c Config) restores(host string) bool {
	return slices.ContainsFunc(c.Schedule, func(f Fault) bool { return f.Kind == Restore && f.Host == host })
}

// losesKeys tells a host whose signing key nobody may know any more: fulfillment's newest part is lost, and so is the disk of the node,
// which would have said it again. Whatever the key signed is lost with it.
func (c Config) losesKeys(host string) bool {
	lost := func(host string, kinds ...Kind) bool {
		return slices.ContainsFunc(c.Schedule, func(f Fault) bool {
			return slices.Contains(kinds, f.Kind) && site(f.Host) == site(host)
		})
	}
	return lost("fulfillment", Restore) && lost(host, LoseDisk, Replace)
}

// givenUp is when a lease was given up, for the units that redemptions name; false: it was not. A lease that was lost with
// fulfillment's store is given up with the frozen one that its unit was in.
func (e *Evidence) givenUp(lease string, serial uint32) (time.Duration, bool) {
	if end, given := e.Tombstones[lease]; given || !e.restored("fulfillment") {
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

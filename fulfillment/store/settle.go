package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/rimlight/rimlight/internal/sqldb"
)

// Settle makes units K's by compare-and-set, each claim on its own, in one transaction. The units of all claims are read
// and held, and those that change are written, together.
func (s *Store) Settle(ctx context.Context, claims []Claim) ([]Verdict, error) {
	var verdicts []Verdict
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		if err := breakSettle(ctx, tx, claims); err != nil {
			return err
		}
		facts, err := s.settleFacts(ctx, tx, claims)
		if err == nil {
			err = facts.thaw(ctx, tx, claims)
		}
		if err != nil {
			return err
		}
		verdicts = make([]Verdict, len(claims))
		var sold []Claim
		for i, c := range claims {
			v, sell := facts.judge(c)
			if verdicts[i] = v; sell {
				facts.sell(c)
				sold = append(sold, c)
			}
		}
		return sell(ctx, tx, sold)
	})
	if err != nil {
		return nil, fmt.Errorf("settling units: %w", err)
	}
	return verdicts, nil
}

// unitKey is a unit's primary key.
type unitKey struct {
	drop   ID
	serial uint32
}

func (c Claim) key() unitKey { return unitKey{c.DropID, c.Serial} }

// unit is a row of units; nil ids are NULL.
type unit struct {
	serial       uint32
	state        int
	lease, token []byte
}

// settleFacts is what the verdicts on a batch of claims depend on.
type settleFacts struct {
	units map[unitKey]unit
	// has tells that K has a unit; released what K gave back, gaveBack that one of those was its own.
	has, gaveBack map[ID]bool
	released      map[Claim]bool
	leases        map[[2]ID]bool // with their drops
}

func (s *Store) settleFacts(ctx context.Context, tx *sql.Tx, claims []Claim) (*settleFacts, error) {
	f := &settleFacts{has: map[ID]bool{}, gaveBack: map[ID]bool{}, released: map[Claim]bool{}, leases: map[[2]ID]bool{}}
	var keys []unitKey
	var tokens, leases [][]byte
	for _, c := range claims {
		keys, tokens = append(keys, c.key()), append(tokens, c.TokenID[:])
		if key := [2]ID{c.LeaseID, c.DropID}; !f.leases[key] {
			f.leases[key] = true
			leases = append(leases, c.LeaseID[:])
		}
	}
	clear(f.leases)
	var err error
	if f.units, err = s.holdUnits(ctx, tx, keys); err != nil {
		return nil, err
	}
	for some := range sqldb.Pieces(tokens) {
		in := sqldb.Values(1, len(some))
		if err := each(ctx, tx, func(r *sql.Rows) error {
			var token []byte
			err := r.Scan(&token)
			f.has[ID(token)] = true
			return err
		}, `SELECT token_id FROM units WHERE token_id IN `+in, sqldb.Args(some)...); err != nil {
			return nil, err
		}
		if err := each(ctx, tx, func(r *sql.Rows) error {
			var token, drop, lease []byte
			var serial uint32
			var wasSold bool
			if err := r.Scan(&token, &drop, &serial, &lease, &wasSold); err != nil {
				return err
			}
			f.released[Claim{ID(token), ID(drop), serial, ID(lease)}] = true
			f.gaveBack[ID(token)] = f.gaveBack[ID(token)] || wasSold
			return nil
		}, `SELECT token_id, drop_id, serial, lease_id, was_sold <> 0 FROM releases WHERE token_id IN `+in, sqldb.Args(some)...); err != nil {
			return nil, err
		}
	}
	for some := range sqldb.Pieces(leases) {
		if err := each(ctx, tx, func(r *sql.Rows) error {
			var lease, drop []byte
			err := r.Scan(&lease, &drop)
			if err == nil {
				f.leases[[2]ID{ID(lease), ID(drop)}] = true
			}
			return err
		}, `SELECT lease_id, drop_id FROM leases WHERE lease_id IN `+sqldb.Values(1, len(some)), sqldb.Args(some)...); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// holdUnits reads units that stay as they are until the transaction ends, in one order, so that two transactions do not
// wait for each other.
func (s *Store) holdUnits(ctx context.Context, tx *sql.Tx, keys []unitKey) (map[unitKey]unit, error) {
	serials := map[ID][]uint32{}
	for _, p := range keys {
		serials[p.drop] = append(serials[p.drop], p.serial)
	}
	units := make(map[unitKey]unit, len(keys))
	for _, drop := range sortedIDs(serials) {
		list := serials[drop]
		slices.Sort(list)
		for some := range sqldb.Pieces(slices.Compact(list)) {
			n := len(some)
			if err := each(ctx, tx, func(r *sql.Rows) error {
				var u unit
				err := r.Scan(&u.serial, &u.state, &u.lease, &u.token)
				units[unitKey{drop, u.serial}] = u
				return err
			}, `SELECT serial, state, lease_id, token_id FROM units WHERE serial IN `+sqldb.Values(1, n)+
				fmt.Sprintf(` AND drop_id = $%d ORDER BY serial`, n+1)+s.db.ForUpdate(), append(sqldb.Args(some), drop[:])...); err != nil {
				return nil, err
			}
		}
	}
	return units, nil
}

// thaw gives units that a restore froze to the leases that genuine receipts name and nobody here ever heard of: they were
// granted by what was lost.
func (f *settleFacts) thaw(ctx context.Context, tx *sql.Tx, claims []Claim) error {
	for _, c := range claims {
		u, known := f.units[c.key()]
		if !known || u.state != leased || bytes.Equal(u.lease, c.LeaseID[:]) || f.leases[[2]ID{c.LeaseID, c.DropID}] || f.released[c] {
			continue
		}
		n, err := affected(tx.ExecContext(ctx, `UPDATE units SET lease_id = $1 WHERE drop_id = $2 AND serial = $3 AND lease_id = $4
			AND EXISTS (SELECT 1 FROM leases l WHERE l.lease_id = $4 AND l.epoch = $5)`, c.LeaseID[:], c.DropID[:], c.Serial, u.lease, frozenEpoch))
		if err != nil {
			return fmt.Errorf("taking a unit out of a frozen lease: %w", err)
		}
		if n > 0 {
			u.lease = c.LeaseID[:]
			f.units[c.key()] = u
		}
	}
	return nil
}

// judge says what becomes of a claim, and whether its unit is to be sold.
func (f *settleFacts) judge(c Claim) (v Verdict, sell bool) {
	u, known := f.units[c.key()]
	switch {
	case !known || !bytes.Equal(u.lease, c.LeaseID[:]):
		if !f.leases[[2]ID{c.LeaseID, c.DropID}] {
			return NoLease, false
		}
		return NotYours, false
	case u.state == sold && bytes.Equal(u.token, c.TokenID[:]):
		return Settled, false
	case u.state != leased:
		return NotYours, false
	// K is barred from another unit while it has one and after it gave one back, and from this one after its release.
	case f.has[c.TokenID] || f.gaveBack[c.TokenID] || f.released[c]:
		return NotYours, false
	}
	return Settled, true
}

// sell keeps the facts true for the next claim.
func (f *settleFacts) sell(c Claim) {
	f.units[c.key()] = unit{c.Serial, sold, c.LeaseID[:], c.TokenID[:]}
	f.has[c.TokenID] = true
}

// sell writes the units of claims, all of which are held and leased to the claims' leases: the INSERT never inserts.
func sell(ctx context.Context, tx *sql.Tx, claims []Claim) error {
	for some := range sqldb.Pieces(claims) {
		args := make([]any, 0, 5*len(some))
		for _, c := range some {
			args = append(args, c.DropID[:], c.Serial, sold, c.LeaseID[:], c.TokenID[:])
		}
		n := len(args)
		changed, err := affected(tx.ExecContext(ctx, `INSERT INTO units (drop_id, serial, state, lease_id, token_id) VALUES `+sqldb.Values(len(some), 5)+
			fmt.Sprintf(` ON CONFLICT (drop_id, serial) DO UPDATE SET state = excluded.state, token_id = excluded.token_id
			WHERE units.state = $%d AND units.lease_id = excluded.lease_id`, n+1), append(args, leased)...))
		if err != nil {
			return err
		}
		if changed != len(some) {
			return fmt.Errorf("%d of %d units changed while they were held", len(some)-changed, len(some))
		}
	}
	return nil
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/internal/dropclock"
)

// States of a unit.
const (
	free   = 1
	leased = 2
	sold   = 3
)

// Claim is one purchase's claim on a unit.
type Claim struct {
	TokenID ID // K
	DropID  ID
	Serial  uint32
	LeaseID ID
}

// Verdict is the answer to a claim. It is final: the same claim gets the same one for ever, until a Release turns a yes
// into a no.
type Verdict int

// The verdicts.
const (
	// Settled: the unit is K's.
	Settled Verdict = iota + 1
	// NotYours: the unit is not leased to that lease, or K had its unit already, or K released this one.
	NotYours
	// NoLease: that lease of that drop was never granted.
	NoLease
)

// Release frees units that are SOLD to K, or still LEASED to the lease that K took them from (the serial of a duplicate),
// each claim once for ever, and says how many became free.
func (s *Store) Release(ctx context.Context, claims []Claim, now time.Time) (freed int, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		freed = 0
		for _, c := range claims {
			if err := s.hold(ctx, tx, c.DropID, c.Serial); err != nil {
				return err
			}
			n, err := release(ctx, tx, c, now)
			if err != nil {
				return fmt.Errorf("unit %d of drop %v: %w", c.Serial, c.DropID, err)
			}
			freed += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("releasing units: %w", err)
	}
	return freed, nil
}

// hold keeps a unit as it is until the transaction ends, where others could change it meanwhile: a Settle between the
// steps of a Release would leave a unit sold that was released.
func (s *Store) hold(ctx context.Context, tx *sql.Tx, drop ID, serial uint32) error {
	if s.db.ForUpdate() == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, `SELECT 1 FROM units WHERE drop_id = $1 AND serial = $2`+s.db.ForUpdate(), drop[:], serial)
	return err
}

func release(ctx context.Context, tx *sql.Tx, c Claim, now time.Time) (int, error) {
	wasSold, err := affected(tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = NULL, token_id = NULL
		WHERE drop_id = $2 AND serial = $3 AND state = $4 AND token_id = $5 AND lease_id = $6`,
		free, c.DropID[:], c.Serial, sold, c.TokenID[:], c.LeaseID[:]))
	if err != nil {
		return 0, err
	}
	// The record is the fence: it is written even if there is nothing to free, because a Settle may still be on its way.
	_, err = tx.ExecContext(ctx, `INSERT INTO releases (token_id, drop_id, serial, lease_id, was_sold, release_time_us)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (token_id, drop_id, serial, lease_id) DO NOTHING`,
		c.TokenID[:], c.DropID[:], c.Serial, c.LeaseID[:], wasSold, now.UnixMicro())
	if err != nil || wasSold > 0 {
		return wasSold, err
	}
	// A repeat frees nothing here: the unit left this lease, and no unit ever comes back to a lease.
	return affected(tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = NULL
		WHERE drop_id = $2 AND serial = $3 AND state = $4 AND lease_id = $5`, free, c.DropID[:], c.Serial, leased, c.LeaseID[:]))
}

// Unmade units of a drop, those after the first made ones, are FREE without a row. A drop of 100,000 would take seconds to
// plan otherwise, most of them for keys and indexes.
const unmade = `d.units - d.made`

// unmadeOf counts the unmade units of a drop; ErrNoRows: there is no such drop.
func unmadeOf(ctx context.Context, tx *sql.Tx, drop ID) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT `+unmade+` FROM drops d WHERE d.drop_id = $1`, drop[:]).Scan(&n)
	return n, err
}

// makeUnits makes rows of the next n unmade units of a drop, FREE ones, with the serials that follow.
func makeUnits(ctx context.Context, tx *sql.Tx, drop ID, n int) error {
	if n <= 0 {
		return nil
	}
	var made int
	if err := tx.QueryRowContext(ctx, `UPDATE drops SET made = made + $1 WHERE drop_id = $2 RETURNING made`, n, drop[:]).Scan(&made); err != nil {
		return fmt.Errorf("counting units that are made: %w", err)
	}
	_, err := tx.ExecContext(ctx, `WITH RECURSIVE serials (n) AS (SELECT CAST($1 AS INTEGER) UNION ALL SELECT n + 1 FROM serials WHERE n < $2)
		INSERT INTO units (drop_id, serial, state) SELECT $3, n, $4 FROM serials`, made-n+1, made, drop[:], free)
	if err != nil {
		return fmt.Errorf("making units: %w", err)
	}
	return nil
}

// Level is the stock of one drop: Free + Leased + Quarantined + Sold = Units.
type Level struct{ Units, Free, Leased, Quarantined, Sold uint32 }

// Levels counts the units of drops, all in one committed state.
func (s *Store) Levels(ctx context.Context, drops []ID) (map[ID]Level, error) {
	return levels(ctx, s.db.Read(), drops)
}

func levels(ctx context.Context, q querier, drops []ID) (map[ID]Level, error) {
	all := make(map[ID]Level, len(drops))
	if len(drops) == 0 {
		return all, nil
	}
	args := []any{leased}
	places := make([]string, len(drops))
	for i, id := range drops {
		args = append(args, id[:])
		places[i] = fmt.Sprintf("$%d", len(args))
	}
	type count struct {
		drop     []byte
		state, n int64
	}
	in := ` IN (` + strings.Join(places, ", ") + `)`
	// State 0 counts those of the leased that are quarantined: there are few such leases, so joining all units to theirs
	// would cost more. Their state is no parameter: see ActiveLeases.
	rows, err := q.QueryContext(ctx, `SELECT drop_id, state, COUNT(*) FROM units WHERE drop_id`+in+` GROUP BY drop_id, state
		UNION ALL SELECT l.drop_id, 0, COUNT(*) FROM leases l JOIN units u ON u.lease_id = l.lease_id AND u.state = $1
		WHERE l.state = `+strconv.Itoa(quarantinedLease)+` AND l.drop_id`+in+` GROUP BY l.drop_id
		UNION ALL SELECT d.drop_id, `+strconv.Itoa(free)+`, `+unmade+` FROM drops d WHERE d.drop_id`+in, args...)
	counts, err := collect(rows, err, func(rows *sql.Rows) (c count, err error) { return c, rows.Scan(&c.drop, &c.state, &c.n) })
	if err != nil {
		return nil, fmt.Errorf("counting units: %w", err)
	}
	for _, c := range counts {
		l, n := all[ID(c.drop)], uint32(c.n)
		switch c.state {
		case free:
			l.Free += n
		case leased:
			l.Leased += n
		case 0:
			l.Quarantined = n
			l.Leased -= n // the sum comes out right in either order of the two rows
		case sold:
			l.Sold = n
		default:
			return nil, fmt.Errorf("counting units of drop %v: unknown state %d", ID(c.drop), c.state)
		}
		if c.state != 0 {
			l.Units += n
		}
		all[ID(c.drop)] = l
	}
	return all, nil
}

// Supply says of one drop whether there is anything left, without counting.
type Supply struct {
	Known              bool // the drop exists
	AnyFree, AnyLeased bool
	schedule           catalog.Schedule
}

// State is where the drop is at now.
func (p Supply) State(now time.Time) dropclock.State { return p.schedule.State(now) }

// Supply looks one drop up.
func (s *Store) Supply(ctx context.Context, id ID) (Supply, error) {
	return recall(&s.supplies, s.db, id, func() (Supply, error) { return s.supply(ctx, id) })
}

func (s *Store) supply(ctx context.Context, id ID) (Supply, error) {
	var p Supply
	var schedule scheduleScan
	err := s.db.Read().QueryRowContext(ctx, `SELECT `+scheduleColumns+`,
		`+unmade+` > 0 OR EXISTS (SELECT 1 FROM units u WHERE u.drop_id = d.drop_id AND u.state = $1),
		EXISTS (SELECT 1 FROM units u WHERE u.drop_id = d.drop_id AND u.state = $2)
		FROM drops d WHERE drop_id = $3`, free, leased, id[:]).Scan(append(schedule.columns(), &p.AnyFree, &p.AnyLeased)...)
	if errors.Is(err, sql.ErrNoRows) {
		return Supply{}, nil
	}
	if err != nil {
		return Supply{}, fmt.Errorf("looking for units of drop %v: %w", id, err)
	}
	p.Known, p.schedule = true, schedule.schedule()
	return p, nil
}

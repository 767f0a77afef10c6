package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/mutant"
)

// liveFor is how long a node counts as alive after it was last seen: long enough for an idle node's heartbeats (5 s) and
// a restart, short enough that the dead stop shrinking everybody's leases within one drop.
const liveFor = 30 * time.Second

// liveRefresh is how old a node's stamp must be before a heartbeat renews it: a third of liveFor saves nine in ten writes.
const liveRefresh = liveFor / 3

// Node is a node that joins.
type Node struct {
	ID     ID
	DiskID string
	Region string
	Key    *offerv1.SigningKey
	// Life counts the node's process lives, as its journal does; BootID tells two with the same number apart.
	Life   int64
	BootID string
	// Epoch is what its journal says; 0: it has not joined from this disk.
	Epoch int64
}

// Caller is a node's process as it names itself in every call after its Join.
type Caller struct {
	NodeID ID
	Epoch  int64
	BootID string
}

// Joined is the answer to a Join.
type Joined struct {
	Epoch int64
	// Quarantined leases were the lost disk's, put aside by this Join.
	Quarantined int
}

// Join registers a node with its disk, its process life and its key: docs/settlement.md 2.1. The first join makes epoch
// 1, the same disk gets the same epoch, and a new disk the next one: then the older leases are QUARANTINED. A disk that
// another took the place of gets DiskChangedError, a process life that another took the place of SupersededError,
// another node's key ErrKeyTaken.
func (s *Store) Join(ctx context.Context, n Node, now time.Time) (Joined, error) {
	var j Joined
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		var err error
		if j, err = place(ctx, tx, n, now); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE nodes SET disk_id = $1, epoch = $2, region = $3, life = $4, boot_id = $5 WHERE node_id = $6`,
			n.DiskID, j.Epoch, n.Region, n.Life, n.BootID, n.ID[:])
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO node_disks (node_id, disk_id, epoch) VALUES ($1, $2, $3) ON CONFLICT (node_id, disk_id) DO NOTHING`,
			n.ID[:], n.DiskID, j.Epoch)
		if err != nil {
			return err
		}
		return addKey(ctx, tx, n.ID[:], n.Key)
	})
	if err != nil {
		return Joined{}, fmt.Errorf("joining a node: %w", err)
	}
	return j, nil
}

// place finds the epoch of a node that joins, and puts the leases of a lost disk aside. It writes the node's row before it
// reads it, so that another Join or a Grant comes before all of this or after it.
func place(ctx context.Context, tx *sql.Tx, n Node, now time.Time) (Joined, error) {
	var disk, boot string
	var epoch, life int64
	// A journal that was given an epoch which is not known here was restored away from: nothing that it holds is its own.
	err := tx.QueryRowContext(ctx, `INSERT INTO nodes (node_id, disk_id, epoch, region, seen_time_us, life, boot_id)
		VALUES ($1, $2, $7, $3, $4, $5, $6) ON CONFLICT (node_id) DO UPDATE SET seen_time_us = excluded.seen_time_us
		RETURNING disk_id, epoch, life, boot_id`, n.ID[:], n.DiskID, n.Region, now.UnixMicro(), n.Life, n.BootID, n.Epoch+1).
		Scan(&disk, &epoch, &life, &boot)
	switch {
	case err != nil:
		return Joined{}, err
	case disk == n.DiskID && !mutant.On(mutant.LifeNotFenced) && (n.Life < life || n.Life == life && n.BootID != boot):
		return Joined{}, &SupersededError{n.ID}
	case disk == n.DiskID:
		return Joined{Epoch: epoch}, nil
	}
	var before bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM node_disks WHERE node_id = $1 AND disk_id = $2)`, n.ID[:], n.DiskID).Scan(&before); err != nil {
		return Joined{}, err
	}
	if before { // a new epoch for it would put the leases of the disk aside that is in use
		return Joined{}, &DiskChangedError{n.ID}
	}
	leases, err := quarantine(ctx, tx, n.ID, nil, now)
	if err != nil {
		return Joined{}, err
	}
	restore, err := restoreOf(ctx, tx)
	if restore.Time != 0 { // a disk that the backup does not know of may have had the next one
		epoch += lostEpochs
	}
	return Joined{Epoch: max(epoch, n.Epoch) + 1, Quarantined: leases}, err
}

// quarantine puts the ACTIVE leases of a node aside, those of one drop or of all, and says how many. A lease of which
// nothing is leased any more has nothing to wait for.
func quarantine(ctx context.Context, tx *sql.Tx, node ID, drop *ID, now time.Time) (int, error) {
	query, args := `UPDATE leases SET state = $1, quarantine_time_us = $2 WHERE node_id = $3 AND state = $4
		AND EXISTS (SELECT 1 FROM units u WHERE u.lease_id = leases.lease_id AND u.state = $5)`,
		[]any{quarantinedLease, now.UnixMicro(), node[:], activeLease, leased}
	if drop != nil {
		query, args = query+` AND drop_id = $6`, append(args, drop[:])
	}
	n, err := affected(tx.ExecContext(ctx, query, args...))
	if err != nil {
		return 0, fmt.Errorf("quarantining leases: %w", err)
	}
	return n, nil
}

// addKey keeps a public key; owner is a node's id, or nil for fulfillment itself.
func addKey(ctx context.Context, tx *sql.Tx, owner []byte, key *offerv1.SigningKey) error {
	var first []byte
	err := tx.QueryRowContext(ctx, `SELECT node_id FROM signing_keys WHERE key_id = $1`, key.GetKeyId()).Scan(&first)
	if err == nil {
		if !bytes.Equal(first, owner) {
			return ErrKeyTaken
		}
		return nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	position, err := draw(ctx, tx, nodeKey, 1)
	if err != nil {
		return err
	}
	body, err := proto.Marshal(key)
	if err != nil {
		return fmt.Errorf("encoding a signing key: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO signing_keys (position, key_id, node_id, key) VALUES ($1, $2, $3, $4)`,
		position, key.GetKeyId(), owner, body)
	return err
}

// Pulse is what every heartbeat asks. It tells which lists are worth reading, since they are empty for nearly all nodes at
// nearly all times.
type Pulse struct {
	// Keys is how many keys there are.
	Keys int64
	// AnyLive: units of some drop may be lent or sold now.
	AnyLive bool
	// AnyFence and AnyAside: Fences and PutAside have something for the node's epoch.
	AnyFence, AnyAside bool
}

// standing is what a heartbeat reads of its node.
type standing struct {
	epoch int64
	boot  string
	// seen is when the node was last seen, in microseconds. The stamps of heartbeats are not counted as writes, so they are
	// noted here.
	seen  atomic.Int64
	pulse Pulse
	// from and until, in microseconds, are when AnyLive is right: drops begin and end by the clock alone.
	from, until int64
}

// Seen checks who calls, notes that it is alive, and takes its pulse.
func (s *Store) Seen(ctx context.Context, c Caller, now time.Time) (Pulse, error) {
	key, read := holder{c.NodeID, c.Epoch}, func() (*standing, error) { return s.standing(ctx, c, now) }
	n, err := recall(&s.standings, s.db, key, read)
	if err == nil && (now.UnixMicro() < n.from || now.UnixMicro() >= n.until) {
		s.standings.forget(key)
		n, err = recall(&s.standings, s.db, key, read)
	}
	if err == nil {
		err = c.check(n.epoch, n.boot)
	}
	if err != nil {
		return Pulse{}, err
	}
	if now.Sub(fromMicros(n.seen.Load())) < liveRefresh {
		return n.pulse, nil
	}
	err = s.db.DB.Write(ctx, func(tx *sql.Tx) error { return admit(ctx, tx, c, now) })
	if err != nil {
		return Pulse{}, fmt.Errorf("stamping a node: %w", err)
	}
	n.seen.Store(now.UnixMicro())
	return n.pulse, nil
}

// standing reads it. The columns have no state as a parameter: see ActiveLeases.
func (s *Store) standing(ctx context.Context, c Caller, now time.Time) (*standing, error) {
	n := &standing{from: now.UnixMicro()}
	var seen int64
	var over, opening sql.NullInt64
	err := s.db.Read().QueryRowContext(ctx, `SELECT epoch, seen_time_us, boot_id,
			(SELECT value FROM counters WHERE name = '`+nodeKey+`'),
			(SELECT MIN(over_time_us) FROM drops WHERE settled_time_us IS NULL AND over_time_us > $2 AND open_time_us <= $3),
			(SELECT MIN(open_time_us) FROM drops WHERE settled_time_us IS NULL AND open_time_us > $3),
			EXISTS (SELECT 1 FROM fences WHERE node_id = $1 AND epoch = $4),
			EXISTS (SELECT 1 FROM leases WHERE node_id = $1 AND epoch = $4 AND state = `+strconv.Itoa(quarantinedLease)+`)
		FROM nodes WHERE node_id = $1`, c.NodeID[:], now.UnixMicro(), now.Add(dropclock.Lead).UnixMicro(), c.Epoch).
		Scan(&n.epoch, &seen, &n.boot, &n.pulse.Keys, &over, &opening, &n.pulse.AnyFence, &n.pulse.AnyAside)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, &NotJoinedError{c.NodeID}
	}
	if err != nil {
		return nil, fmt.Errorf("reading node %v: %w", c.NodeID, err)
	}
	n.seen.Store(seen)
	switch n.pulse.AnyLive = over.Valid; {
	case over.Valid:
		n.until = over.Int64
	case opening.Valid:
		n.until = opening.Int64 - dropclock.Lead.Microseconds()
	default:
		n.until = math.MaxInt64
	}
	return n, nil
}

// admit is the fence of docs/settlement.md 2.1 for whatever changes something: a compare-and-set on the node's row, so
// that a Join at the same time comes before it or after it, on every engine.
func admit(ctx context.Context, tx *sql.Tx, c Caller, now time.Time) error {
	n, err := affected(tx.ExecContext(ctx, `UPDATE nodes SET seen_time_us = $1 WHERE node_id = $2 AND epoch = $3 AND boot_id = $4`,
		now.UnixMicro(), c.NodeID[:], c.Epoch, c.BootID))
	if err != nil || n == 1 {
		return err
	}
	if err = checkCaller(ctx, tx, c); err == nil && !mutant.On(mutant.EpochNotFenced) && !mutant.On(mutant.LifeNotFenced) {
		err = fmt.Errorf("node %v changed meanwhile", c.NodeID)
	}
	return err
}

// checkCaller says why a caller is not the node as it joined last.
func checkCaller(ctx context.Context, q querier, c Caller) error {
	var epoch int64
	var boot string
	err := q.QueryRowContext(ctx, `SELECT epoch, boot_id FROM nodes WHERE node_id = $1`, c.NodeID[:]).Scan(&epoch, &boot)
	if errors.Is(err, sql.ErrNoRows) {
		return &NotJoinedError{c.NodeID}
	}
	if err != nil {
		return fmt.Errorf("reading node %v: %w", c.NodeID, err)
	}
	return c.check(epoch, boot)
}

// check holds a caller against the node's row.
func (c Caller) check(epoch int64, boot string) error {
	switch {
	case mutant.On(mutant.EpochNotFenced):
	case epoch != c.Epoch:
		return &EpochStaleError{c.Epoch, epoch}
	case boot != c.BootID && !mutant.On(mutant.LifeNotFenced):
		return &SupersededError{c.NodeID}
	}
	return nil
}

// liveNodes counts the nodes that were seen lately, at least one.
func liveNodes(ctx context.Context, tx *sql.Tx, now time.Time) (int, error) {
	var n int
	err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM nodes WHERE seen_time_us > $1`, now.Add(-liveFor).UnixMicro()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting live nodes: %w", err)
	}
	return max(n, 1), nil
}

// PositionedKey is a signing key with its place in the order of joining.
type PositionedKey struct {
	Position int64
	Key      *offerv1.SigningKey
}

// Keys lists the keys that joined after a position, in the order of joining. A negative limit means all.
func (s *Store) Keys(ctx context.Context, after int64, limit int) ([]PositionedKey, error) {
	if limit < 0 {
		limit = 1 << 30
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT position, key FROM signing_keys WHERE position > $1 ORDER BY position LIMIT CAST($2 AS BIGINT)`, after, limit)
	keys, err := collect(rows, err, func(rows *sql.Rows) (PositionedKey, error) {
		var raw []byte
		k := PositionedKey{Key: &offerv1.SigningKey{}}
		if err := rows.Scan(&k.Position, &raw); err != nil {
			return k, err
		}
		return k, proto.Unmarshal(raw, k.Key)
	})
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	return keys, nil
}

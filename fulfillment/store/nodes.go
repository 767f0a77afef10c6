package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
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
}

// Join registers a node with its disk and key and returns its epoch. The first join makes epoch 1; the same disk gets the
// same epoch for ever; another disk gets DiskChangedError, another node's key ErrKeyTaken.
func (s *Store) Join(ctx context.Context, n Node, now time.Time) (epoch int64, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		var disk string
		err := tx.QueryRowContext(ctx, `SELECT disk_id, epoch FROM nodes WHERE node_id = $1`, n.ID[:]).Scan(&disk, &epoch)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			epoch = 1
		case err != nil:
			return err
		case disk != n.DiskID:
			return &DiskChangedError{n.ID}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO nodes (node_id, disk_id, epoch, region, seen_time_us) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (node_id) DO UPDATE SET region = excluded.region, seen_time_us = excluded.seen_time_us`,
			n.ID[:], n.DiskID, epoch, n.Region, now.UnixMicro())
		if err != nil {
			return err
		}
		return addKey(ctx, tx, n)
	})
	if err != nil {
		return 0, fmt.Errorf("joining a node: %w", err)
	}
	return epoch, nil
}

func addKey(ctx context.Context, tx *sql.Tx, n Node) error {
	var owner []byte
	err := tx.QueryRowContext(ctx, `SELECT node_id FROM node_keys WHERE key_id = $1`, n.Key.GetKeyId()).Scan(&owner)
	if err == nil {
		if !bytes.Equal(owner, n.ID[:]) {
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
	key, err := proto.Marshal(n.Key)
	if err != nil {
		return fmt.Errorf("encoding a signing key: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO node_keys (position, key_id, node_id, key) VALUES ($1, $2, $3, $4)`,
		position, n.Key.GetKeyId(), n.ID[:], key)
	return err
}

// Seen checks a node's epoch and notes that it is alive.
func (s *Store) Seen(ctx context.Context, id ID, epoch int64, now time.Time) error {
	seen, err := checkEpoch(ctx, s.db.Read(), id, epoch)
	if err != nil || now.Sub(seen) < liveRefresh {
		return err
	}
	err = s.db.Write(ctx, func(tx *sql.Tx) error { return touch(ctx, tx, id, now) })
	if err != nil {
		return fmt.Errorf("stamping a node: %w", err)
	}
	return nil
}

func touch(ctx context.Context, tx *sql.Tx, id ID, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE nodes SET seen_time_us = $1 WHERE node_id = $2`, now.UnixMicro(), id[:])
	return err
}

// checkEpoch is the fence of docs/settlement.md 2.1: whoever lost its disk may not act under its old epoch.
func checkEpoch(ctx context.Context, q querier, id ID, epoch int64) (seen time.Time, err error) {
	var current, us int64
	err = q.QueryRowContext(ctx, `SELECT epoch, seen_time_us FROM nodes WHERE node_id = $1`, id[:]).Scan(&current, &us)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, &NotJoinedError{id}
	case err != nil:
		return time.Time{}, fmt.Errorf("reading node %v: %w", id, err)
	case current != epoch:
		return time.Time{}, &EpochStaleError{epoch, current}
	}
	return fromMicros(us), nil
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
	rows, err := s.db.Read().QueryContext(ctx, `SELECT position, key FROM node_keys WHERE position > $1 ORDER BY position LIMIT CAST($2 AS BIGINT)`, after, limit)
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

// KeyCount is how many keys there are.
func (s *Store) KeyCount(ctx context.Context) (int64, error) { return s.drawn(ctx, nodeKey) }

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Journal is one journal of a node: another disk, another journal.
type Journal struct {
	NodeID ID
	// Name is what the node calls it: the disk's id.
	Name string
}

// Reject keeps an entry that is no genuine receipt.
func (tx *Tx) Reject(ctx context.Context, j Journal, sequence int64, cause, entry string, now int64) error {
	_, err := tx.exec(ctx, "keeping a rejected entry", `INSERT INTO rejected_entries (node_id, journal_id, sequence, cause, entry, reject_time)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, j.NodeID, j.Name, sequence, cause, entry, now)
	return err
}

// Acknowledged is up to where a journal is durable here; 0 for a new one.
func (q Queries) Acknowledged(ctx context.Context, j Journal) (int64, error) {
	var sequence int64
	err := q.q.QueryRowContext(ctx, `SELECT sequence FROM journals WHERE node_id = $1 AND journal_id = $2`, j.NodeID, j.Name).Scan(&sequence)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("reading how far a journal is: %w", err)
	}
	return sequence, nil
}

// Acknowledge remembers it. It never goes back.
func (tx *Tx) Acknowledge(ctx context.Context, j Journal, sequence int64) error {
	_, err := tx.exec(ctx, "storing how far a journal is", `INSERT INTO journals (node_id, journal_id, sequence) VALUES ($1, $2, $3)
		ON CONFLICT (node_id, journal_id) DO UPDATE SET sequence = excluded.sequence WHERE journals.sequence < excluded.sequence`,
		j.NodeID, j.Name, sequence)
	return err
}

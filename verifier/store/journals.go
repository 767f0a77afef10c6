package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// Journal is one journal of a node: another disk, another journal.
type Journal struct {
	NodeID ID
	// Name is what the node calls it: the disk's id.
	Name string
}

// Reject keeps an entry that is no genuine receipt. It may be any text, and PostgreSQL keeps none with a zero byte.
func (tx *Tx) Reject(ctx context.Context, j Journal, sequence int64, cause, entry string, now int64) error {
	_, err := tx.exec(ctx, "keeping a rejected entry", `INSERT INTO rejected_entries (node_id, journal_id, sequence, cause, entry, reject_time)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, j.NodeID, j.Name, sequence, cause, strings.ReplaceAll(entry, "\x00", "\uFFFD"), now)
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

// Seal remembers that a journal is complete here up to its end.
func (tx *Tx) Seal(ctx context.Context, j Journal, sequence, epoch int64) error {
	if err := tx.Acknowledge(ctx, j, sequence); err != nil {
		return err
	}
	_, err := tx.exec(ctx, "sealing a journal", `UPDATE journals SET sealed_epoch = $1 WHERE node_id = $2 AND journal_id = $3`, epoch, j.NodeID, j.Name)
	return err
}

// SealedNodes lists the nodes all of whose journals are sealed.
func (q Queries) SealedNodes(ctx context.Context) ([]ID, error) {
	return collect(ctx, q.q, "listing nodes that retired", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
		`SELECT node_id FROM journals GROUP BY node_id HAVING COUNT(*) = COUNT(sealed_epoch)`)
}

// SealedEpoch is an epoch that a node retired from: all that it sold under it is here.
type SealedEpoch struct {
	NodeID ID
	Epoch  int64
}

// Seals lists all of them.
func (q Queries) Seals(ctx context.Context) ([]SealedEpoch, error) {
	return collect(ctx, q.q, "listing seals", func(r *sql.Rows, s *SealedEpoch) error { return r.Scan(&s.NodeID, &s.Epoch) },
		`SELECT DISTINCT node_id, sealed_epoch FROM journals WHERE sealed_epoch IS NOT NULL`)
}

// Forwarders lists the nodes that ever began to forward.
func (q Queries) Forwarders(ctx context.Context) ([]ID, error) {
	return collect(ctx, q.q, "listing nodes that forward", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
		`SELECT DISTINCT node_id FROM journals ORDER BY node_id`)
}

// Sealed tells whether a node retired from an epoch, and all that it sold under it is here.
func (q Queries) Sealed(ctx context.Context, nodeID ID, epoch int64) (bool, error) {
	var yes bool
	err := q.q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM journals WHERE node_id = $1 AND sealed_epoch = $2)`, nodeID, epoch).Scan(&yes)
	if err != nil {
		return false, fmt.Errorf("looking for a seal: %w", err)
	}
	return yes, nil
}

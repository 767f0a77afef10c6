package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// CandidateState is what a redemption is to its purchase.
type CandidateState int

// The states of a candidate.
const (
	Winner    CandidateState = 1
	Spare     CandidateState = 2
	Denied    CandidateState = 3
	ToRelease CandidateState = 4
	Released  CandidateState = 5
	// Redundant: another redemption of the purchase names the same unit of the same lease.
	Redundant CandidateState = 6
)

// Candidate is one distinct redemption of a token.
type Candidate struct {
	TokenID ID
	NodeID  ID
	Serial  uint32
	LeaseID ID
	Arrival int64
	State   CandidateState
	// Settled: fulfillment made the unit this purchase's, and has not been told otherwise while State is not Released.
	Settled bool
	// Receipt is the signed text.
	Receipt string
}

// InsertCandidate stores a redemption.
func (tx *Tx) InsertCandidate(ctx context.Context, c *Candidate) error {
	settled := 0
	if c.Settled {
		settled = 1
	}
	_, err := tx.exec(ctx, "storing a redemption", `INSERT INTO candidates (token_id, node_id, serial, lease_id, arrival, state, settled, receipt)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) `,
		c.TokenID, c.NodeID, c.Serial, c.LeaseID, c.Arrival, c.State, settled, c.Receipt)
	return err
}

// SetCandidate changes what a redemption is to its purchase.
func (tx *Tx) SetCandidate(ctx context.Context, tokenID ID, serial uint32, leaseID ID, state CandidateState) error {
	_, err := tx.exec(ctx, "changing a redemption", `UPDATE candidates SET state = $1
		WHERE token_id = $2 AND serial = $3 AND lease_id = $4 AND state <> $5`, state, tokenID, serial, leaseID, Redundant)
	return err
}

// MarkSettled remembers that the winner's unit is the purchase's.
func (tx *Tx) MarkSettled(ctx context.Context, tokenID ID) error {
	_, err := tx.exec(ctx, "marking a redemption as settled", `UPDATE candidates SET settled = 1
		WHERE token_id = $1 AND state = $2`, tokenID, Winner)
	return err
}

// Candidates lists the redemptions of a token in the order of arrival.
func (q Queries) Candidates(ctx context.Context, tokenID ID) ([]Candidate, error) {
	return collect(ctx, q.q, "listing redemptions", func(r *sql.Rows, c *Candidate) error {
		return r.Scan(&c.TokenID, &c.NodeID, &c.Serial, &c.LeaseID, &c.Arrival, &c.State, &c.Settled, &c.Receipt)
	}, `SELECT token_id, node_id, serial, lease_id, arrival, state, settled, receipt FROM candidates
		WHERE token_id = $1 ORDER BY arrival`, tokenID)
}

// Reject keeps an entry that is no genuine receipt.
func (tx *Tx) Reject(ctx context.Context, nodeID ID, sequence int64, cause, entry string, now int64) error {
	_, err := tx.exec(ctx, "keeping a rejected entry", `INSERT INTO rejected (node_id, sequence, cause, entry, reject_time)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, nodeID, sequence, cause, entry, now)
	return err
}

// Acknowledged is up to where a node's journal is durable here; 0 for a new node.
func (q Queries) Acknowledged(ctx context.Context, nodeID ID) (int64, error) {
	var sequence int64
	err := q.q.QueryRowContext(ctx, `SELECT sequence FROM forwarders WHERE node_id = $1`, nodeID).Scan(&sequence)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("reading a forwarder: %w", err)
	}
	return sequence, nil
}

// Acknowledge remembers it. It never goes back.
func (tx *Tx) Acknowledge(ctx context.Context, nodeID ID, sequence int64) error {
	_, err := tx.exec(ctx, "storing a forwarder", `INSERT INTO forwarders (node_id, sequence) VALUES ($1, $2)
		ON CONFLICT (node_id) DO UPDATE SET sequence = excluded.sequence WHERE forwarders.sequence < excluded.sequence`, nodeID, sequence)
	return err
}

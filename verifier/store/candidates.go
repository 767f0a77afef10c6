package store

import (
	"context"
	"database/sql"

	"github.com/rimlight/rimlight/internal/sqldb"
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
func (tx *Tx) InsertCandidate(_ context.Context, c *Candidate) error {
	tx.pending.redeemed = append(tx.pending.redeemed, *c)
	return nil
}

// SetCandidate changes what a redemption is to its purchase. One that was denied stays so.
func (tx *Tx) SetCandidate(ctx context.Context, tokenID ID, serial uint32, leaseID ID, state CandidateState) error {
	_, err := tx.exec(ctx, "changing a redemption", `UPDATE candidates SET state = $1
		WHERE token_id = $2 AND serial = $3 AND lease_id = $4 AND state NOT IN ($5, $6)`, state, tokenID, serial, leaseID, Redundant, Denied)
	return err
}

// MarkSettled remembers that the winner's unit is the purchase's.
func (tx *Tx) MarkSettled(_ context.Context, tokenID ID) error {
	tx.pending.settled = append(tx.pending.settled, tokenID)
	return nil
}

// Candidates lists the redemptions of a token in the order of arrival.
func (q Queries) Candidates(ctx context.Context, tokenID ID) ([]Candidate, error) {
	return q.candidates(ctx, `token_id = $1`, tokenID)
}

// CandidatesOf lists the redemptions of many tokens, each's in the order of arrival.
func (q Queries) CandidatesOf(ctx context.Context, tokenIDs []ID) (map[ID][]Candidate, error) {
	found := make(map[ID][]Candidate, len(tokenIDs))
	for piece := range sqldb.Pieces(tokenIDs) {
		list, err := q.candidates(ctx, `token_id IN `+sqldb.Values(1, len(piece)), sqldb.Args(piece)...)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			found[c.TokenID] = append(found[c.TokenID], c)
		}
	}
	return found, nil
}

func (q Queries) candidates(ctx context.Context, where string, args ...any) ([]Candidate, error) {
	return collect(ctx, q.q, "listing redemptions", func(r *sql.Rows, c *Candidate) error {
		return r.Scan(&c.TokenID, &c.NodeID, &c.Serial, &c.LeaseID, &c.Arrival, &c.State, &c.Settled, &c.Receipt)
	}, `SELECT token_id, node_id, serial, lease_id, arrival, state, settled, receipt FROM candidates WHERE `+where+` ORDER BY arrival`, args...)
}

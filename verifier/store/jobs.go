package store

import (
	"context"
	"database/sql"
	"fmt"
)

// Kind is what a job does.
type Kind string

// The kinds of jobs. A purchase has at most one of each, but one release per unit, and one refund per refund.
const (
	SettleJob  Kind = "settle"
	PayJob     Kind = "pay"
	OrderJob   Kind = "order"
	ReleaseJob Kind = "release"
	ChoiceJob  Kind = "choice"
	RefundJob  Kind = "refund"
)

// Kinds lists all of them.
func Kinds() []Kind { return []Kind{SettleJob, PayJob, OrderJob, ReleaseJob, ChoiceJob, RefundJob} }

// Job is one row of jobs.
type Job struct {
	Kind    Kind
	TokenID ID
	// Serial and LeaseID name the unit of a release; of a refund LeaseID is the refund's id. Zero elsewhere.
	Serial  uint32
	LeaseID ID
	// Attempts counts claims since the job was last added.
	Attempts int
	// Until is when the claim ends, in microseconds: no two claims of a job end together.
	Until int64
}

// AddJob adds a job that is due at runAt, or makes the one that is there due then.
func (tx *Tx) AddJob(_ context.Context, j Job, runAt int64) error {
	tx.added(j.Kind)
	tx.changeJob(j, jobChange{runAt: runAt})
	return nil
}

func (tx *Tx) changeJob(j Job, c jobChange) {
	if tx.pending.jobs == nil {
		tx.pending.jobs = map[jobKey]jobChange{}
	}
	k := j.key()
	if _, again := tx.pending.jobs[k]; !again {
		tx.pending.jobOrder = append(tx.pending.jobOrder, k)
	}
	tx.pending.jobs[k] = c
}

// Claim takes up to n due jobs until the time until; who has not finished one by then may see it claimed again.
func (tx *Tx) Claim(ctx context.Context, kind Kind, now, until int64, n int) ([]Job, error) {
	return collect(ctx, tx.q, "claiming jobs", func(r *sql.Rows, j *Job) error {
		j.Kind = kind
		return r.Scan(&j.TokenID, &j.Serial, &j.LeaseID, &j.Attempts, &j.Until)
	}, `WITH due AS MATERIALIZED
			(SELECT token_id, serial, lease_id FROM jobs WHERE kind = $2 AND run_at <= $3 ORDER BY run_at LIMIT CAST($4 AS BIGINT)`+tx.skip+`)
		UPDATE jobs SET state = 1, run_at = $1, attempts = attempts + 1
		WHERE kind = $2 AND (token_id, serial, lease_id) IN (SELECT token_id, serial, lease_id FROM due)
		RETURNING token_id, serial, lease_id, attempts, run_at`, until, kind, now, n)
}

// Finish removes a job that is done.
func (tx *Tx) Finish(_ context.Context, j Job) error {
	tx.changeJob(j, jobChange{done: true})
	return nil
}

// Postpone gives a claimed job back until runAt. A job that was added again meanwhile keeps its earlier time, and one that
// somebody else claimed, since this claim had ended, stays theirs.
func (tx *Tx) Postpone(ctx context.Context, j Job, runAt int64) error {
	tx.added(j.Kind) // due sooner than the claim ends
	_, err := tx.exec(ctx, "postponing a job", `UPDATE jobs SET state = 0, run_at = $1
		WHERE kind = $2 AND token_id = $3 AND serial = $4 AND lease_id = $5 AND state = 1 AND run_at = $6`,
		runAt, j.Kind, j.TokenID, j.Serial, j.LeaseID, j.Until)
	return err
}

// Hurry makes a job due at now. Whoever holds it may then not be alone; but for a refund, which two holders could make
// under two keys: one that is held stays so, and is read when its holder has put it off.
func (tx *Tx) Hurry(ctx context.Context, kind Kind, tokenID ID, now int64) error {
	n, err := tx.exec(ctx, "hurrying a job", `UPDATE jobs SET state = 0, run_at = $1 WHERE kind = $2 AND token_id = $3 AND (state = 0 OR kind <> $4)`,
		now, kind, tokenID, RefundJob)
	if err == nil && n > 0 {
		tx.added(kind)
	}
	return err
}

// FreeClaims makes the jobs of a process that died due at once, where only one process works on a store. Where replicas
// share it, a claim may be a living one's: those of the dead end by themselves.
func (s *Store) FreeClaims(ctx context.Context, now int64) error {
	if !s.db.Alone() {
		return nil
	}
	return s.Write(ctx, func(tx *Tx) error { return tx.freeClaims(ctx, now) })
}

func (tx *Tx) freeClaims(ctx context.Context, now int64) error {
	_, err := tx.exec(ctx, "freeing claims", `UPDATE jobs SET state = 0, run_at = $1 WHERE state = 1`, now)
	return err
}

// NextDue is when the next job of a kind is due; false when there is none.
func (q Queries) NextDue(ctx context.Context, kind Kind) (int64, bool, error) {
	var at sql.NullInt64
	if err := q.q.QueryRowContext(ctx, `SELECT MIN(run_at) FROM jobs WHERE kind = $1`, kind).Scan(&at); err != nil {
		return 0, false, fmt.Errorf("reading when the next job is due: %w", err)
	}
	return at.Int64, at.Valid, nil
}

package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/ledger"
)

// pending is what a transaction has decided and not yet written. A batch of a hundred purchases changes the same few
// tables a hundred times; as a statement each, the round trips alone would cost more than everything else. So the frequent
// changes wait for each other, and rows of one kind go in one statement: before anything of the transaction is read or
// changed directly, and before its commit. Nothing can be seen of the difference, but that a row which is refused spoils
// the transaction and not the call.
type pending struct {
	inserts  []Purchase
	updates  []update
	redeemed []Candidate
	settled  []ID
	jobs     map[jobKey]jobChange
	jobOrder []jobKey
	posted   []posted
}

// update is a purchase, and what its row must be at.
type update struct {
	was wasAt
	now Purchase
}

type wasAt struct{ state, attempt int }

func at(p *Purchase) wasAt { return wasAt{int(p.State), p.Attempt} }

type jobKey struct {
	kind    Kind
	tokenID ID
	serial  uint32
	leaseID ID
}

func (j Job) key() jobKey { return jobKey{j.Kind, j.TokenID, j.Serial, j.LeaseID} }

// jobChange is the last word about a job: done, or due at runAt.
type jobChange struct {
	done  bool
	runAt int64
}

type posted struct {
	purchaseID, dropID ID
	time               int64
	ledger.Transaction
}

// reading is the transaction's reads: what is pending is written before them. An error of that is the transaction's, too.
type reading struct{ tx *Tx }

// QueryContext implements sqldb.Querier.
func (r reading) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := r.tx.flush(ctx); err != nil {
		return nil, err
	}
	return r.tx.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext implements sqldb.Querier. A row can carry no error of ours: after one, it is that of a context that
// ended, so that no statement runs, and Write returns the transaction's own.
func (r reading) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if r.tx.flush(ctx) != nil {
		ended, end := context.WithCancel(ctx)
		end()
		ctx = ended
	}
	return r.tx.tx.QueryRowContext(ctx, query, args...)
}

// flush writes what is pending. Its first error is every later flush's, and so the transaction's.
func (tx *Tx) flush(ctx context.Context) error {
	p := tx.pending
	tx.pending = pending{}
	for _, write := range []func(context.Context, *pending) error{
		tx.flushInserts, tx.flushRedeemed, tx.flushJobs, tx.flushSettled, tx.flushUpdates, tx.flushPosted,
	} {
		if tx.spoiled == nil {
			tx.spoiled = write(ctx, &p)
		}
	}
	return tx.spoiled
}

func (tx *Tx) flushInserts(ctx context.Context, p *pending) error {
	for piece := range sqldb.Pieces(p.inserts) {
		args := make([]any, 0, len(piece)*insertColumns)
		for i := range piece {
			args = piece[i].appendRow(args)
		}
		if _, err := tx.direct(ctx, "storing purchases", insertPurchases+sqldb.Values(len(piece), insertColumns), args...); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) flushRedeemed(ctx context.Context, p *pending) error {
	for piece := range sqldb.Pieces(p.redeemed) {
		args := make([]any, 0, len(piece)*8)
		for i := range piece {
			c := &piece[i]
			args = append(args, c.TokenID, c.NodeID, c.Serial, c.LeaseID, c.Arrival, c.State, c.Settled, c.Receipt)
		}
		if _, err := tx.direct(ctx, "storing redemptions", `INSERT INTO candidates (token_id, node_id, serial, lease_id, arrival, state, settled, receipt)
			VALUES `+sqldb.Values(len(piece), 8), args...); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) flushJobs(ctx context.Context, p *pending) error {
	var due []jobKey
	done := map[Kind][]any{} // token ids; jobs about a unit go one by one
	for _, k := range p.jobOrder {
		switch {
		case !p.jobs[k].done:
			due = append(due, k)
		case k == (jobKey{kind: k.kind, tokenID: k.tokenID}):
			done[k.kind] = append(done[k.kind], k.tokenID)
		default:
			if _, err := tx.direct(ctx, "finishing a job", `DELETE FROM jobs WHERE kind = $1 AND token_id = $2 AND serial = $3 AND lease_id = $4`,
				k.kind, k.tokenID, k.serial, k.leaseID); err != nil {
				return err
			}
		}
	}
	for _, kind := range Kinds() {
		for piece := range sqldb.Pieces(done[kind]) {
			n := len(piece)
			if _, err := tx.direct(ctx, "finishing jobs", fmt.Sprintf(`DELETE FROM jobs WHERE token_id IN %s AND kind = $%d AND serial = 0 AND lease_id = $%d`,
				sqldb.Values(1, n), n+1, n+2), append(slices.Clone(piece), kind, ID{})...); err != nil {
				return err
			}
		}
	}
	for piece := range sqldb.Pieces(due) {
		args := make([]any, 0, len(piece)*7)
		for _, k := range piece {
			args = append(args, k.kind, k.tokenID, k.serial, k.leaseID, 0, p.jobs[k].runAt, 0)
		}
		if _, err := tx.direct(ctx, "adding jobs", `INSERT INTO jobs (kind, token_id, serial, lease_id, state, run_at, attempts) VALUES `+
			sqldb.Values(len(piece), 7)+` ON CONFLICT (kind, token_id, serial, lease_id) DO UPDATE SET state = 0, run_at = excluded.run_at, attempts = 0`,
			args...); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) flushSettled(ctx context.Context, p *pending) error {
	for piece := range sqldb.Pieces(p.settled) {
		n := len(piece)
		if _, err := tx.direct(ctx, "marking redemptions as settled", fmt.Sprintf(`UPDATE candidates SET settled = 1
			WHERE token_id IN %s AND state = $%d`, sqldb.Values(1, n), n+1), append(sqldb.Args(piece), Winner)...); err != nil {
			return err
		}
	}
	return nil
}

// flushUpdates compares and sets, all rows that were at the same state and attempt together. The rows are there: whoever
// changes a purchase has read it in this transaction, so that the INSERT never inserts.
func (tx *Tx) flushUpdates(ctx context.Context, p *pending) error {
	groups, order := map[wasAt][]Purchase{}, []wasAt{}
	for _, u := range p.updates {
		if groups[u.was] == nil {
			order = append(order, u.was)
		}
		groups[u.was] = append(groups[u.was], u.now)
	}
	for _, was := range order {
		for piece := range sqldb.Pieces(groups[was]) {
			args := make([]any, 0, len(piece)*insertColumns+2)
			for i := range piece {
				args = piece[i].appendRow(args)
			}
			n := len(args)
			changed, err := tx.direct(ctx, "changing purchases", insertPurchases+sqldb.Values(len(piece), insertColumns)+
				fmt.Sprintf(updatePurchases, n+1, n+2), append(args, was.state, was.attempt)...)
			if err != nil {
				return err
			}
			if changed != int64(len(piece)) {
				return ErrConflict
			}
		}
	}
	return nil
}

func (tx *Tx) flushPosted(ctx context.Context, p *pending) error {
	for piece := range sqldb.Pieces(p.posted) {
		args := make([]any, 0, len(piece)*3)
		var lines [][]any
		for _, t := range piece {
			args = append(args, t.purchaseID, t.Kind, t.time)
			for i, l := range t.Postings {
				lines = append(lines, []any{t.purchaseID, t.Kind, i, l.Account, l.CurrencyCode, l.MinorUnits, t.dropID})
			}
		}
		if _, err := tx.direct(ctx, "posting", `INSERT INTO ledger_transactions (purchase_id, kind, post_time) VALUES `+sqldb.Values(len(piece), 3), args...); err != nil {
			if sqldb.IsUnique(err) {
				return fmt.Errorf("%w: %w", ErrPosted, err)
			}
			return err
		}
		for some := range sqldb.Pieces(lines) {
			if _, err := tx.direct(ctx, "posting", `INSERT INTO ledger_postings (purchase_id, kind, line, account, currency_code, minor_units, drop_id)
				VALUES `+sqldb.Values(len(some), 7), slices.Concat(some...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

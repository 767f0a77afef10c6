package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
)

// ErrPosted means: the purchase has a ledger transaction of this kind already.
var ErrPosted = errors.New("store: posted already")

// Post writes a ledger transaction. ErrPosted when the primary key refuses it.
func (tx *Tx) Post(ctx context.Context, purchaseID ID, t ledger.Transaction, now int64) error {
	if err := t.Validate(); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, "posting", `INSERT INTO ledger_transactions (purchase_id, kind, post_time) VALUES ($1, $2, $3)`,
		purchaseID, t.Kind, now); err != nil {
		if sqldb.IsUnique(err) {
			return fmt.Errorf("%w: %w", ErrPosted, err)
		}
		return err
	}
	for i, p := range t.Postings {
		if _, err := tx.exec(ctx, "posting", `INSERT INTO ledger_postings (purchase_id, kind, line, account, currency_code, minor_units)
			VALUES ($1, $2, $3, $4, $5, $6)`, purchaseID, t.Kind, i, p.Account, p.CurrencyCode, p.MinorUnits); err != nil {
			return err
		}
	}
	return nil
}

// AccountBalance is debits minus credits of an account in one currency.
type AccountBalance struct {
	Account, CurrencyCode string
	MinorUnits            int64
}

// Balances sums all postings.
func (q Queries) Balances(ctx context.Context) ([]AccountBalance, error) {
	return collect(ctx, q.q, "summing the ledger", func(r *sql.Rows, b *AccountBalance) error {
		return r.Scan(&b.Account, &b.CurrencyCode, &b.MinorUnits)
	}, `SELECT account, currency_code, SUM(minor_units) FROM ledger_postings GROUP BY account, currency_code ORDER BY account, currency_code`)
}

// Unbalanced counts ledger transactions whose postings do not sum to zero in every currency.
func (q Queries) Unbalanced(ctx context.Context) (int, error) {
	return q.count(ctx, `SELECT COUNT(*) FROM (SELECT purchase_id FROM ledger_postings
		GROUP BY purchase_id, kind, currency_code HAVING SUM(minor_units) <> 0) AS unbalanced`)
}

// OpenJobs counts jobs that are not done.
func (q Queries) OpenJobs(ctx context.Context) (int, error) {
	return q.count(ctx, `SELECT COUNT(*) FROM jobs`)
}

func (q Queries) count(ctx context.Context, query string, args ...any) (int, error) {
	n := 0
	if err := q.q.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting: %w", err)
	}
	return n, nil
}

// DropSums counts a drop's purchases.
type DropSums struct {
	DropID                                 ID
	Received, Delivered, Vouchers, Refused uint32
	UnitsHeld, Duplicates                  uint32
	CapturedMinorUnits                     int64
}

// SumDrops counts the purchases of every drop.
func (q Queries) SumDrops(ctx context.Context) ([]DropSums, error) {
	return collect(ctx, q.q, "summing drops", func(r *sql.Rows, d *DropSums) error {
		return r.Scan(&d.DropID, &d.Received, &d.Delivered, &d.Vouchers, &d.Refused, &d.UnitsHeld, &d.Duplicates, &d.CapturedMinorUnits)
	}, `SELECT d.drop_id, d.received, d.delivered, d.vouchers, d.refused,
			(SELECT COUNT(*) FROM candidates c JOIN purchases p ON p.token_id = c.token_id
				WHERE p.drop_id = d.drop_id AND c.settled = 1 AND c.state <> $4),
			(SELECT COUNT(*) FROM candidates c JOIN purchases p ON p.token_id = c.token_id WHERE p.drop_id = d.drop_id) - d.received,
			(SELECT COALESCE(SUM(l.minor_units), 0) FROM ledger_postings l JOIN purchases p ON p.purchase_id = l.purchase_id
				WHERE p.drop_id = d.drop_id AND l.account = $5)
		FROM (SELECT drop_id, COUNT(*) AS received, SUM(CASE WHEN state = $1 THEN 1 ELSE 0 END) AS delivered,
				SUM(CASE WHEN state = $2 THEN 1 ELSE 0 END) AS vouchers, SUM(CASE WHEN state = $3 THEN 1 ELSE 0 END) AS refused
			FROM purchases GROUP BY drop_id) AS d ORDER BY d.drop_id`,
		saga.Delivered, saga.Voucher, saga.Refused, Released, ledger.ProviderReceivable)
}

// Keys reads all public keys.
func (q Queries) Keys(ctx context.Context) ([]*offerv1.SigningKey, error) {
	return collect(ctx, q.q, "reading keys", func(r *sql.Rows, k **offerv1.SigningKey) error {
		var body []byte
		if err := r.Scan(&body); err != nil {
			return err
		}
		*k = &offerv1.SigningKey{}
		return proto.Unmarshal(body, *k)
	}, `SELECT body FROM signing_keys ORDER BY key_id`)
}

// AddKeys stores public keys; the first word about a key stands.
func (tx *Tx) AddKeys(ctx context.Context, keys ...*offerv1.SigningKey) error {
	for _, k := range keys {
		body, err := proto.Marshal(k)
		if err != nil {
			return fmt.Errorf("encoding a key: %w", err)
		}
		if _, err := tx.exec(ctx, "storing a key", `INSERT INTO signing_keys (key_id, body) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
			k.GetKeyId(), body); err != nil {
			return err
		}
	}
	tx.changes.Keys = tx.changes.Keys || len(keys) > 0
	return nil
}

// Seed is the verifier's own signing seed: the stored one, or fresh, which is stored then.
func (tx *Tx) Seed(ctx context.Context, fresh []byte) ([]byte, error) {
	if _, err := tx.exec(ctx, "storing the seed", `INSERT INTO own_seed (singleton, seed) VALUES (1, $1) ON CONFLICT DO NOTHING`, fresh); err != nil {
		return nil, err
	}
	var seed []byte
	if err := tx.tx.QueryRowContext(ctx, `SELECT seed FROM own_seed WHERE singleton = 1`).Scan(&seed); err != nil {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	return seed, nil
}

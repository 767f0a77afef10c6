// Package testpsp is a payment provider for tests and demonstrations: TEST, no money moves.
//
// It behaves like a real one where that matters. Its books are its own database, so an audit compares two independent
// records; it is idempotent by key, and charges twice whoever uses two keys. What happens depends on the payment
// reference, up to an optional ':' with any suffix:
//
//	tp_ok                authorised and captured
//	tp_decline           declined for good
//	tp_decline_once      the purchase's first intent is declined for now, the next one is authorised
//	tp_action_required   waits for CompleteAction
//	tp_timeout_before    the first try of every call is lost before it has its effect
//	tp_timeout_after     the first try of every call has its effect, and the answer is lost
//	tp_500_once          the first try of every call fails and does nothing
//	anything else        declined for good, unknown_reference
//
// Reading is never disturbed. It does not keep cards, customers, refunds or webhooks.
package testpsp

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/payment"
)

//go:embed migrations/*.sql
var migrations embed.FS

// References with a meaning.
const (
	RefOK             = "tp_ok"
	RefDecline        = "tp_decline"
	RefDeclineOnce    = "tp_decline_once"
	RefActionRequired = "tp_action_required"
	RefTimeoutBefore  = "tp_timeout_before"
	RefTimeoutAfter   = "tp_timeout_after"
	Ref500Once        = "tp_500_once"
)

// Config sets the provider up.
type Config struct {
	// Latency is how long every call takes. Default and meaning of zero: no time at all. A real provider takes 200 ms to
	// 2 s; the saga's throughput is its payment parallelism over this.
	Latency time.Duration
	// Now stamps intents and charges. Required.
	Now func() time.Time
	// Random makes intent ids. Required.
	Random io.Reader
}

// Provider is the engine. Safe for concurrent use.
type Provider struct {
	db  *sqldb.DB
	cfg Config

	mu sync.Mutex // guards cfg.Random
}

var (
	_ payment.Provider     = (*Provider)(nil)
	_ payment.Bookkeeper   = (*Provider)(nil)
	_ payment.TestCustomer = (*Provider)(nil)
)

// Migrate brings the provider's own database up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("testpsp: reading the migrations: %w", err)
	}
	return db.Migrate(ctx, dir)
}

// New uses a migrated database. Providers in several processes may share one.
func New(db *sqldb.DB, cfg Config) (*Provider, error) {
	if db == nil || cfg.Now == nil || cfg.Random == nil || cfg.Latency < 0 {
		return nil, errors.New("testpsp: needs a database, Now, Random and a latency that is not negative")
	}
	return &Provider{db: db, cfg: cfg}, nil
}

// CreateIntent implements payment.Provider.
func (p *Provider) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	return p.call(ctx, "create", func(tx *sql.Tx) (*intent, error) {
		in, err := find(ctx, tx, "idem_key", key, p.db.ForUpdate())
		if err == nil {
			if in.Request != r {
				return nil, payment.ErrKeyReused
			}
			return in, nil
		}
		if !errors.Is(err, payment.ErrNotFound) {
			return nil, err
		}
		return &intent{key: key, Request: r, Intent: payment.Intent{State: payment.RequiresConfirmation}}, nil
	}, func(tx *sql.Tx, in *intent) error {
		if in.ID != "" {
			return nil
		}
		in.ID = p.newID()
		_, err := tx.ExecContext(ctx, `INSERT INTO psp_intents (intent_id, idem_key, purchase_id, currency_code, minor_units,
			reference, state, decline_code, decline_final, create_time) VALUES ($1, $2, $3, $4, $5, $6, $7, '', 0, $8)`,
			in.ID, key, r.PurchaseID, r.CurrencyCode, r.MinorUnits, r.Reference, in.State, p.cfg.Now().UnixMicro())
		return err
	})
}

// GetIntent implements payment.Provider.
func (p *Provider) GetIntent(ctx context.Context, id string) (payment.Intent, error) {
	if err := p.wait(ctx); err != nil {
		return payment.Intent{}, err
	}
	in, err := find(ctx, p.db.Read(), "intent_id", id, "")
	if err != nil {
		return payment.Intent{}, fmt.Errorf("testpsp: reading an intent: %w", err)
	}
	return in.Intent, nil
}

// Confirm implements payment.Provider.
func (p *Provider) Confirm(ctx context.Context, id string) (payment.Intent, error) {
	return p.call(ctx, "confirm", p.byID(ctx, id), func(tx *sql.Tx, in *intent) error {
		if in.State != payment.RequiresConfirmation {
			return nil
		}
		switch in.kind() {
		case RefOK, RefTimeoutBefore, RefTimeoutAfter, Ref500Once:
			in.State = payment.Authorised
		case RefActionRequired:
			in.State = payment.RequiresAction
		case RefDecline:
			in.decline("card_declined", true)
		case RefDeclineOnce:
			earlier := 0
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM psp_intents WHERE purchase_id = $1 AND decline_code <> ''`,
				in.PurchaseID).Scan(&earlier); err != nil {
				return err
			}
			if earlier == 0 {
				in.decline("try_again", false)
			} else {
				in.State = payment.Authorised
			}
		default:
			in.decline("unknown_reference", true)
		}
		return in.save(ctx, tx)
	})
}

// Capture implements payment.Provider.
func (p *Provider) Capture(ctx context.Context, id string) (payment.Intent, error) {
	return p.call(ctx, "capture", p.byID(ctx, id), func(tx *sql.Tx, in *intent) error {
		if in.State != payment.Authorised {
			return nil
		}
		in.State = payment.Succeeded
		if _, err := tx.ExecContext(ctx, `INSERT INTO psp_charges (intent_id, purchase_id, currency_code, minor_units, charge_time)
			VALUES ($1, $2, $3, $4, $5)`, in.ID, in.PurchaseID, in.CurrencyCode, in.MinorUnits, p.cfg.Now().UnixMicro()); err != nil {
			return err
		}
		return in.save(ctx, tx)
	})
}

// Cancel implements payment.Provider.
func (p *Provider) Cancel(ctx context.Context, id string) (payment.Intent, error) {
	return p.call(ctx, "cancel", p.byID(ctx, id), func(tx *sql.Tx, in *intent) error {
		if in.State == payment.Succeeded || in.State == payment.Cancelled {
			return nil
		}
		in.State = payment.Cancelled
		return in.save(ctx, tx)
	})
}

// CompleteAction implements payment.TestCustomer. Repeating the same answer is no error.
func (p *Provider) CompleteAction(ctx context.Context, id string, decline bool) (purchaseID string, err error) {
	err = p.db.Write(ctx, func(tx *sql.Tx) error {
		in, err := find(ctx, tx, "intent_id", id, p.db.ForUpdate())
		if err != nil {
			return fmt.Errorf("testpsp: completing an action: %w", err)
		}
		purchaseID = in.PurchaseID
		switch {
		case in.kind() != RefActionRequired:
			return payment.ErrNoActionPending
		case in.State == payment.RequiresAction && decline:
			in.decline("customer_declined", true)
		case in.State == payment.RequiresAction:
			in.State = payment.Authorised
		case !decline && (in.State == payment.Authorised || in.State == payment.Succeeded), decline && in.DeclineCode != "":
			return nil
		default:
			return payment.ErrNoActionPending
		}
		return in.save(ctx, tx)
	})
	return purchaseID, err
}

// Books implements payment.Bookkeeper.
func (p *Provider) Books(ctx context.Context) (payment.Books, error) {
	b := payment.Books{CapturedMinorUnits: map[string]int64{}}
	rows, err := p.db.Read().QueryContext(ctx, `SELECT currency_code, SUM(minor_units) FROM psp_charges GROUP BY currency_code`)
	if err != nil {
		return b, fmt.Errorf("testpsp: summing the charges: %w", err)
	}
	for rows.Next() {
		var currency string
		var sum int64
		if err := rows.Scan(&currency, &sum); err != nil {
			return b, errors.Join(fmt.Errorf("testpsp: summing the charges: %w", err), rows.Close())
		}
		b.CapturedMinorUnits[currency] = sum
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return b, fmt.Errorf("testpsp: summing the charges: %w", err)
	}
	if err := p.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM
		(SELECT purchase_id FROM psp_charges GROUP BY purchase_id HAVING COUNT(*) > 1) AS doubled`).Scan(&b.DoubleCaptures); err != nil {
		return b, fmt.Errorf("testpsp: counting double captures: %w", err)
	}
	return b, nil
}

// Charges counts the captures of one purchase.
func (p *Provider) Charges(ctx context.Context, purchaseID string) (int, error) {
	n := 0
	if err := p.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM psp_charges WHERE purchase_id = $1`, purchaseID).Scan(&n); err != nil {
		return 0, fmt.Errorf("testpsp: counting charges: %w", err)
	}
	return n, nil
}

// call finds an intent, lets effect change it, and injects the fault of the intent's reference, all in one transaction.
func (p *Provider) call(ctx context.Context, name string, load func(*sql.Tx) (*intent, error), effect func(*sql.Tx, *intent) error) (payment.Intent, error) {
	if err := p.wait(ctx); err != nil {
		return payment.Intent{}, err
	}
	var in *intent
	var fault error
	err := p.db.Write(ctx, func(tx *sql.Tx) (err error) {
		if in, err = load(tx); err != nil {
			return err
		}
		first, err := firstTry(ctx, tx, in, name)
		if err != nil {
			return err
		}
		fault = nil
		if first {
			switch in.kind() {
			case RefTimeoutBefore:
				fault = payment.ErrUnknownOutcome
				return nil
			case RefTimeoutAfter:
				fault = payment.ErrUnknownOutcome
			case Ref500Once:
				fault = payment.ErrRetryable
				return nil
			}
		}
		return effect(tx, in)
	})
	if err = errors.Join(err, fault); err != nil {
		return payment.Intent{}, fmt.Errorf("testpsp: %s: %w", name, err)
	}
	return in.Intent, nil
}

// wait takes the configured latency; the caller's patience ending before the call was sent had no effect.
func (p *Provider) wait(ctx context.Context) error {
	if p.cfg.Latency > 0 {
		t := time.NewTimer(p.cfg.Latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("testpsp: %w: %w", payment.ErrUnknownOutcome, err)
	}
	return nil
}

func (p *Provider) newID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return "tpi_" + ids.NewV7(p.cfg.Now(), p.cfg.Random)
}

// intent is a row of psp_intents.
type intent struct {
	payment.Intent
	payment.Request
	key string
}

func (in *intent) kind() string {
	kind, _, _ := strings.Cut(in.Reference, ":")
	return kind
}

func (in *intent) decline(code string, final bool) {
	in.State, in.DeclineCode, in.DeclineFinal = payment.Declined, code, final
}

func (in *intent) save(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE psp_intents SET state = $1, decline_code = $2, decline_final = $3 WHERE intent_id = $4`,
		in.State, in.DeclineCode, in.DeclineFinal, in.ID)
	return err
}

func (p *Provider) byID(ctx context.Context, id string) func(*sql.Tx) (*intent, error) {
	return func(tx *sql.Tx) (*intent, error) { return find(ctx, tx, "intent_id", id, p.db.ForUpdate()) }
}

// find reads an intent by a unique column; lock ends the SELECT.
func find(ctx context.Context, q sqldb.Querier, column, value, lock string) (*intent, error) {
	in := &intent{}
	err := q.QueryRowContext(ctx, `SELECT intent_id, idem_key, purchase_id, currency_code, minor_units, reference, state,
		decline_code, decline_final FROM psp_intents WHERE `+column+` = $1`+lock, value).Scan(&in.ID, &in.key, &in.PurchaseID,
		&in.CurrencyCode, &in.MinorUnits, &in.Reference, &in.State, &in.DeclineCode, &in.DeclineFinal)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, payment.ErrNotFound
	}
	return in, err
}

// firstTry records, for references that inject faults, that the call was tried, and tells whether that was new.
func firstTry(ctx context.Context, tx *sql.Tx, in *intent, call string) (bool, error) {
	switch in.kind() {
	case RefTimeoutBefore, RefTimeoutAfter, Ref500Once:
	default:
		return false, nil
	}
	r, err := tx.ExecContext(ctx, `INSERT INTO psp_faults (idem_key, call) VALUES ($1, $2) ON CONFLICT DO NOTHING`, in.key, call)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

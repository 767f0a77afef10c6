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
//	tp_500_kept          the first intent's creation and the first refund fail, and their keys answer so until they expire
//	tp_refund_slow       a refund succeeds a while after it was asked for
//	tp_refund_fails      a refund fails
//	tp_card_NAME         like tp_ok, paid by the card NAME: elsewhere every purchase has a card of its own
//	tp_mix               a realistic mix of purchases: 10 % like tp_action_required, 4 % like tp_decline, the rest tp_ok
//	anything else        declined for good, unknown_reference
//
// It keeps a fee of each capture, 2.9 % and 30 minor units, and does not give it back with a refund, as is usual.
//
// Reading is never disturbed. Hints come late, twice and in any order if Config says so. It keeps no customers, and of
// cards it knows who shares one.
package testpsp

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
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
	Ref500Kept        = "tp_500_kept"
	RefRefundSlow     = "tp_refund_slow"
	RefRefundFails    = "tp_refund_fails"
	RefMix            = "tp_mix"
	// RefCard begins the reference of a named card.
	RefCard = "tp_card_"
)

// MixAction and MixDecline are the shares of tp_mix's purchases that need the customer and that are declined.
const (
	MixAction  = 0.10
	MixDecline = 0.04
)

// Fee is what the provider keeps of a capture: 2.9 %, rounded half up, and 30 minor units, at most everything.
func Fee(minorUnits int64) int64 { return min(minorUnits, (minorUnits*29+500)/1000+30) }

// Config sets the provider up.
type Config struct {
	// Latency is how long every call takes. Default and meaning of zero: no time at all. A real provider takes 200 ms to
	// 2 s; the saga's throughput is its payment parallelism over this.
	Latency time.Duration
	// LatencySigma makes Latency the median of a log-normal distribution: 0 to 1, default 0, always the same. At 0.6 the
	// slowest hundredth takes four times the median.
	LatencySigma float64
	// KeyTTL is how long idempotency keys are remembered. Default 24 h, as is usual.
	KeyTTL time.Duration
	// HintDelay: hints are sent, each at a random time up to this after what it tells of, so in any order. Default 0: no
	// hints.
	HintDelay time.Duration
	// HintDuplicates is the share of hints that come twice: 0 to 1, default 0.
	HintDuplicates float64
	// Now stamps intents and charges. Required.
	Now func() time.Time
	// Random makes intent ids. Required.
	Random io.Reader
}

// Realistic is a profile: answers in 250 ms at the median and a second in the slowest hundredth, and hints that come up
// to 5 s late, one in twenty twice. Now and Random are left to the caller.
func Realistic() Config {
	return Config{Latency: 250 * time.Millisecond, LatencySigma: 0.6, HintDelay: 5 * time.Second, HintDuplicates: 0.05}
}

// Provider is the engine. Safe for concurrent use.
type Provider struct {
	db   *sqldb.DB
	cfg  Config
	news chan struct{} // a hint was written

	mu   sync.Mutex // guards cfg.Random and draw
	draw *rand.Rand
}

var (
	_ payment.Provider     = (*Provider)(nil)
	_ payment.Bookkeeper   = (*Provider)(nil)
	_ payment.TestCustomer = (*Provider)(nil)
	_ payment.Hinter       = (*Provider)(nil)
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
	if db == nil || cfg.Now == nil || cfg.Random == nil {
		return nil, errors.New("testpsp: needs a database, Now and Random")
	}
	if cfg.Latency < 0 || cfg.LatencySigma < 0 || cfg.LatencySigma > 1 || cfg.KeyTTL < 0 || cfg.HintDelay < 0 || cfg.HintDuplicates < 0 || cfg.HintDuplicates > 1 {
		return nil, fmt.Errorf("testpsp: a setting is out of its range: latency %v, sigma %v, keys %v, hints %v late, %v twice",
			cfg.Latency, cfg.LatencySigma, cfg.KeyTTL, cfg.HintDelay, cfg.HintDuplicates)
	}
	if cfg.KeyTTL == 0 {
		cfg.KeyTTL = 24 * time.Hour
	}
	var seed [16]byte
	if _, err := io.ReadFull(cfg.Random, seed[:]); err != nil {
		return nil, fmt.Errorf("testpsp: seeding: %w", err)
	}
	return &Provider{
		db: db, cfg: cfg, news: make(chan struct{}, 1),
		draw: rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:]))),
	}, nil
}

// CreateIntent implements payment.Provider.
func (p *Provider) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	var kept error
	in, err := p.call(ctx, "create", func(tx *sql.Tx) (*intent, error) {
		if kept = p.keepError(ctx, tx, key, "create "+r.PurchaseID, r.Reference); kept != nil {
			return nil, nil //nolint:nilerr // the error is the answer, and what keeps it is committed
		}
		if err := p.expire(ctx, tx, key); err != nil {
			return nil, err
		}
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
		return &intent{key: key, Request: r, Intent: payment.Intent{State: payment.RequiresConfirmation, MinorUnits: r.MinorUnits}}, nil
	}, func(tx *sql.Tx, in *intent) error {
		if in.ID != "" {
			return nil
		}
		in.ID = "tpi_" + p.newID()
		_, err := tx.ExecContext(ctx, `INSERT INTO psp_intents (intent_id, idem_key, purchase_id, currency_code, minor_units,
			reference, state, decline_code, decline_final, create_time) VALUES ($1, $2, $3, $4, $5, $6, $7, '', 0, $8)`,
			in.ID, key, r.PurchaseID, r.CurrencyCode, r.MinorUnits, r.Reference, in.State, p.cfg.Now().UnixMicro())
		return err
	})
	if err == nil && kept != nil {
		return payment.Intent{}, fmt.Errorf("testpsp: create: %w", kept)
	}
	return in, err
}

// expire forgets a key whose time is over: the intent stays, under its id.
func (p *Provider) expire(ctx context.Context, tx *sql.Tx, key string) error {
	_, err := tx.ExecContext(ctx, `UPDATE psp_intents SET idem_key = idem_key || ' until ' || intent_id WHERE idem_key = $1 AND create_time <= $2`,
		key, p.cfg.Now().Add(-p.cfg.KeyTTL).UnixMicro())
	return err
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

// Intents implements payment.Provider.
func (p *Provider) Intents(ctx context.Context, purchaseID string) (_ []payment.Intent, err error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	rows, err := p.db.Read().QueryContext(ctx, `SELECT `+intentColumns+` FROM psp_intents
		WHERE purchase_id = $1 ORDER BY create_time, intent_id`, purchaseID)
	if err != nil {
		return nil, fmt.Errorf("testpsp: listing intents: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var all []payment.Intent
	for rows.Next() {
		var in intent
		if err := in.scan(rows.Scan); err != nil {
			return nil, fmt.Errorf("testpsp: listing intents: %w", err)
		}
		all = append(all, in.Intent)
	}
	return all, rows.Err()
}

// Confirm implements payment.Provider.
func (p *Provider) Confirm(ctx context.Context, id string) (payment.Intent, error) {
	return p.call(ctx, "confirm", p.byID(ctx, id), func(tx *sql.Tx, in *intent) error {
		if in.State != payment.RequiresConfirmation {
			return nil
		}
		switch in.kind() {
		case RefOK, RefTimeoutBefore, RefTimeoutAfter, Ref500Once, Ref500Kept, RefRefundSlow, RefRefundFails:
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
		return p.save(ctx, tx, in)
	})
}

// Capture implements payment.Provider.
func (p *Provider) Capture(ctx context.Context, id string) (payment.Intent, error) {
	return p.call(ctx, "capture", p.byID(ctx, id), func(tx *sql.Tx, in *intent) error {
		if in.State != payment.Authorised {
			return nil
		}
		in.State, in.Fee = payment.Succeeded, Fee(in.Request.MinorUnits)
		if _, err := tx.ExecContext(ctx, `INSERT INTO psp_charges (intent_id, purchase_id, currency_code, minor_units, fee_minor_units, charge_time)
			VALUES ($1, $2, $3, $4, $5, $6)`, in.ID, in.PurchaseID, in.CurrencyCode, in.Request.MinorUnits, in.Fee, p.cfg.Now().UnixMicro()); err != nil {
			return err
		}
		return p.save(ctx, tx, in)
	})
}

// Cancel implements payment.Provider.
func (p *Provider) Cancel(ctx context.Context, id string) (payment.Intent, error) {
	return p.call(ctx, "cancel", p.byID(ctx, id), func(tx *sql.Tx, in *intent) error {
		if in.State == payment.Succeeded || in.State == payment.Cancelled {
			return nil
		}
		in.State = payment.Cancelled
		return p.save(ctx, tx, in)
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
		return p.save(ctx, tx, in)
	})
	p.hinted()
	return purchaseID, err
}

// Books implements payment.Bookkeeper.
func (p *Provider) Books(ctx context.Context) (payment.Books, error) {
	b := payment.Books{CapturedMinorUnits: map[string]int64{}, FeesMinorUnits: map[string]int64{}}
	now := p.cfg.Now().UnixMicro()
	rows, err := p.db.Read().QueryContext(ctx, `SELECT currency_code, SUM(minor_units), SUM(fee) FROM (
			SELECT currency_code, minor_units, fee_minor_units AS fee FROM psp_charges
			UNION ALL SELECT c.currency_code, -r.minor_units, 0 FROM psp_refunds r JOIN psp_charges c ON c.intent_id = r.intent_id
				WHERE r.state = $1 OR r.state = $2 AND r.settle_time <= $3) AS moves GROUP BY currency_code`,
		payment.RefundSucceeded, payment.RefundPending, now)
	if err != nil {
		return b, fmt.Errorf("testpsp: summing the charges: %w", err)
	}
	for rows.Next() {
		var currency string
		var sum, fees int64
		if err := rows.Scan(&currency, &sum, &fees); err != nil {
			return b, errors.Join(fmt.Errorf("testpsp: summing the charges: %w", err), rows.Close())
		}
		b.CapturedMinorUnits[currency], b.FeesMinorUnits[currency] = sum, fees
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return b, fmt.Errorf("testpsp: summing the charges: %w", err)
	}
	if err := p.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM
		(SELECT purchase_id FROM psp_charges c WHERE minor_units > (SELECT COALESCE(SUM(r.minor_units), 0) FROM psp_refunds r
				WHERE r.intent_id = c.intent_id AND r.state <> $1)
			GROUP BY purchase_id HAVING COUNT(*) > 1) AS doubled`, payment.RefundFailed).Scan(&b.DoubleCaptures); err != nil {
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
		if in, err = load(tx); err != nil || in == nil {
			return err
		}
		var lost bool
		if fault, lost, err = disturbance(ctx, tx, in, name); err != nil || fault != nil && !lost {
			return err
		}
		return effect(tx, in)
	})
	p.hinted()
	if err = errors.Join(err, fault); err != nil {
		return payment.Intent{}, fmt.Errorf("testpsp: %s: %w", name, err)
	}
	if in == nil {
		return payment.Intent{}, nil
	}
	return in.Intent, nil
}

// disturbance is the fault of an intent's reference for the first try of a call; lost: the call has its effect, and only
// the answer does not come.
func disturbance(ctx context.Context, tx *sql.Tx, in *intent, call string) (fault error, lost bool, err error) {
	first, err := firstTry(ctx, tx, in, call)
	if err != nil || !first {
		return nil, false, err
	}
	switch in.kind() {
	case RefTimeoutBefore:
		return payment.ErrUnknownOutcome, false, nil
	case RefTimeoutAfter:
		return payment.ErrUnknownOutcome, true, nil
	case Ref500Once:
		return payment.ErrRetryable, false, nil
	}
	return nil, false, nil
}

// keepError makes the first request about a subject with tp_500_kept fail for ever under its key; it answers the error.
func (p *Provider) keepError(ctx context.Context, tx *sql.Tx, key, subject, reference string) error {
	now := p.cfg.Now()
	var kept, failed int
	if err := tx.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM psp_kept_errors WHERE idem_key = $1 AND create_time > $2),
		(SELECT COUNT(*) FROM psp_kept_errors WHERE subject = $3)`, key, now.Add(-p.cfg.KeyTTL).UnixMicro(), subject).Scan(&kept, &failed); err != nil {
		return err
	}
	switch {
	case kept > 0:
		return payment.ErrReplayed
	case failed > 0 || kind(reference, "") != Ref500Kept:
		return nil
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO psp_kept_errors (idem_key, subject, create_time) VALUES ($1, $2, $3)`,
		key, subject, now.UnixMicro()); err != nil {
		return err
	}
	return payment.ErrRetryable
}

// wait takes the configured latency; the caller's patience ending before the call was sent had no effect.
func (p *Provider) wait(ctx context.Context) error {
	if p.cfg.Latency > 0 {
		t := time.NewTimer(p.latency())
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
	return ids.NewV7(p.cfg.Now(), p.cfg.Random)
}

func (p *Provider) latency() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(float64(p.cfg.Latency) * math.Exp(p.cfg.LatencySigma*p.draw.NormFloat64()))
}

// intent is a row of psp_intents.
type intent struct {
	payment.Intent
	payment.Request
	key string
}

const intentColumns = `intent_id, idem_key, purchase_id, currency_code, minor_units, reference, state, decline_code, decline_final, instrument,
	fee_minor_units`

func (in *intent) scan(scan func(...any) error) error {
	err := scan(&in.ID, &in.key, &in.PurchaseID, &in.CurrencyCode, &in.Request.MinorUnits, &in.Reference, &in.State, &in.DeclineCode, &in.DeclineFinal,
		&in.Instrument, &in.Fee)
	in.Intent.MinorUnits = in.Request.MinorUnits
	return err
}

// card is the fingerprint of what pays.
func (in *intent) card() string {
	name, _, _ := strings.Cut(in.Reference, ":")
	if !strings.HasPrefix(name, RefCard) {
		name = "of purchase " + in.PurchaseID
	}
	sum := sha256.Sum256([]byte("testpsp-card/v1\x00" + name))
	return "tpf_" + hex.EncodeToString(sum[:12])
}

func (in *intent) kind() string { return kind(in.Reference, in.PurchaseID) }

// kind is the fate that a reference has for a purchase.
func kind(reference, purchaseID string) string {
	kind, _, _ := strings.Cut(reference, ":")
	if strings.HasPrefix(kind, RefCard) {
		return RefOK
	}
	if kind != RefMix {
		return kind
	}
	sum := sha256.Sum256([]byte("testpsp-mix/v1\x00" + purchaseID))
	switch draw := float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32); {
	case draw < MixAction:
		return RefActionRequired
	case draw < MixAction+MixDecline:
		return RefDecline
	}
	return RefOK
}

func (in *intent) decline(code string, final bool) {
	in.State, in.DeclineCode, in.DeclineFinal = payment.Declined, code, final
}

// save stores an intent's new state, with the hint of it.
func (p *Provider) save(ctx context.Context, tx *sql.Tx, in *intent) error {
	if in.State == payment.Authorised {
		in.Instrument = in.card()
	}
	if _, err := tx.ExecContext(ctx, `UPDATE psp_intents SET state = $1, decline_code = $2, decline_final = $3, instrument = $4,
		fee_minor_units = $5 WHERE intent_id = $6`, in.State, in.DeclineCode, in.DeclineFinal, in.Instrument, in.Fee, in.ID); err != nil {
		return err
	}
	return p.hint(ctx, tx, in.ID, 0)
}

func (p *Provider) byID(ctx context.Context, id string) func(*sql.Tx) (*intent, error) {
	return func(tx *sql.Tx) (*intent, error) { return find(ctx, tx, "intent_id", id, p.db.ForUpdate()) }
}

// find reads an intent by a unique column; lock ends the SELECT.
func find(ctx context.Context, q sqldb.Querier, column, value, lock string) (*intent, error) {
	in := &intent{}
	err := in.scan(q.QueryRowContext(ctx, `SELECT `+intentColumns+` FROM psp_intents WHERE `+column+` = $1`+lock, value).Scan)
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

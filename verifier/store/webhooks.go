package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/internal/sqldb"
)

// ErrNoWebhook means: no webhook has this id.
var ErrNoWebhook = errors.New("store: no such webhook")

// WebhookState is how a webhook does; a rimlight.verifier.v1.WebhookState: the numbers are the same.
type WebhookState int

// The states of a webhook.
const (
	WebhookActive   WebhookState = 1
	WebhookDisabled WebhookState = 2
)

// Webhook is one row of webhooks. Times are microseconds UTC; 0: none.
type Webhook struct {
	WebhookID ID
	RequestID string
	URL       string
	// States has bit 1<<s for each state of purchases that is told of.
	States int64
	// Secret signs, and until OldUntil OldSecret does as well. RotateRequest asked for Secret.
	Secret, OldSecret []byte
	OldUntil          int64
	RotateRequest     string
	State             WebhookState
	// Everything up to Cursor was told.
	Cursor int64
	// Lease is a number that grows; its holder tells until LeaseUntil.
	Lease, LeaseUntil int64
	// Attempts failed in a row, since FailingSince; the next is at RetryAt, and Problem is why the last one failed.
	Attempts              int
	FailingSince, RetryAt int64
	Problem               string
	CreateTime            int64
}

const webhookColumns = `webhook_id, request_id, url, states, secret, old_secret, old_until, rotate_request, state, cursor, lease, lease_until,
	attempts, failing_since, retry_at, problem, create_time`

func scanWebhook(scan func(...any) error, w *Webhook) error {
	return scan(&w.WebhookID, &w.RequestID, &w.URL, &w.States, &w.Secret, &w.OldSecret, &w.OldUntil, &w.RotateRequest, &w.State, &w.Cursor,
		&w.Lease, &w.LeaseUntil, &w.Attempts, &w.FailingSince, &w.RetryAt, &w.Problem, &w.CreateTime)
}

// InsertWebhook stores a new, active one that tells what comes after its cursor. ErrRequestKnown.
func (tx *Tx) InsertWebhook(ctx context.Context, w *Webhook) error {
	_, err := tx.exec(ctx, "storing a webhook", `INSERT INTO webhooks (`+webhookColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, 0, '', $7, $8, 0, 0, 0, 0, 0, '', $9)`,
		w.WebhookID, w.RequestID, w.URL, w.States, w.Secret, []byte{}, WebhookActive, w.Cursor, w.CreateTime)
	if err != nil && sqldb.IsUnique(err) {
		return fmt.Errorf("%w: %w", ErrRequestKnown, err)
	}
	return err
}

// WebhookByID reads one. ErrNoWebhook.
func (q Queries) WebhookByID(ctx context.Context, id ID) (Webhook, error) {
	return q.webhookBy(ctx, "webhook_id", id)
}

// WebhookByRequest reads one by the request that made it. ErrNoWebhook.
func (q Queries) WebhookByRequest(ctx context.Context, requestID string) (Webhook, error) {
	return q.webhookBy(ctx, "request_id", requestID)
}

func (q Queries) webhookBy(ctx context.Context, column string, value any) (Webhook, error) {
	return webhookRow(q.q.QueryRowContext(ctx, `SELECT `+webhookColumns+` FROM webhooks WHERE `+column+` = $1`+q.lock, value))
}

func webhookRow(row *sql.Row) (w Webhook, err error) {
	err = scanWebhook(row.Scan, &w)
	if errors.Is(err, sql.ErrNoRows) {
		return w, ErrNoWebhook
	}
	if err != nil {
		return w, fmt.Errorf("reading a webhook: %w", err)
	}
	return w, nil
}

// Webhooks lists up to n after an id, oldest first.
func (q Queries) Webhooks(ctx context.Context, after ID, n int) ([]Webhook, error) {
	return collect(ctx, q.q, "listing webhooks", func(r *sql.Rows, w *Webhook) error { return scanWebhook(r.Scan, w) },
		`SELECT `+webhookColumns+` FROM webhooks WHERE webhook_id > $1 ORDER BY webhook_id LIMIT CAST($2 AS BIGINT)`, after, n)
}

// CountWebhooks counts all of them.
func (q Queries) CountWebhooks(ctx context.Context) (int, error) {
	return q.count(ctx, `SELECT COUNT(*) FROM webhooks`)
}

// BehindWebhook is an active webhook that has something to tell, once nobody tells it and it does not wait after a failure.
type BehindWebhook struct {
	WebhookID           ID
	LeaseUntil, RetryAt int64
}

// BehindWebhooks lists them.
func (q Queries) BehindWebhooks(ctx context.Context) ([]BehindWebhook, error) {
	return collect(ctx, q.q, "looking for webhooks to tell", func(r *sql.Rows, w *BehindWebhook) error {
		return r.Scan(&w.WebhookID, &w.LeaseUntil, &w.RetryAt)
	}, `SELECT webhook_id, lease_until, retry_at FROM webhooks
		WHERE state = $1 AND cursor < (SELECT value FROM counters WHERE name = 'event') ORDER BY webhook_id`, WebhookActive)
}

// ClaimWebhook takes a due one until a time. ErrNoWebhook when another was faster, or it is not due any more.
func (tx *Tx) ClaimWebhook(ctx context.Context, id ID, now, until int64) (Webhook, error) {
	return webhookRow(tx.q.QueryRowContext(ctx, `UPDATE webhooks SET lease = lease + 1, lease_until = $1
		WHERE webhook_id = $2 AND state = $3 AND lease_until <= $4 AND retry_at <= $4 RETURNING `+webhookColumns, until, id, WebhookActive, now))
}

// WebhookTold stores that everything up to a cursor was told, and holds the lease until a time; 0 gives it back. With
// success the endpoint is well again. ErrConflict when the lease is another's.
func (tx *Tx) WebhookTold(ctx context.Context, w *Webhook, cursor, until int64, success bool) error {
	query := `UPDATE webhooks SET cursor = $1, lease_until = $2`
	if success {
		query += `, attempts = 0, failing_since = 0, retry_at = 0, problem = ''`
	}
	return tx.fenced(ctx, "storing what a webhook was told", query+` WHERE webhook_id = $3 AND lease = $4`, cursor, until, w.WebhookID, w.Lease)
}

// WebhookFailed stores a failure and gives the lease back. ErrConflict when the lease is another's.
func (tx *Tx) WebhookFailed(ctx context.Context, w *Webhook, cursor int64) error {
	return tx.fenced(ctx, "storing a webhook's failure", `UPDATE webhooks SET cursor = $1, lease_until = 0, state = $2, attempts = $3,
		failing_since = $4, retry_at = $5, problem = $6 WHERE webhook_id = $7 AND lease = $8`,
		cursor, w.State, w.Attempts, w.FailingSince, w.RetryAt, w.Problem, w.WebhookID, w.Lease)
}

func (tx *Tx) fenced(ctx context.Context, what, query string, args ...any) error {
	n, err := tx.exec(ctx, what, query, args...)
	if err == nil && n != 1 {
		err = ErrConflict
	}
	return err
}

// RestartWebhook makes one active and due at once, from its cursor, under a new lease.
func (tx *Tx) RestartWebhook(ctx context.Context, w *Webhook) error {
	tx.changes.Webhooks = true
	_, err := tx.exec(ctx, "restarting a webhook", `UPDATE webhooks SET state = $1, cursor = $2, lease = lease + 1, lease_until = 0,
		attempts = 0, failing_since = 0, retry_at = 0, problem = '' WHERE webhook_id = $3`, WebhookActive, w.Cursor, w.WebhookID)
	return err
}

// RotateWebhook stores its secrets, under a new lease: whoever tells reads them again.
func (tx *Tx) RotateWebhook(ctx context.Context, w *Webhook) error {
	_, err := tx.exec(ctx, "rotating a webhook's secret", `UPDATE webhooks SET secret = $1, old_secret = $2, old_until = $3, rotate_request = $4,
		lease = lease + 1, lease_until = 0 WHERE webhook_id = $5`, w.Secret, w.OldSecret, w.OldUntil, w.RotateRequest, w.WebhookID)
	return err
}

// DeleteWebhook removes one, if it is there.
func (tx *Tx) DeleteWebhook(ctx context.Context, id ID) error {
	_, err := tx.exec(ctx, "removing a webhook", `DELETE FROM webhooks WHERE webhook_id = $1`, id)
	return err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
)

// ErrPosted means: the purchase has a ledger transaction of this kind already.
var ErrPosted = errors.New("store: posted already")

// Post writes a ledger transaction of a purchase. ErrPosted when the primary key refuses it.
func (tx *Tx) Post(_ context.Context, p *Purchase, t ledger.Transaction, now int64) error {
	if err := t.Validate(); err != nil {
		return err
	}
	tx.pending.posted = append(tx.pending.posted, posted{p.PurchaseID, p.DropID, now, t})
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
	}, `SELECT account, currency_code, SUM(units) FROM (SELECT account, currency_code, SUM(minor_units) AS units FROM ledger_postings
		GROUP BY drop_id, account, currency_code) AS l GROUP BY account, currency_code ORDER BY account, currency_code`)
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
	DropID                                           ID
	ChannelID                                        string
	Received, Delivered, Vouchers, Refused, Refunded uint32
	UnitsHeld, Duplicates                            uint32
	// CapturedMinorUnits is what the ledger has; Charged and RefundedMinorUnits are what purchases and refunds say.
	CapturedMinorUnits, ChargedMinorUnits, RefundedMinorUnits int64
	// PostedFeesMinorUnits is what the ledger has; FeesMinorUnits is what purchases say.
	PostedFeesMinorUnits, FeesMinorUnits int64
}

// SumDrops counts the purchases of up to n drops after a drop id; a drop alone, if only is given. A cancelled token is a
// refused purchase without a serial, and redemptions that came later are no duplicates.
func (q Queries) SumDrops(ctx context.Context, after ID, only *ID, n int) ([]DropSums, error) {
	where, args := `drop_id > $6`, []any{after}
	if only != nil {
		where, args = `drop_id = $6`, []any{*only}
	}
	return collect(ctx, q.q, "summing drops", func(r *sql.Rows, d *DropSums) error {
		return r.Scan(&d.DropID, &d.ChannelID, &d.Received, &d.Delivered, &d.Vouchers, &d.Refused, &d.Refunded, &d.UnitsHeld, &d.Duplicates,
			&d.CapturedMinorUnits, &d.ChargedMinorUnits, &d.RefundedMinorUnits, &d.PostedFeesMinorUnits, &d.FeesMinorUnits)
	}, `SELECT d.drop_id, COALESCE((SELECT t.channel_id FROM drop_terms t WHERE t.drop_id = d.drop_id), ''),
			d.received, d.delivered, d.vouchers, d.refused, d.refunded,
			COALESCE(r.held, 0), COALESCE(r.redemptions, 0) - d.redeemed,
			(SELECT COALESCE(SUM(l.minor_units), 0) FROM ledger_postings l WHERE l.drop_id = d.drop_id AND l.account = $5),
			d.charged,
			(SELECT COALESCE(SUM(r.minor_units), 0) FROM refunds r WHERE r.drop_id = d.drop_id AND r.state = $8),
			(SELECT COALESCE(SUM(l.minor_units), 0) FROM ledger_postings l WHERE l.drop_id = d.drop_id AND l.account = $12), d.fees
		FROM (SELECT s.drop_id, SUM(s.purchases) AS received, SUM(s.redeemed) AS redeemed,
				SUM(CASE WHEN s.state IN ($1, $10) THEN s.purchases ELSE 0 END) AS delivered,
				SUM(CASE WHEN s.state = $2 THEN s.purchases ELSE 0 END) AS vouchers, SUM(CASE WHEN s.state = $3 THEN s.purchases ELSE 0 END) AS refused,
				SUM(CASE WHEN s.state = $7 THEN s.purchases ELSE 0 END) AS refunded, SUM(`+takenInState+`) AS charged, SUM(s.fees) AS fees
			FROM (SELECT p.drop_id, p.state, COUNT(*) AS purchases, SUM(CASE WHEN p.reason <> $11 THEN 1 ELSE 0 END) AS redeemed, SUM(p.fee_minor_units) AS fees, `+chargedInState+`
				FROM purchases p WHERE `+where+` GROUP BY p.drop_id, p.state) AS s GROUP BY s.drop_id) AS d
			LEFT JOIN (SELECT p.drop_id AS drop_id, SUM(CASE WHEN p.reason <> $11 THEN 1 ELSE 0 END) AS redemptions,
					SUM(CASE WHEN c.settled = 1 AND c.state <> $4 THEN 1 ELSE 0 END) AS held
				FROM purchases p JOIN candidates c ON c.token_id = p.token_id WHERE `+where+` GROUP BY p.drop_id) AS r ON r.drop_id = d.drop_id
		ORDER BY d.drop_id LIMIT CAST($9 AS BIGINT)`,
		append([]any{saga.Delivered, saga.Voucher, saga.Refused, Released, ledger.ProviderReceivable}, append(args, saga.Refunded, RefundDone, n, saga.Shipped, saga.Cancelled, ledger.PaymentFees)...)...)
}

// moneyTaken holds for a purchase p whose money was taken at some time, by its state alone.
var moneyTaken = fmt.Sprintf(`(p.state IN (%s) OR p.state = %d AND p.reason = %d)`, paidStates, saga.Voucher, saga.OrderFailed)

// paidStates are those that no purchase reaches unpaid.
var paidStates = fmt.Sprintf(`%d, %d, %d, %d, %d, %d, %d`, saga.Captured, saga.Ordered, saga.Delivered, saga.Shipped, saga.ChoiceRequired,
	saga.Refunding, saga.Refunded)

// chargedInState are columns of purchases p in one state, of which takenInState makes the sum of those of which moneyTaken
// holds.
var (
	chargedInState = fmt.Sprintf(`SUM(p.charged_minor_units) AS charged,
		SUM(CASE WHEN p.reason = %d THEN p.charged_minor_units ELSE 0 END) AS charged_in_vain`, saga.OrderFailed)
	takenInState = fmt.Sprintf(`CASE WHEN s.state IN (%s) THEN s.charged WHEN s.state = %d THEN s.charged_in_vain ELSE 0 END`, paidStates, saga.Voucher)
)

// NodeSums counts a node's redemptions by what became of them.
type NodeSums struct {
	NodeID                                               ID
	Received, Holding, Open, Denied, Released, Redundant uint32
}

// SumNodes counts the redemptions of up to n nodes after a node id.
func (q Queries) SumNodes(ctx context.Context, after ID, n int) ([]NodeSums, error) {
	return collect(ctx, q.q, "summing nodes", func(r *sql.Rows, s *NodeSums) error {
		return r.Scan(&s.NodeID, &s.Received, &s.Holding, &s.Open, &s.Denied, &s.Released, &s.Redundant)
	}, `SELECT node_id, COUNT(*), SUM(CASE WHEN state = $1 AND settled = 1 THEN 1 ELSE 0 END),
			SUM(CASE WHEN state = $1 AND settled = 0 OR state = $2 OR state = $3 THEN 1 ELSE 0 END),
			SUM(CASE WHEN state = $4 THEN 1 ELSE 0 END), SUM(CASE WHEN state = $5 THEN 1 ELSE 0 END), SUM(CASE WHEN state = $6 THEN 1 ELSE 0 END)
		FROM candidates WHERE node_id > $7 GROUP BY node_id ORDER BY node_id LIMIT CAST($8 AS BIGINT)`,
		Winner, Spare, ToRelease, Denied, Released, Redundant, after, n)
}

// ChannelSums is a channel's money in one currency: what purchases, refunds and vouchers say, and what the ledger says.
type ChannelSums struct {
	ChannelID, CurrencyCode                        string
	Captured, Refunded, VoucherIssued, VoucherUsed int64
	Revenue                                        int64
}

// SumChannels sums the money of every channel.
func (q Queries) SumChannels(ctx context.Context) ([]ChannelSums, error) {
	return collect(ctx, q.q, "summing channels", func(r *sql.Rows, s *ChannelSums) error {
		return r.Scan(&s.ChannelID, &s.CurrencyCode, &s.Captured, &s.Refunded, &s.VoucherIssued, &s.VoucherUsed, &s.Revenue)
	}, `SELECT COALESCE(t.channel_id, ''), m.currency_code, SUM(m.captured), SUM(m.refunded), SUM(m.issued), SUM(m.used), SUM(m.revenue) FROM (
			SELECT p.drop_id AS drop_id, p.currency_code AS currency_code, SUM(CASE WHEN `+moneyTaken+` THEN p.charged_minor_units ELSE 0 END) AS captured,
				0 AS refunded, 0 AS issued, 0 AS used, 0 AS revenue
				FROM purchases p GROUP BY p.drop_id, p.currency_code
			UNION ALL SELECT r.drop_id, p.currency_code, 0, SUM(r.minor_units), 0, 0, 0
				FROM refunds r JOIN purchases p ON p.token_id = r.token_id WHERE r.state = $1 GROUP BY r.drop_id, p.currency_code
			UNION ALL SELECT v.drop_id, v.currency_code, 0, 0, SUM(v.minor_units), 0, 0
				FROM vouchers v WHERE v.kind = $2 GROUP BY v.drop_id, v.currency_code
			UNION ALL SELECT u.drop_id, p.currency_code, 0, 0, 0, SUM(p.stored_value_minor_units), 0
				FROM voucher_uses u JOIN purchases p ON p.token_id = u.token_id WHERE u.state = 2 GROUP BY u.drop_id, p.currency_code
			UNION ALL SELECT l.drop_id, l.currency_code, 0, 0, 0, 0, -SUM(l.minor_units)
				FROM ledger_postings l WHERE l.account = $3 GROUP BY l.drop_id, l.currency_code) AS m
			LEFT JOIN drop_terms t ON t.drop_id = m.drop_id
		GROUP BY COALESCE(t.channel_id, ''), m.currency_code ORDER BY 1, 2`, RefundDone, StoredValue, ledger.ChannelRevenue)
}

// OpenStoredValue sums, by currency, what is left on stored-value vouchers and what payments in progress hold of them.
func (q Queries) OpenStoredValue(ctx context.Context) (map[string]int64, error) {
	type sum struct {
		currency string
		open     int64
	}
	list, err := collect(ctx, q.q, "summing vouchers", func(r *sql.Rows, s *sum) error { return r.Scan(&s.currency, &s.open) },
		`SELECT v.currency_code, SUM(v.remaining_minor_units + (SELECT COALESCE(SUM(u.minor_units), 0) FROM voucher_uses u
				WHERE u.voucher_id = v.voucher_id AND u.state = 1))
			FROM vouchers v WHERE v.kind = $1 GROUP BY v.currency_code`, StoredValue)
	open := map[string]int64{}
	for _, s := range list {
		open[s.currency] = s.open
	}
	return open, err
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
	if err := tx.q.QueryRowContext(ctx, `SELECT seed FROM own_seed WHERE singleton = 1`).Scan(&seed); err != nil {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	return seed, nil
}

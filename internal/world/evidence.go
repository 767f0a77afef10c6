package world

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/simnet"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Evidence is all that the laws judge: plain data, so that a test can doctor it. Ids are text, times are the world's.
type Evidence struct {
	Config              Config `json:"-"`
	Began               time.Time
	Healed, Settled     time.Duration
	Complete            bool // everything settled before patience ended
	Unfinished          int  // what was still open
	ViewersOfDrop       []int
	Willing             [][]time.Duration // when those came who buy if they can, by drop
	DropIDs, DropStates []string

	Answers   []Answer
	Endings   []Ending
	Refusals  map[string]int
	Faults    map[string]int
	Downs     []Down
	Noes      []No
	Pauses    []Pause
	Closings  map[string]Closing // of drops, by id
	Surprises []string
	Lost      []Lost // by a verifier that was restored, each time

	FullSpans    []FullSpan
	RoomRefusals []RoomRefusal
	Returns      []Return
	Fences       []Fenced
	Cancelled    []string // tokens, hexadecimal
	StillFull    []string // nodes that accept nothing in the end

	Network  simnet.Stats
	Heard    string         // logs, metrics and error texts
	Misdeeds map[string]int // INTERNAL, UNKNOWN and reasonless answers

	Watched                     []Watched
	Boards                      []Board
	Told                        []Told           // by streams of WatchPurchase
	Revisions                   map[string]int64 // of the drops
	PurchaseEvents, OrderEvents []Item           // as the stores have them, in order

	Keys     []*offerv1.SigningKey
	Journals []Journal

	Units      []Unit
	Leases     []Lease                  // as they were granted
	Tombstones map[string]time.Duration // when the verifier gave leases up
	Orders     []Order
	Purchases  []Purchase
	Candidates []Candidate
	Jobs       []Job
	Postings   []Posting
	Money
}

// Journal is one node's, decoded. Lost ones are out of the platform's reach: their disk is lost, or their node is fenced.
// The last record of one of a node that retired is its seal, under an epoch: all that it sold is at the verifier.
type Journal struct {
	Host    string
	Node    string
	Disk    string // of those that are in a node; copies on one machine share it
	Lost    bool
	Stopped bool  // its node ended itself, since another one has its place
	Sealed  int64 // the epoch; 0: it is not
	Entries []Entry
}

// Lease is one row of fulfillment's.
type Lease struct {
	ID, Drop, Node string
	Epoch          int64
	State          int // 1 active, 2 quarantined, 3 closed
	Quarantined    bool
	Serials        []uint32
}

// Entry is one record about stock.
type Entry struct {
	Sequence int64
	Kind     string // leased, returned, redeemed
	Drop     string // with leased
	Lease    string
	Serials  []uint32
	Receipt  string
}

// Unit is one row of fulfillment's escrow. Released is when a purchase last gave it back; zero: never.
type Unit struct {
	Drop, Lease, Token string
	Serial             uint32
	State              int // 1 free, 2 leased, 3 sold
	Released           time.Duration
}

// Order is one row of fulfillment's orders.
type Order struct {
	ID, Purchase, Drop, LicenceKey string
	SKU, Tracking                  string // of parcels
	Serial                         uint32
	State                          int // rimlight.fulfillment.v1.OrderState
}

// Purchase is one row of the verifier's.
type Purchase struct {
	Token, ID, Drop, Session, Lease, Currency, Outcome, LicenceKey string
	State                                                          saga.State
	Reason                                                         saga.Reason
	Serial                                                         uint32
	MinorUnits                                                     int64 // the price
	Charged, StoredValue                                           int64 // what the provider takes of it, and what a voucher's money pays
	Voucher                                                        string
	Held                                                           bool          // the voucher that it came with is held for it
	Arrived, Ended                                                 time.Duration // its first and last event, by the verifier's clock
	Arrival                                                        int64         // orders purchases and candidates
}

// Candidate is one redemption that the verifier knows. State: see verifier/store.
type Candidate struct {
	Token, Lease, Receipt string
	Serial                uint32
	State, Settled        int
	Arrival               int64
}

// Job is work that the verifier has not done.
type Job struct{ Kind, Token string }

// Posting is one line of the ledger.
type Posting struct {
	Purchase, Kind, Account, Currency string
	MinorUnits                        int64
}

// unfinished counts what has not come to its end.
func (w *world) unfinished(ctx context.Context) (int, error) {
	total := 0
	for _, q := range []struct {
		db    *sqldb.DB
		query string
	}{
		{w.centre.verifierDB, fmt.Sprintf(`SELECT (SELECT COUNT(*) FROM purchases WHERE state NOT IN (%d, %d, %d, %d, %d)) + (SELECT COUNT(*) FROM jobs)`,
			saga.Delivered, saga.Shipped, saga.Voucher, saga.Refused, saga.Refunded)},
		{w.centre.stockDB, `SELECT (SELECT COUNT(*) FROM units WHERE state = 2) + (SELECT COUNT(*) FROM drops WHERE settled_time_us IS NULL)
			+ (SELECT COUNT(*) FROM leases WHERE state = 2)`},
	} {
		n := 0
		if err := q.db.Read().QueryRowContext(ctx, q.query).Scan(&n); err != nil {
			return 0, fmt.Errorf("counting what is open: %w", err)
		}
		total += n
	}
	return total, nil
}

// collect reads everything. The services still run, and have nothing left to do.
func (w *world) collect(healed, settled time.Duration, complete bool) (*Evidence, error) {
	ctx := context.Background()
	e := &Evidence{Config: w.cfg, Began: w.start, Healed: healed, Settled: settled, Complete: complete, Network: w.net.Stats(), DropIDs: w.drops}
	e.ViewersOfDrop, e.Willing = make([]int, len(w.drops)), make([][]time.Duration, len(w.drops))
	for i := range w.plan.viewers {
		v := &w.plan.viewers[i]
		e.ViewersOfDrop[v.Drop]++
		if v.willing() {
			e.Willing[v.Drop] = append(e.Willing[v.Drop], v.Arrives)
		}
	}
	var err error
	if e.Unfinished, err = w.unfinished(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(w.readStock(ctx, e), w.readVerifier(ctx, e), w.readMoney(ctx, e), w.readCards(ctx, e), w.readClosings(ctx, e), w.readDetails(ctx, e), w.readTombstones(ctx, e), w.readJournals(ctx, e), w.askKeys(ctx, e), w.readBoards(ctx, e)); err != nil {
		return nil, err
	}
	w.readRoom(ctx, e)
	e.Returns = w.returns.all()
	w.readOperators(e)
	if e.Heard, err = w.ears.heard(); err != nil {
		return nil, err
	}
	w.ears.mu.Lock()
	e.Misdeeds = w.ears.faults
	w.ears.mu.Unlock()
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	e.Answers, e.Endings, e.Refusals = w.watch.answers, w.watch.endings, w.watch.refusals
	e.Choices, e.RefundAnswers = w.watch.choices, w.watch.refunds
	for _, o := range w.observers {
		e.Watched = append(e.Watched, o.got)
	}
	e.Faults, e.Downs, e.Noes, e.Pauses, e.Surprises = w.watch.faults, w.watch.downs, w.watch.noes, w.watch.pauses, w.watch.surprises
	e.Lost = w.watch.lost
	return e, nil
}

func (w *world) readStock(ctx context.Context, e *Evidence) error {
	db := w.centre.stockDB
	return errors.Join(
		rows(ctx, db, &e.Units, func(scan func(...any) error) (u Unit, err error) {
			var drop, lease, tok []byte
			var released sql.NullInt64
			err = scan(&drop, &u.Serial, &u.State, &lease, &tok, &released)
			u.Drop, u.Lease, u.Token = uuid(drop), uuid(lease), hex.EncodeToString(tok)
			if released.Valid {
				u.Released = time.UnixMicro(released.Int64).Sub(w.start)
			}
			return u, err
		}, `WITH RECURSIVE serials (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM serials WHERE n < (SELECT MAX(units) FROM drops))
			SELECT drop_id, serial, state, lease_id, token_id, (SELECT MAX(release_time_us) FROM releases r
				WHERE r.drop_id = u.drop_id AND r.serial = u.serial) FROM units u
			UNION ALL SELECT d.drop_id, n, 1, NULL, NULL, NULL FROM drops d JOIN serials ON n > d.made AND n <= d.units -- FREE without a row
			ORDER BY 1, 2`),
		rows(ctx, db, &e.Orders, func(scan func(...any) error) (o Order, err error) {
			var id, drop []byte
			err = scan(&id, &o.Purchase, &drop, &o.Serial, &o.State, &o.LicenceKey, &o.SKU, &o.Tracking)
			o.ID, o.Drop = uuid(id), uuid(drop)
			return o, err
		}, `SELECT order_id, purchase_id, drop_id, serial, state, licence_key, sku, tracking FROM orders ORDER BY position`),
		rows(ctx, db, &e.OrderEvents, func(scan func(...any) error) (i Item, err error) {
			var id []byte
			err = scan(&id, &i.State)
			i.ID = uuid(id)
			return i, err
		}, `SELECT order_id, state FROM order_events ORDER BY cursor`),
		w.readLeases(ctx, e),
		rows(ctx, db, &e.DropStates, func(scan func(...any) error) (s string, err error) { return s, scan(&s) },
			`SELECT CASE WHEN settled_time_us IS NULL THEN 'open' ELSE 'settled' END FROM drops ORDER BY drop_id`),
	)
}

func (w *world) readVerifier(ctx context.Context, e *Evidence) error {
	db := w.centre.verifierDB
	return errors.Join(
		rows(ctx, db, &e.Purchases, func(scan func(...any) error) (p Purchase, err error) {
			var tok, id, drop, session, lease, presented []byte
			var arrived, ended int64
			err = scan(&tok, &id, &drop, &session, &lease, &p.Serial, &p.State, &p.Reason, &p.Currency, &p.MinorUnits, &p.Outcome, &p.LicenceKey,
				&p.Charged, &p.StoredValue, &presented, &p.Held, &arrived, &ended, &p.Arrival)
			p.Voucher = uuid(presented)
			p.Arrived, p.Ended = time.UnixMicro(arrived).Sub(w.start), time.UnixMicro(ended).Sub(w.start)
			p.Token, p.ID, p.Drop = hex.EncodeToString(tok), hex.EncodeToString(id), uuid(drop)
			p.Session, p.Lease = hex.EncodeToString(session), uuid(lease)
			return p, err
		}, `SELECT token_id, purchase_id, drop_id, viewer_session_id, lease_id, serial, state, reason, currency_code, minor_units,
			outcome, licence_key, charged_minor_units, stored_value_minor_units, presented_voucher, voucher_held,
			(SELECT MIN(event_time) FROM events e WHERE e.token_id = p.token_id), (SELECT MAX(event_time) FROM events e WHERE e.token_id = p.token_id),
			arrival FROM purchases p ORDER BY arrival`),
		rows(ctx, db, &e.PurchaseEvents, func(scan func(...any) error) (i Item, err error) {
			var id []byte
			err = scan(&id, &i.State)
			i.ID = hex.EncodeToString(id)
			return i, err
		}, `SELECT p.purchase_id, e.state FROM events e JOIN purchases p ON p.token_id = e.token_id ORDER BY e.cursor`),
		rows(ctx, db, &e.Candidates, func(scan func(...any) error) (c Candidate, err error) {
			var tok, lease []byte
			err = scan(&tok, &lease, &c.Serial, &c.State, &c.Settled, &c.Receipt, &c.Arrival)
			c.Token, c.Lease = hex.EncodeToString(tok), uuid(lease)
			return c, err
		}, `SELECT token_id, lease_id, serial, state, settled, receipt, arrival FROM candidates ORDER BY arrival`),
		rows(ctx, db, &e.Jobs, func(scan func(...any) error) (j Job, err error) {
			var tok []byte
			err = scan(&j.Kind, &tok)
			j.Token = hex.EncodeToString(tok)
			return j, err
		}, `SELECT kind, token_id FROM jobs ORDER BY kind, token_id`),
		rows(ctx, db, &e.Postings, func(scan func(...any) error) (p Posting, err error) {
			var id []byte
			err = scan(&id, &p.Kind, &p.Account, &p.Currency, &p.MinorUnits)
			p.Purchase = hex.EncodeToString(id)
			return p, err
		}, `SELECT purchase_id, kind, account, currency_code, minor_units FROM ledger_postings ORDER BY purchase_id, kind, line`),
	)
}

// rows scans a whole query into a list.
func rows[T any](ctx context.Context, db *sqldb.DB, into *[]T, scan func(func(...any) error) (T, error), query string) error {
	r, err := db.Read().QueryContext(ctx, query)
	if err != nil {
		return fmt.Errorf("reading evidence: %w", err)
	}
	for r.Next() {
		item, err := scan(r.Scan)
		if err != nil {
			return errors.Join(fmt.Errorf("reading evidence: %w", err), r.Close())
		}
		*into = append(*into, item)
	}
	return errors.Join(r.Err(), r.Close())
}

func uuid(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return ids.Text(b)
}

// keys are all public keys of the world.
func (e *Evidence) keys() *token.Keys {
	keys := &token.Keys{}
	keys.Add(e.Keys...)
	return keys
}

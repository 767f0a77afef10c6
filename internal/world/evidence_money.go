package world

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/balance"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/payment"
)

// Money is what evidence has about money beside purchases, and about parcels.
type Money struct {
	Vouchers        []Voucher
	Uses            []Use
	Refunds         []Refund
	Charges         []Charge
	ProviderRefunds []Refund // Purchase and MinorUnits are the provider's own
	Choices         []Choice
	RefundAnswers   []RefundAnswer
	Equations       []balance.Equation // the audit's that do not hold
	Cards           map[string]string  // testpsp's named card that a purchase was to be paid with, by token

	Parcels []Parcel
	// Addresses counts orders whose delivery details the centre still has, or a depot after the parcel left.
	Addresses int
	// Readable are the journals and tables between viewers and depots that hold an address in the clear.
	Readable []string
}

// Voucher is one row of the verifier's. Issued is by the verifier's clock.
type Voucher struct {
	ID, Token, Session, Channel, Currency string
	Kind                                  int
	MinorUnits, Remaining                 int64
	Issued                                time.Duration
}

// Use is what a purchase took of a voucher. State: 1 held, 2 spent.
type Use struct {
	Voucher, Token string
	MinorUnits     int64
	State          int
}

// Refund is one row of the verifier's, or of the provider's books. State is a rimlight.verifier.v1.RefundState.
type Refund struct {
	ID, Request, Purchase, Currency string
	MinorUnits                      int64
	State                           int
	MakeGood                        bool
}

// Charge is one capture in the payment provider's own books.
type Charge struct {
	Purchase, Currency string
	MinorUnits, Fee    int64
}

func (w *world) readMoney(ctx context.Context, e *Evidence) error {
	db, provider := w.centre.verifierDB, w.centre.paymentDB
	return errors.Join(
		rows(ctx, db, &e.Vouchers, func(scan func(...any) error) (v Voucher, err error) {
			var id, tok, session []byte
			var issued int64
			err = scan(&id, &tok, &session, &v.Channel, &v.Currency, &v.Kind, &v.MinorUnits, &v.Remaining, &issued)
			v.ID, v.Token, v.Session = uuid(id), hex.EncodeToString(tok), hex.EncodeToString(session)
			v.Issued = time.UnixMicro(issued).Sub(w.start)
			return v, err
		}, `SELECT voucher_id, token_id, viewer_session_id, channel_id, currency_code, kind, minor_units, remaining_minor_units, issue_time
			FROM vouchers ORDER BY issue_time, voucher_id`),
		rows(ctx, db, &e.Uses, func(scan func(...any) error) (u Use, err error) {
			var id, tok []byte
			err = scan(&id, &tok, &u.MinorUnits, &u.State)
			u.Voucher, u.Token = uuid(id), hex.EncodeToString(tok)
			return u, err
		}, `SELECT voucher_id, token_id, minor_units, state FROM voucher_uses ORDER BY token_id`),
		rows(ctx, db, &e.Refunds, func(scan func(...any) error) (r Refund, err error) {
			var id, purchase []byte
			err = scan(&id, &r.Request, &purchase, &r.Currency, &r.MinorUnits, &r.State, &r.MakeGood)
			r.ID, r.Purchase = hex.EncodeToString(id), hex.EncodeToString(purchase)
			return r, err
		}, `SELECT r.refund_id, r.request_id, p.purchase_id, p.currency_code, r.minor_units, r.state, r.make_good
			FROM refunds r JOIN purchases p ON p.token_id = r.token_id ORDER BY r.refund_id`),
		rows(ctx, provider, &e.Charges, func(scan func(...any) error) (c Charge, err error) {
			return c, scan(&c.Purchase, &c.Currency, &c.MinorUnits, &c.Fee)
		}, `SELECT purchase_id, currency_code, minor_units, fee_minor_units FROM psp_charges ORDER BY intent_id`),
		rows(ctx, provider, &e.ProviderRefunds, func(scan func(...any) error) (r Refund, err error) {
			var settles int64
			err = scan(&r.ID, &r.Purchase, &r.Currency, &r.MinorUnits, &r.State, &settles)
			if r.State == int(payment.RefundPending) && settles <= time.Now().UnixMicro() {
				r.State = int(payment.RefundSucceeded)
			}
			return r, err
		}, `SELECT r.refund_id, c.purchase_id, c.currency_code, r.minor_units, r.state, r.settle_time
			FROM psp_refunds r JOIN psp_charges c ON c.intent_id = r.intent_id ORDER BY r.create_time, r.refund_id`),
		w.readEquations(ctx, e),
	)
}

// readEquations asks for the audit as an operator does. Nothing moves any more: one reading counts.
func (w *world) readEquations(ctx context.Context, e *Evidence) error {
	all, err := balance.Read(ctx, w.net.Conn("operator", "verifier"), w.net.Conn("operator", "fulfillment"), "")
	if err != nil {
		return fmt.Errorf("reading the audit: %w", err)
	}
	e.Equations = balance.Broken(all)
	return nil
}

// readDetails reads what left the depots, and who still knows where to.
func (w *world) readDetails(ctx context.Context, e *Evidence) error {
	w.carrier.mu.Lock()
	e.Parcels = w.carrier.parcels
	w.carrier.mu.Unlock()
	count := func(db *sqldb.DB, query string) error {
		n := 0
		err := db.Read().QueryRowContext(ctx, query).Scan(&n)
		if err != nil {
			return fmt.Errorf("counting addresses: %w", err)
		}
		e.Addresses += n
		return nil
	}
	errs := []error{w.searchStores(ctx, e), count(w.centre.stockDB, `SELECT COUNT(*) FROM order_details`)}
	for _, d := range w.depots {
		errs = append(errs, count(d.inbox, `SELECT COUNT(*) FROM inbox WHERE state >= 5 AND LENGTH(details) > 0`))
	}
	return errors.Join(errs...)
}

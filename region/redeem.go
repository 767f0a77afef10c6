package region

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/decide"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/region/lease"
)

const (
	// noUnitRetry is about one round trip to a far centre: earlier the answer to our question cannot be here.
	noUnitRetry = 300 * time.Millisecond
	// keyRetry is two of the shortest pauses between heartbeats, which bring keys.
	keyRetry = 2 * shortestHeartbeat
	// overloadRetry is a few group commits.
	overloadRetry = 50 * time.Millisecond
)

// order is a wish to buy, with its offer token opened.
type order struct {
	tokenText        string
	token            *offerv1.OfferToken
	drop             string
	inTime           time.Time // the drop's later close, by the offer's proof; zero: it has none
	session          [16]byte
	paymentReference string
	voucher          string
	details          []byte
	recipients       [][]byte // the ids of the keys that details are sealed to
}

// accepted is a durable redemption. first tells whether this very call made it, with this call's token. region is where,
// when that was elsewhere.
type accepted struct {
	sale    *sale
	receipt string
	first   bool
	region  string
}

// redeem accepts an order, or finds that it was accepted: docs/settlement.md 3.1. Calls with one K that arrive together
// share one redemption.
func (n *Node) redeem(ctx context.Context, o order) (accepted, error) {
	id, body := token.PurchaseID(o.token.GetTokenId()), bodyOf(o.paymentReference, o.voucher, o.details)
	t := n.till
	t.mu.Lock()
	s, known, past := t.sales[id], false, t.inPast(id) != nil
	var commit *journal.Commit
	var err error
	if known = s != nil || past; !known {
		s, commit, err = n.accept(ctx, id, body, o)
	}
	t.mu.Unlock()
	if s == nil && past {
		s, err = n.find(ctx, id)
	}
	if isSoldOut(err) {
		return n.soldOutFor(ctx, wanted{o.token.GetTokenId(), o.drop, o.session, o.token.GetPrice(), body})
	}
	if err != nil {
		return accepted{}, n.noticed(err, o.drop)
	}
	if known {
		return n.repeat(ctx, s, body)
	}
	_, span := telemetry.Start(ctx, "journal.commit")
	if !mutant.On(mutant.AnswerBeforeSync) {
		<-commit.Done() // not given up when the caller goes away: somebody must learn its fate
	}
	first, err := commit.Result()
	span.FailOn(err)
	span.End()
	t.mu.Lock()
	receipt := s.receipt
	t.waiting--
	if err == nil {
		s.sequence = first
		t.keep(s)
	} else {
		s.err = n.unwritten(s, err)
	}
	t.mu.Unlock()
	close(s.done)
	if err != nil {
		return accepted{}, s.err
	}
	n.grown(1)
	n.metrics.redemptions.WithLabelValues("accepted").Inc()
	poke(n.pokeOutbox)
	return accepted{sale: s, receipt: receipt, first: true}, nil
}

// unwritten takes a sale back whose record did not become durable, and says what its viewer hears. Callers hold till.mu.
func (n *Node) unwritten(s *sale, err error) error {
	t := n.till
	delete(t.sales, s.purchaseID)
	t.count(s.drop, s.session, -1)
	if errors.Is(err, journal.ErrNoSpace) { // its record is nowhere, so the unit is for another viewer
		if !mutant.On(mutant.FullUnitLeaked) {
			t.book.Undo(s.unit)
		}
		n.ranOut(err)
		n.metrics.redemptions.WithLabelValues("no_space").Inc()
		return errJournalFull()
	}
	// The serial stays used: its record may be on the disk. The node stops, and the next start reads which it is.
	n.fail(fmt.Errorf("journaling a redemption: %w", err))
	return refuse(errorsv1.Reason_REASON_STORE_UNAVAILABLE, "the node cannot write its journal; nothing was promised")
}

// repeat answers what the first call with this K was or will be answered.
func (n *Node) repeat(ctx context.Context, s *sale, body [sha256.Size]byte) (accepted, error) {
	if s.body != body {
		return accepted{}, refuse(errorsv1.Reason_REASON_REQUEST_REPLAYED,
			"this offer was redeemed before with another payment reference, another voucher or other delivery details; the first stands")
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return accepted{}, ctx.Err()
	}
	n.till.mu.Lock()
	receipt, sequence, err := s.receipt, s.sequence, s.err
	n.till.mu.Unlock()
	if err != nil {
		return accepted{}, err
	}
	if receipt == "" {
		if receipt, err = n.readReceipt(ctx, sequence); err != nil {
			return accepted{}, err
		}
	}
	n.metrics.redemptions.WithLabelValues("repeated").Inc()
	return accepted{sale: s, receipt: receipt}, nil
}

// noticed lets the stock loop know why a viewer left with empty hands.
func (n *Node) noticed(err error, drop string) error {
	var r *refusal
	switch {
	case errors.As(err, &r) && r.reason == errorsv1.Reason_REASON_NO_UNIT_HERE:
		n.metrics.redemptions.WithLabelValues("no_unit").Inc()
		poke(n.pokeStock)
	case errors.Is(err, journal.ErrBroken):
		n.fail(err)
		return refuse(errorsv1.Reason_REASON_STORE_UNAVAILABLE, "the node cannot write its journal; nothing was promised")
	case errors.Is(err, journal.ErrNoSpace):
		n.ranOut(err)
		n.metrics.redemptions.WithLabelValues("no_space").Inc()
		return errJournalFull()
	case errors.Is(err, journal.ErrFull):
		n.metrics.redemptions.WithLabelValues("shed").Inc()
		return refuse(errorsv1.Reason_REASON_OVERLOADED, "more redemptions than the disk takes at once", "drop_id", drop).retry(overloadRetry)
	case errors.Is(err, journal.ErrClosed):
		return errDraining()
	}
	return err
}

// accept takes a unit, builds the receipt and puts it in the journal's queue. The caller holds till.mu, so that the
// order of the hash chain, of accept times and of the journal is one order.
func (n *Node) accept(ctx context.Context, id string, body [sha256.Size]byte, o order) (*sale, *journal.Commit, error) {
	t := n.till
	at := n.deps.Now().UTC().Truncate(time.Microsecond)
	if !at.After(t.lastAccept) {
		at = t.lastAccept.Add(time.Microsecond)
	}
	if err := n.mayAccept(o, at); err != nil {
		return nil, nil, err
	}
	if t.cancelled[o.drop][tokenID(o.token.GetTokenId())] { // a unit may have come back since: for others
		return nil, nil, soldOut(o.drop)
	}
	t.demand(o.drop).add(time.Now())
	unit, ok := t.book.Take(o.drop)
	if !ok {
		if t.soldOut(o.drop) {
			return nil, nil, soldOut(o.drop)
		}
		return nil, nil, refuse(errorsv1.Reason_REASON_NO_UNIT_HERE, "this node holds no unit of the drop now; another region may",
			"drop_id", o.drop).retry(noUnitRetry)
	}
	if n.low(o.drop) {
		poke(n.pokeStock)
	}
	text, commit, err := n.queue(ctx, id, o, unit, at)
	if err != nil {
		t.book.Undo(unit)
		return nil, nil, err
	}
	hash := sha256.Sum256([]byte(text))
	t.lastAccept, t.lastHash = at, hash[:]
	s := &sale{purchaseID: id, drop: o.drop, session: o.session, unit: unit, body: body, acceptTime: at, receipt: text, done: make(chan struct{})}
	t.sales[id] = s
	t.waiting++
	t.count(o.drop, o.session, 1)
	return s, commit, nil
}

// queue signs the receipt of a unit and puts it in the journal's queue. After an error nothing is queued.
func (n *Node) queue(ctx context.Context, id string, o order, unit lease.Unit, at time.Time) (text string, commit *journal.Commit, err error) {
	text, err = n.signer.Receipt(&offerv1.Receipt{
		OfferToken: o.tokenText, PurchaseId: id, Serial: unit.Serial, LeaseId: unit.Lease, Epoch: n.till.epoch,
		NodeId: n.deps.Identity.NodeID, Region: n.cfg.Region, AcceptTime: timestamppb.New(at),
		PaymentReference: o.paymentReference, DeliveryDetails: o.details, PreviousReceiptHash: n.till.lastHash,
		Voucher: o.voucher, TraceContext: telemetry.Durable(ctx),
	})
	if err != nil {
		return "", nil, fmt.Errorf("signing a receipt: %w", err)
	}
	record, err := proto.Marshal(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Redeemed{Redeemed: text}})
	if err != nil {
		return "", nil, fmt.Errorf("encoding a redemption: %w", err)
	}
	if commit, err = n.deps.Journal.Enqueue(record); err != nil {
		return "", nil, fmt.Errorf("queueing a redemption: %w", err)
	}
	return text, commit, nil
}

// mayAccept checks everything that a repeat is free of.
func (n *Node) mayAccept(o order, at time.Time) error {
	t := n.till
	if t.epoch == 0 || n.Mode() == regionv1.RegionMode_REGION_MODE_DRAINED {
		return errDraining()
	}
	if n.room.full.Load() {
		return errJournalFull()
	}
	d, ok := n.findDrop(o.drop)
	if !ok {
		return n.noDrop(o.drop)
	}
	expire := time.UnixMicro(o.token.GetExpireTimeUs())
	if at.After(expire.Add(dropclock.Grace)) && !mutant.On(mutant.AcceptLate) {
		return refuse(errorsv1.Reason_REASON_TOKEN_EXPIRED, "the offer's time is over; ask for a new one",
			"expire_time", expire.UTC().Format(time.RFC3339Nano))
	}
	terms := n.terms(d)
	if o.inTime.After(terms.Close) { // the offer knows more than this node
		terms.Close = o.inTime
	}
	if s := terms.State(at); !decide.Redeemable(s) {
		return dropNotOpen(o.drop, terms, s)
	}
	if d.physical() && !d.openedFrom(n.cfg.Region, o.recipients) && !mutant.On(mutant.AddressInClear) {
		return noDepot(o.drop)
	}
	if limit := terms.Limit(); t.boughtBy(o.drop, o.session) >= limit {
		return refuse(errorsv1.Reason_REASON_VIEWER_LIMIT, "this session has its share of the drop already",
			"drop_id", o.drop, "limit", strconv.Itoa(limit))
	}
	return nil
}

// readReceipt reads a redemption back.
func (n *Node) readReceipt(ctx context.Context, sequence int64) (string, error) {
	m, err := n.readRecord(ctx, sequence)
	return m.GetRedeemed(), err
}

// readRecord reads the journal at one place. A record that is not as it was written stops the node.
func (n *Node) readRecord(ctx context.Context, sequence int64) (*regionv1.JournalRecord, error) {
	records, err := n.deps.Journal.ReadAfter(ctx, sequence-1, 1)
	if err == nil && (len(records) != 1 || records[0].Sequence != sequence) {
		err = &journal.CorruptError{Sequence: sequence, Problem: "it is missing"}
	}
	var corrupt *journal.CorruptError
	if errors.As(err, &corrupt) {
		n.fail(err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the journal back: %w", err)
	}
	m := &regionv1.JournalRecord{}
	if err := proto.Unmarshal(records[0].Payload, m); err != nil {
		return nil, fmt.Errorf("reading record %d back: %w", sequence, err)
	}
	return m, nil
}

func soldOut(drop string) error {
	return refuse(errorsv1.Reason_REASON_SOLD_OUT, "every unit of the drop is sold", "drop_id", drop)
}

func dropNotOpen(drop string, t decide.Terms, s dropclock.State) error {
	return refuse(errorsv1.Reason_REASON_DROP_NOT_OPEN, "the drop is not open", "drop_id", drop, "state", s.String(),
		"open_time", t.Open.UTC().Format(time.RFC3339Nano), "close_time", t.Close.UTC().Format(time.RFC3339Nano))
}

func errDraining() error {
	return refuse(errorsv1.Reason_REASON_DRAINING, "this node takes nothing new; another region will")
}

// dropText is a token's drop in text form.
func dropText(t *offerv1.OfferToken) string { return ids.Text(t.GetDropId()) }

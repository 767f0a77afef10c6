package region

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/region/lease"
	"github.com/rimlight/rimlight/region/shorthand"
)

// till is what the node holds and sold. Its mutex is never held over a blocking call: redemptions are put in order and
// handed to the journal's queue under it, and waited for outside.
type till struct {
	mu         sync.Mutex
	book       lease.Book
	epoch      int64                       // journaled; 0 before the first join
	sales      map[string]*sale            // by purchase id, those that something may still happen to
	past       past                        // those that a snapshot stands for
	unsent     []*sale                     // durable and not acknowledged by the verifier, by sequence
	bought     map[string]*table           // live purchases by drop and viewer session
	cancelled  map[string]map[tokenID]bool // tokens that the verifier cancelled, by drop
	words      map[string]stockWord        // fulfillment's, by drop
	demands    map[string]*meter           // tries to take a unit, by drop
	lastAccept time.Time                   // of the newest receipt in the journal's queue
	lastHash   []byte                      // of its text
	acked      int64                       // the newest sequence that the verifier acknowledged to this process
	cursor     int64                       // the verifier's newest news of our purchases
	lastSale   int64                       // the newest durable redemption's sequence
	waiting    int                         // redemptions in the journal's queue whose callers have not heard

	// The seal of a node that retires: in the journal, where, and whether the verifier has read up to it.
	sealed       bool
	sealSequence int64
	sealRead     bool
}

// tokenID is a K.
type tokenID [16]byte

// stockWord is what fulfillment last said about a drop's stock.
type stockWord struct {
	heard   bool
	soldOut bool
}

// sale is one redemption, from the moment when its record is queued.
type sale struct {
	purchaseID string
	drop       string
	session    [16]byte
	unit       lease.Unit
	body       [sha256.Size]byte // of what may not change under one K
	acceptTime time.Time
	done       chan struct{} // closed when it is durable or failed

	// Guarded by till.mu.
	sequence int64             // 0 until durable
	receipt  string            // empty once the verifier has it: then the journal is read
	err      error             // why it failed
	purchase *offerv1.Purchase // nil until the verifier said something; never changed, only replaced
	news     int64             // the record that purchase is from; unwritten until it is durable
	settled  bool              // its drop is over: the verifier is asked
	changed  chan struct{}     // closed when purchase is replaced; nil when nobody watches
}

// unwritten is the sequence of news that are not in the journal yet.
const unwritten = -1

func newTill() *till {
	return &till{
		sales: map[string]*sale{}, past: newPast(), bought: map[string]*table{},
		cancelled: map[string]map[tokenID]bool{}, words: map[string]stockWord{}, demands: map[string]*meter{},
	}
}

// bodyOf is what a repeat under the same K must repeat.
func bodyOf(paymentReference, voucher string, details []byte) [sha256.Size]byte {
	h := sha256.New()
	for _, text := range []string{paymentReference, voucher} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	h.Write(details)
	return [sha256.Size]byte(h.Sum(nil))
}

// knows tells whether the K of a purchase was redeemed here.
func (t *till) knows(purchaseID string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sales[purchaseID] != nil || t.inPast(purchaseID) != nil
}

// inPast is the sale that a snapshot stands for; nil: there is none. Callers hold mu.
func (t *till) inPast(purchaseID string) *pastSale {
	id, ok := shorthand.ParsePurchaseID(purchaseID)
	if !ok {
		return nil
	}
	return t.past.find(id)
}

// viewer is what decide needs to know: how much a session bought, and whether everything is sold.
func (t *till) viewer(drop string, session [16]byte) (bought int, soldOut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.boughtBy(drop, session), t.soldOut(drop)
}

// boughtBy is how many live purchases a session has. Callers hold mu.
func (t *till) boughtBy(drop string, session [16]byte) int {
	if sessions := t.bought[drop]; sessions != nil {
		return int(sessions.get(session))
	}
	return 0
}

// soldOut is fulfillment's word, as long as nothing here contradicts it. Callers hold mu.
func (t *till) soldOut(drop string) bool { return t.words[drop].soldOut && t.book.Untouched(drop) == 0 }

// count keeps the purchases that a session has. Callers hold mu.
func (t *till) count(drop string, session [16]byte, by int) {
	sessions := t.bought[drop]
	if sessions == nil {
		fresh := newTable()
		sessions = &fresh
		t.bought[drop] = sessions
	}
	sessions.set(session, uint32(max(0, int(sessions.get(session))+by)))
}

// demand is how often per second somebody wants a unit of the drop. Callers hold mu.
func (t *till) demand(drop string) *meter {
	m := t.demands[drop]
	if m == nil {
		m = &meter{smoothing: demandSmoothing}
		t.demands[drop] = m
	}
	return m
}

// keep makes a durable sale known to the forwarder. Callers hold mu. Leaders of one group commit wake in any order.
func (t *till) keep(s *sale) {
	i, _ := slices.BinarySearchFunc(t.unsent, s.sequence, func(s *sale, seq int64) int { return cmp.Compare(s.sequence, seq) })
	t.unsent = slices.Insert(t.unsent, i, s)
	t.lastSale = max(t.lastSale, s.sequence)
}

// forwarded says that the verifier has everything up to a sequence.
func (t *till) forwarded(sequence int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := 0
	for ; i < len(t.unsent) && t.unsent[i].sequence <= sequence; i++ {
		t.unsent[i].receipt = ""
	}
	t.unsent = slices.Delete(t.unsent, 0, i)
	t.acked = max(t.acked, sequence)
	t.sealRead = t.sealSequence > 0 && sequence >= t.sealSequence
}

// empty tells whether no unit is here to be sold or on its way back.
func (t *till) empty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.book.Returning()) == 0 && !slices.ContainsFunc(t.book.Held(), func(h lease.Held) bool { return h.Untouched > 0 })
}

// lag is how many redemptions the verifier has not acknowledged.
func (t *till) lag() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.unsent) + t.past.loadedBeyond(t.acked)
}

// final tells whether a purchase will not change any more.
func final(s offerv1.PurchaseState) bool {
	switch s {
	case offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, offerv1.PurchaseState_PURCHASE_STATE_SHIPPED,
		offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, offerv1.PurchaseState_PURCHASE_STATE_REFUSED,
		offerv1.PurchaseState_PURCHASE_STATE_REFUNDED:
		return true
	}
	return false
}

// failed tells whether a purchase came to nothing, so that the viewer may try again.
func failed(s offerv1.PurchaseState) bool {
	return s == offerv1.PurchaseState_PURCHASE_STATE_VOUCHER || s == offerv1.PurchaseState_PURCHASE_STATE_REFUSED ||
		s == offerv1.PurchaseState_PURCHASE_STATE_REFUNDED
}

// learn takes the verifier's news of a purchase in and wakes who watches it. sequence is the news's own record, or
// unwritten: then news of a sale that is in the past alone waits for its record. It tells whether the purchase is one of
// ours, and whether the news was taken in or is too late to be.
func (t *till) learn(p *offerv1.Purchase, sequence int64) (ours, told bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sales[p.GetPurchaseId()]
	if s == nil {
		old := t.inPast(p.GetPurchaseId())
		if old != nil && sequence != unwritten {
			t.learnPast(old, sequence, p.GetState())
		}
		return old != nil, old != nil && sequence != unwritten
	}
	ended := s.purchase != nil && final(s.purchase.GetState())
	if s.settled || ended && s.purchase.GetState() != p.GetState() {
		return true, true
	}
	s.news = sequence
	s.purchase = p // of one that ended, too: the shop may have refunded something
	if failed(p.GetState()) && !ended {
		t.count(s.drop, s.session, -1)
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return true, true
}

// learnPast is learn for a sale that nobody watches. Callers hold mu.
func (t *till) learnPast(s *pastSale, sequence int64, state offerv1.PurchaseState) {
	drop, ended := t.past.drops[s.drop], s.outcome > 0 && final(s.state)
	if drop.settled || ended && s.state != state {
		return
	}
	s.outcome, s.state = sequence, state
	if failed(state) && !ended {
		t.count(drop.id, s.session, -1)
	}
}

// wrote tells which record the news of a purchase became.
func (t *till) wrote(p *offerv1.Purchase, sequence int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sales[p.GetPurchaseId()]; s != nil && s.purchase == p {
		s.news = sequence
	}
}

// state is a sale's purchase with a channel that is closed when it changes.
func (t *till) state(s *sale) (p *offerv1.Purchase, settled bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.purchase, s.settled, s.changed
}

// forget gives up what only a live drop needs. The sales stay: their tokens may come again for ever.
func (t *till) forget(drop string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.past.settle(drop)
	if _, known := t.words[drop]; !known && t.bought[drop] == nil && t.demands[drop] == nil {
		t.book.Forget(drop)
		return
	}
	t.book.Forget(drop)
	delete(t.bought, drop)
	delete(t.cancelled, drop)
	delete(t.words, drop)
	delete(t.demands, drop)
	for id, s := range t.sales {
		if s.drop == drop {
			s.settled, s.purchase = true, nil
			t.retire(id)
			if s.changed != nil {
				close(s.changed)
				s.changed = nil
			}
		}
	}
}

// retire lets a sale be one of the past when the snapshots have all that is known of it and nobody can be waiting: else it
// would be kept, 600 bytes long, for as long as the process lives. Callers hold mu.
func (t *till) retire(purchaseID string) {
	s, old := t.sales[purchaseID], t.inPast(purchaseID)
	if s == nil || old == nil || s.sequence > t.acked {
		return
	}
	if s.settled || final(s.purchase.GetState()) && s.news == old.outcome {
		delete(t.sales, purchaseID)
	}
}

// meter is a smoothed rate of events per second: each adds 1/smoothing, and all fade with time.
type meter struct {
	smoothing time.Duration
	rate      float64
	at        time.Time
}

// demandSmoothing is about how long a grant takes to come: shorter follows noise, longer misses a burst's beginning.
const demandSmoothing = time.Second

func (m *meter) add(now time.Time) {
	m.rate = m.value(now) + 1/m.smoothing.Seconds()
	m.at = now
}

func (m *meter) value(now time.Time) float64 {
	return m.rate * math.Exp(-now.Sub(m.at).Seconds()/m.smoothing.Seconds())
}

package verifier_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
	"github.com/rimlight/rimlight/verifier/store"
)

// world is one verifier between a fulfillment in memory and the test provider. Its databases outlive the service.
type world struct {
	t         testing.TB
	db        *sqldb.DB
	psp       *testpsp.Provider
	f         *fulfillment
	cfg       verifier.Config
	transport http.RoundTripper // of webhooks
	log       *slog.Logger
	payment   payment.Provider // what the service is given; psp unless a test puts itself between
	drop      string
	nodes     []*node
	serial    uint32
	random    io.Reader

	impl   registrar
	cancel context.CancelFunc
	done   chan error
}

type node struct {
	id     string
	lease  string
	signer *token.Signer
}

// registrar keeps what a service registers, so that tests call it as the interceptors would.
type registrar map[string]any

func (r registrar) RegisterService(d *grpc.ServiceDesc, impl any) { r[d.ServiceName] = impl }

// onBoth runs a test in virtual time on both engines. Time stands still while a bubble's goroutine waits for a socket, so
// PostgreSQL works as fast as it can and no timer overtakes it.
func onBoth(t *testing.T, test func(*testing.T, *world)) {
	t.Parallel()
	for name, open := range map[string]func(testing.TB) *sqldb.DB{"memory": openMemory, "postgres": openPostgres} {
		t.Run(name, func(t *testing.T) {
			if name == "postgres" && testing.Short() {
				t.Skip("the race detector sees the same code on SQLite, in a fraction of the time")
			}
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, newWorldOn(t, open(t))) })
		})
	}
}

// inMemory runs a test in virtual time on SQLite alone: one whose rows differ in what the provider does, not in what the
// store is asked, or where days pass, in which replicas poll, unlike a service that is alone on its store.
func inMemory(t *testing.T, test func(*testing.T, *world)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

var openPostgres = sqldbtest.Template(verifier.Migrate)

func openMemory(t testing.TB) *sqldb.DB { return migrated(t, sqldbtest.Memory(t)) }

func migrated(t testing.TB, db *sqldb.DB) *sqldb.DB {
	t.Helper()
	check(t, verifier.Migrate(t.Context(), db))
	return db
}

func newWorld(t testing.TB) *world { return newWorldOn(t, openMemory(t)) }

// newWorldOn takes a migrated store.
func newWorldOn(t testing.TB, db *sqldb.DB) *world {
	t.Helper()
	ctx := t.Context()
	pspDB, err := sqldb.OpenMemory(ctx)
	check(t, err)
	check(t, testpsp.Migrate(ctx, pspDB))
	w := &world{t: t, db: db, f: newFulfillment(), random: &seeded{r: rand.New(rand.NewPCG(1, 2))}}
	w.psp, err = testpsp.New(pspDB, testpsp.Config{Now: time.Now, Random: w.random})
	check(t, err)
	w.payment = w.psp
	w.drop = w.newDrop(100)
	for range 3 {
		w.newNode()
	}
	t.Cleanup(func() {
		w.stop()
		check(t, pspDB.Close())
	})
	return w
}

func (w *world) newDrop(maxPerViewer uint32) string {
	id := ids.NewV7(time.Now(), w.random)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.drops[id] = &dropRow{id: id, maxPerViewer: maxPerViewer, channel: "demo", title: "a thing", state: offerv1.DropState_DROP_STATE_OPEN, units: map[uint32]*unit{}}
	return id
}

func (w *world) newNode() *node {
	seed, err := token.NewSeed(w.random)
	check(w.t, err)
	n := &node{id: ids.NewV7(time.Now(), w.random), lease: ids.NewV7(time.Now(), w.random)}
	n.signer, err = token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_NODE, n.id, "test")
	check(w.t, err)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.keys = append(w.f.keys, n.signer.Public())
	w.nodes = append(w.nodes, n)
	return n
}

// start makes a service, lets prepare have it, and runs it.
func (w *world) start(prepare ...func(*verifier.Service)) {
	w.t.Helper()
	svc := w.make()
	for _, p := range prepare {
		p(svc)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.done = cancel, make(chan error, 1)
	go func() { w.done <- svc.Run(ctx) }()
}

func (w *world) deps() verifier.Deps {
	return verifier.Deps{
		DB: w.db, Stock: w.f, Orders: w.f, Catalog: w.f, Payment: w.payment, Now: time.Now, Random: w.random,
		Log: cmp.Or(w.log, slog.New(slog.DiscardHandler)), WebhookTransport: w.transport,
	}
}

// replica runs another verifier on the same store, until the func that it returns is called.
func (w *world) replica() (stop func()) {
	w.t.Helper()
	svc, err := verifier.New(w.cfg, w.deps())
	check(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	return func() {
		cancel()
		check(w.t, <-done)
	}
}

// events are all that a webhook with every state is to be told.
func (w *world) events() (list []string) {
	w.t.Helper()
	all, err := store.New(w.db).Read().Events(w.t.Context(), 0, 1<<40, 1<<20)
	check(w.t, err)
	for _, e := range all {
		list = append(list, fmt.Sprint(e.Cursor, " purchase.", e.State))
	}
	return list
}

// make makes a service that answers calls, without its loops.
func (w *world) make() *verifier.Service {
	w.t.Helper()
	svc, err := verifier.New(w.cfg, w.deps())
	check(w.t, err)
	w.impl = registrar{}
	svc.Register(w.impl)
	return svc
}

func (w *world) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	check(w.t, <-w.done)
	w.cancel = nil
}

func (w *world) verifier() verifierv1.VerifierServiceServer {
	return w.impl["rimlight.verifier.v1.VerifierService"].(verifierv1.VerifierServiceServer)
}

func (w *world) audit() *verifierv1.GetAuditResponse {
	w.t.Helper()
	a, err := w.impl["rimlight.verifier.v1.SupportService"].(verifierv1.SupportServiceServer).GetAudit(w.t.Context(), &verifierv1.GetAuditRequest{})
	check(w.t, err)
	return a
}

func (w *world) complete(intent string, decline bool) error {
	_, err := w.impl["rimlight.verifier.v1.TestPaymentService"].(verifierv1.TestPaymentServiceServer).CompleteAction(w.t.Context(),
		&verifierv1.CompleteActionRequest{PaymentIntentId: intent, Decline: decline})
	return err
}

// sale is what one redemption is made of; zero values are replaced by something that works.
type sale struct {
	k         []byte
	session   []byte
	drop      string
	reference string
	price     int64 // 0: 499
	free      bool
	late      time.Duration // acceptance after the token's end
	timeBack  string        // the word for an offer that was made after the planned close
	unleased  bool          // fulfillment does not know the unit as leased
	serial    uint32
	voucher   string
	edit      func(*offerv1.Receipt)
}

// redeem lets a node accept, and returns the receipt and the offer token.
func (w *world) redeem(n *node, s sale) (receipt, offer string) {
	w.t.Helper()
	if s.session == nil {
		s.session = w.bytes()
	}
	if s.k == nil {
		s.k = w.bytes()
	}
	if s.drop == "" {
		s.drop = w.drop
	}
	if s.price == 0 && !s.free {
		s.price = 499
	}
	if s.serial == 0 {
		w.serial++
		s.serial = w.serial
	}
	if !s.unleased {
		w.f.lease(s.drop, n.lease, s.serial)
	}
	dropID, err := ids.Bytes(s.drop)
	check(w.t, err)
	issued := time.Now()
	offer, err = n.signer.OfferToken(&offerv1.OfferToken{
		TokenId: s.k, DropId: dropID, OfferVersion: 1, ViewerSessionId: s.session, Arm: "control",
		Price:       &offerv1.Money{CurrencyCode: "EUR", MinorUnits: s.price},
		IssueTimeUs: issued.UnixMicro(), ExpireTimeUs: issued.Add(time.Minute).UnixMicro(),
		TimeBack: s.timeBack,
	})
	check(w.t, err)
	accept := issued
	if s.late != 0 {
		accept = issued.Add(time.Minute + s.late)
	}
	m := &offerv1.Receipt{
		OfferToken: offer, PurchaseId: token.PurchaseID(s.k), Serial: s.serial, LeaseId: n.lease, Epoch: 1, NodeId: n.id,
		Region: "test", AcceptTime: timestamppb.New(accept), PaymentReference: s.reference, Voucher: s.voucher,
		DeliveryDetails: []byte("canary Main Street 1"), // for fulfillment alone: no answer, event or log may have them
	}
	if s.edit != nil {
		s.edit(m)
	}
	receipt, err = n.signer.Receipt(m)
	check(w.t, err)
	return receipt, offer
}

func (w *world) bytes() []byte {
	b := make([]byte, 16)
	_, err := io.ReadFull(w.random, b)
	check(w.t, err)
	return b
}

func (w *world) present(receipt string) *offerv1.Purchase {
	w.t.Helper()
	r, err := w.verifier().PresentReceipt(w.t.Context(), &verifierv1.PresentReceiptRequest{Receipt: receipt})
	check(w.t, err)
	return r.GetPurchase()
}

func (w *world) get(receipt string) *offerv1.Purchase {
	w.t.Helper()
	r, err := w.verifier().GetPurchase(w.t.Context(), &verifierv1.GetPurchaseRequest{
		Credential: &verifierv1.GetPurchaseRequest_Receipt{Receipt: receipt},
	})
	check(w.t, err)
	return r.GetPurchase()
}

// charges are the captures in the provider's own books.
func (w *world) charges(purchaseID string) int {
	w.t.Helper()
	n, err := w.psp.Charges(w.t.Context(), purchaseID)
	check(w.t, err)
	return n
}

// checkBooks compares the ledger, the provider and itself.
func (w *world) checkBooks() {
	w.t.Helper()
	a := w.audit()
	if a.GetUnbalancedTransactions() != 0 || a.GetDoubleCaptures() != 0 {
		w.t.Errorf("the audit says %d unbalanced transactions, %d double captures", a.GetUnbalancedTransactions(), a.GetDoubleCaptures())
	}
	for _, p := range a.GetProvider() {
		if p.GetLedgerFeesMinorUnits() != p.GetProviderFeesMinorUnits() {
			w.t.Errorf("the ledger has %d %s of fees, the provider %d", p.GetLedgerFeesMinorUnits(), p.GetCurrencyCode(), p.GetProviderFeesMinorUnits())
		}
		if p.GetLedgerMinorUnits() != p.GetProviderMinorUnits() {
			w.t.Errorf("the ledger has %d %s, the provider %d", p.GetLedgerMinorUnits(), p.GetCurrencyCode(), p.GetProviderMinorUnits())
		}
	}
	for _, v := range a.GetVouchers() {
		if v.GetOpenMinorUnits() != v.GetLiabilityMinorUnits() {
			w.t.Errorf("%d %s of stored value are open, the ledger owes %d", v.GetOpenMinorUnits(), v.GetCurrencyCode(), v.GetLiabilityMinorUnits())
		}
	}
	for _, c := range a.GetChannels() {
		if left := c.GetCapturedMinorUnits() - c.GetRefundedMinorUnits() - c.GetVoucherIssuedMinorUnits() + c.GetVoucherSpentMinorUnits(); left != c.GetRevenueMinorUnits() {
			w.t.Errorf("channel %q earned %d, the ledger says %d: %v", c.GetChannelId(), left, c.GetRevenueMinorUnits(), c)
		}
	}
	for _, n := range a.GetNodes() {
		if sum := n.GetHolding() + n.GetOpen() + n.GetDenied() + n.GetReleased() + n.GetRedundant(); sum != n.GetReceived() {
			w.t.Errorf("node %s: %v", n.GetNodeId(), n)
		}
	}
	for _, d := range a.GetDrops() {
		if d.GetCapturedMinorUnits() != d.GetChargedMinorUnits()-d.GetRefundedMinorUnits() {
			w.t.Errorf("drop %s: the ledger has %d, purchases say %d less %d", d.GetDropId(), d.GetCapturedMinorUnits(), d.GetChargedMinorUnits(), d.GetRefundedMinorUnits())
		}
		if d.GetPostedFeesMinorUnits() != d.GetFeesMinorUnits() {
			w.t.Errorf("drop %s: the ledger has fees of %d, purchases of %d", d.GetDropId(), d.GetPostedFeesMinorUnits(), d.GetFeesMinorUnits())
		}
		if _, _, sold := w.f.count(d.GetDropId()); int(d.GetUnitsHeld()) != sold {
			w.t.Errorf("the verifier holds %d units, fulfillment sold %d", d.GetUnitsHeld(), sold)
		}
	}
}

// seeded is randomness that repeats, for several users.
type seeded struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (s *seeded) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var word [8]byte
	for i := range p {
		if i%8 == 0 {
			binary.LittleEndian.PutUint64(word[:], s.r.Uint64())
		}
		p[i] = word[i%8]
	}
	return len(p), nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want compares the two things that most tests are about.
func want(t testing.TB, p *offerv1.Purchase, state offerv1.PurchaseState, reason string) {
	t.Helper()
	if got := fmt.Sprint(p.GetState(), " ", p.GetReason()); got != fmt.Sprint(state, " ", reason) {
		t.Errorf("the purchase is %s, want %v %s", got, state, reason)
	}
}

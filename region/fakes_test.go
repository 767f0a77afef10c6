package region_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
)

var errDown = status.Error(codes.Unavailable, "cut off")

// fakeStock is fulfillment's escrow in memory, for one node.
type fakeStock struct {
	fulfillmentv1.StockServiceClient
	random io.Reader
	most   int // units of one lease

	mu       sync.Mutex
	down     bool
	loseNext bool // the next grant happens, and its answer is lost
	free     map[string][]uint32
	leases   map[string]*fulfillmentv1.Lease
	granted  map[string]*fulfillmentv1.GrantLeaseResponse
	recalls  []*fulfillmentv1.Recall
	keys     []*offerv1.SigningKey
	returned map[uint32]int // how often each serial came back
	onReturn func(*fulfillmentv1.ReturnUnitsRequest)
	joinErr  error
	beatErr  error
	epoch    int64 // that Join answers
	joins    []*fulfillmentv1.JoinNodeRequest
	// epochAhead is how far the epoch of heartbeats' answers is from the one asked for.
	epochAhead int64
	offers     map[string]int64 // the largest count that came, by drop
	fenced     []string         // leases that an operator put aside
	retired    []int64          // epochs
}

func newFakeStock(random io.Reader, most int) *fakeStock {
	return &fakeStock{
		random: random, most: most, epoch: 1, free: map[string][]uint32{}, leases: map[string]*fulfillmentv1.Lease{},
		granted: map[string]*fulfillmentv1.GrantLeaseResponse{}, returned: map[uint32]int{}, offers: map[string]int64{},
	}
}

func (f *fakeStock) stockUp(drop string, units uint32) {
	for s := range units {
		f.free[drop] = append(f.free[drop], s+1)
	}
}

func (f *fakeStock) set(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeStock) JoinNode(_ context.Context, r *fulfillmentv1.JoinNodeRequest, _ ...grpc.CallOption) (*fulfillmentv1.JoinNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	if f.joinErr != nil {
		return nil, f.joinErr
	}
	f.joins = append(f.joins, r)
	if !slices.ContainsFunc(f.keys, func(k *offerv1.SigningKey) bool { return proto.Equal(k, r.GetSigningKey()) }) {
		f.keys = append(f.keys, r.GetSigningKey())
	}
	return &fulfillmentv1.JoinNodeResponse{Epoch: f.epoch, Keys: f.keys}, nil
}

func (f *fakeStock) GrantLease(_ context.Context, r *fulfillmentv1.GrantLeaseRequest, _ ...grpc.CallOption) (*fulfillmentv1.GrantLeaseResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	if answer := f.granted[r.GetRequestId()]; answer != nil {
		return answer, nil
	}
	answer := &fulfillmentv1.GrantLeaseResponse{}
	free := f.free[r.GetDropId()]
	if n := min(len(free), f.most, int(r.GetWantedUnits())); n > 0 {
		answer.Lease = &fulfillmentv1.Lease{
			LeaseId: ids.NewV7(time.Now(), f.random), DropId: r.GetDropId(), NodeId: r.GetNodeId(), Epoch: r.GetEpoch(), Serials: slices.Clone(free[:n]),
		}
		f.free[r.GetDropId()] = free[n:]
		f.leases[answer.Lease.LeaseId] = answer.Lease
	} else {
		answer.SoldOut = true // the one node has all the rest, and sells it
	}
	f.granted[r.GetRequestId()] = answer
	if f.loseNext {
		f.loseNext = false
		delete(f.granted, r.GetRequestId()) // and the repeat cannot find it: only the heartbeat heals this
		return nil, errDown
	}
	return answer, nil
}

func (f *fakeStock) ReturnUnits(_ context.Context, r *fulfillmentv1.ReturnUnitsRequest, _ ...grpc.CallOption) (*fulfillmentv1.ReturnUnitsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onReturn != nil {
		f.onReturn(r)
	}
	if f.down {
		return nil, errDown
	}
	for _, s := range r.GetSerials() {
		f.returned[s]++
	}
	return &fulfillmentv1.ReturnUnitsResponse{Freed: uint32(len(r.GetSerials()))}, nil
}

func (f *fakeStock) Heartbeat(_ context.Context, r *fulfillmentv1.HeartbeatRequest, _ ...grpc.CallOption) (*fulfillmentv1.HeartbeatResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	if f.beatErr != nil {
		return nil, f.beatErr
	}
	answer := &fulfillmentv1.HeartbeatResponse{Epoch: r.GetEpoch() + f.epochAhead, NextIn: durationpb.New(time.Second), Recalls: f.recalls}
	f.recalls = nil
	for _, o := range r.GetOffers() {
		f.offers[o.GetDropId()] = max(f.offers[o.GetDropId()], o.GetOffers())
	}
	answer.FencedLeaseIds = f.fenced
	held := map[string]bool{}
	for _, h := range r.GetHeld() {
		held[h.GetLeaseId()] = true
	}
	for id, l := range f.leases {
		if !held[id] && l.GetEpoch() == r.GetEpoch() {
			answer.Missing = append(answer.Missing, l)
		}
	}
	for _, d := range r.GetHungryDropIds() {
		if len(f.free[d]) > 0 {
			answer.AvailableDropIds = append(answer.AvailableDropIds, d)
		}
	}
	if len(f.keys) > int(r.GetKnownKeys()) {
		answer.Keys = f.keys
	}
	return answer, nil
}

// fakeCatalog sends what it is given.
type fakeCatalog struct {
	fulfillmentv1.CatalogServiceClient
	messages chan *fulfillmentv1.WatchCatalogResponse
}

type catalogStream struct {
	grpc.ClientStream
	ctx      context.Context
	messages chan *fulfillmentv1.WatchCatalogResponse
}

func (f *fakeCatalog) WatchCatalog(ctx context.Context, _ *fulfillmentv1.WatchCatalogRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[fulfillmentv1.WatchCatalogResponse], error) {
	return &catalogStream{ctx: ctx, messages: f.messages}, nil
}

func (s *catalogStream) Recv() (*fulfillmentv1.WatchCatalogResponse, error) {
	select {
	case m := <-s.messages:
		return m, nil
	case <-time.After(15 * time.Second):
		return &fulfillmentv1.WatchCatalogResponse{}, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// fakeVerifier takes redemptions in and tells a final outcome for each at once.
type fakeVerifier struct {
	verifierv1.VerifierServiceClient
	signer *token.Signer
	final  offerv1.PurchaseState

	mu       sync.Mutex
	down     chan struct{}  // closed when the centre is cut off; nil when it is there
	acked    int64          // as a real one remembers
	receipts map[string]int // how often each came
	cursor   int64
	told     []*offerv1.Purchase // by cursor
	muted    bool                // answers get lost
	held     bool                // news wait for tellNext; what a stream missed comes when it begins
	untold   []*verifierv1.SubmitRedemptionsResponse
	stream   *submitStream // the newest
	journals []string
	hangUp   chan error // what streams of WatchPurchase end with, one each

	cancels    int
	cancelAway bool              // CancelRedemption is not answered
	elsewhere  map[string]string // receipts of other nodes, by token id
	seals      []*verifierv1.Seal
}

// journalNames are what journals were called, each once, in the order of their greeting.
func (f *fakeVerifier) journalNames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.journals)
}

func (f *fakeVerifier) mute(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.muted = on
}

// holdNews lets news wait for tellNext.
func (f *fakeVerifier) holdNews() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = true
}

// tellNext tells the oldest news that wait.
func (f *fakeVerifier) tellNext() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream.answers <- f.untold[0]
	f.untold = f.untold[1:]
}

func newFakeVerifier(random io.Reader) *fakeVerifier {
	seed, err := token.NewSeed(random)
	if err != nil {
		panic(err)
	}
	signer, err := token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_VERIFIER, "", "")
	if err != nil {
		panic(err)
	}
	return &fakeVerifier{signer: signer, final: offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, receipts: map[string]int{}, down: make(chan struct{}), hangUp: make(chan error)}
}

// cut and heal take the verifier away and back.
func (f *fakeVerifier) cut() { close(f.isDown()) }

func (f *fakeVerifier) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = make(chan struct{})
}

func (f *fakeVerifier) isDown() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *fakeVerifier) gone() bool {
	select {
	case <-f.isDown():
		return true
	default:
		return false
	}
}

func (f *fakeVerifier) count() (receipts int, repeated int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.receipts {
		if n > 1 {
			repeated++
		}
	}
	return len(f.receipts), repeated
}

func (f *fakeVerifier) ListKeys(context.Context, *verifierv1.ListKeysRequest, ...grpc.CallOption) (*verifierv1.ListKeysResponse, error) {
	return &verifierv1.ListKeysResponse{Keys: []*offerv1.SigningKey{f.signer.Public()}}, nil
}

func (f *fakeVerifier) GetPurchase(context.Context, *verifierv1.GetPurchaseRequest, ...grpc.CallOption) (*verifierv1.GetPurchaseResponse, error) {
	if f.gone() {
		return nil, errDown
	}
	return nil, rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_PURCHASE_NOT_FOUND, "no purchase belongs to this token")
}

func (f *fakeVerifier) ChooseMakeGood(_ context.Context, r *verifierv1.ChooseMakeGoodRequest, _ ...grpc.CallOption) (*verifierv1.ChooseMakeGoodResponse, error) {
	if f.gone() {
		return nil, errDown
	}
	if r.GetReceipt() == "" {
		return nil, rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_NO_CHOICE_PENDING, "nothing to choose")
	}
	receipt, _ := decodeReceipt(r.GetReceipt())
	return &verifierv1.ChooseMakeGoodResponse{Purchase: &offerv1.Purchase{
		PurchaseId: receipt.GetPurchaseId(), State: offerv1.PurchaseState_PURCHASE_STATE_REFUNDING,
	}}, nil
}

func (f *fakeVerifier) SubmitRedemptions(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[verifierv1.SubmitRedemptionsRequest, verifierv1.SubmitRedemptionsResponse], error) {
	if f.gone() {
		return nil, errDown
	}
	s := &submitStream{ctx: ctx, f: f, down: f.isDown(), answers: make(chan *verifierv1.SubmitRedemptionsResponse, 1000)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream = s
	return s, nil
}

type submitStream struct {
	grpc.ClientStream
	ctx     context.Context
	f       *fakeVerifier
	down    chan struct{}
	answers chan *verifierv1.SubmitRedemptionsResponse
}

func (s *submitStream) Send(m *verifierv1.SubmitRedemptionsRequest) error {
	if s.f.gone() {
		return errDown
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	var purchases []*offerv1.Purchase
	if h := m.GetHello(); h != nil && !slices.Contains(s.f.journals, h.GetJournalId()) {
		s.f.journals = append(s.f.journals, h.GetJournalId())
	}
	for _, e := range m.GetBatch().GetEntries() {
		s.f.receipts[e.GetReceipt()]++
		if e.GetSequence() <= s.f.acked {
			return errors.New("entries do not ascend")
		}
		s.f.acked = e.GetSequence()
		s.f.cursor++
		r, _ := decodeReceipt(e.GetReceipt())
		purchases = append(purchases, &offerv1.Purchase{PurchaseId: r.GetPurchaseId(), State: s.f.final})
	}
	s.f.told = append(s.f.told, purchases...)
	if h := m.GetHello(); h != nil && h.GetOutcomeCursor() < s.f.cursor {
		purchases = s.f.told[h.GetOutcomeCursor():]
	}
	if seal := m.GetSeal(); seal != nil {
		s.f.seals = append(s.f.seals, seal)
		s.f.acked = seal.GetSequence()
	}
	if s.f.muted {
		return nil
	}
	s.answers <- &verifierv1.SubmitRedemptionsResponse{Message: &verifierv1.SubmitRedemptionsResponse_Acknowledgement{
		Acknowledgement: &verifierv1.Acknowledgement{Sequence: s.f.acked}}}
	if len(purchases) > 0 {
		news := &verifierv1.SubmitRedemptionsResponse{Message: &verifierv1.SubmitRedemptionsResponse_Outcomes{
			Outcomes: &verifierv1.OutcomeBatch{Purchases: purchases, Cursor: s.f.cursor}}}
		if s.f.held && m.GetHello() == nil {
			s.f.untold = append(s.f.untold, news)
		} else {
			s.answers <- news
		}
	}
	return nil
}

func (s *submitStream) Recv() (*verifierv1.SubmitRedemptionsResponse, error) {
	select {
	case m := <-s.answers:
		return m, nil
	case <-s.down:
		return nil, errDown
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

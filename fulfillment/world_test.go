package fulfillment_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onBoth runs a test in virtual time on both engines: SQLite, as a file and in memory, and PostgreSQL. Time stands still
// while a bubble's goroutine waits for a socket, so the server works as fast as it can and no timer overtakes it.
func onBoth(t *testing.T, test func(*testing.T, *sqldb.DB)) {
	t.Parallel()
	run(t, "postgres", openPostgres, test)
	onSQLite(t, test)
}

// onSQLite is onBoth for stories of days: replicas poll, unlike a service that is alone on its store.
func onSQLite(t *testing.T, test func(*testing.T, *sqldb.DB)) {
	run(t, "file", openFile, test)
	run(t, "memory", openMemory, test)
}

func run(t *testing.T, engine string, open func(testing.TB) *sqldb.DB, test func(*testing.T, *sqldb.DB)) {
	t.Run(engine, func(t *testing.T) {
		if engine == "postgres" && testing.Short() {
			t.Skip("the race detector sees the same code on SQLite, in a fraction of the time")
		}
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { test(t, open(t)) })
	})
}

var openPostgres = sqldbtest.Template(fulfillment.Migrate)

func openFile(t testing.TB) *sqldb.DB {
	db, err := sqldb.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "fulfillment.db"))
	return ready(t, db, err)
}

func openMemory(t testing.TB) *sqldb.DB {
	db, err := sqldb.OpenMemory(t.Context())
	return ready(t, db, err)
}

func ready(t testing.TB, db *sqldb.DB, err error) *sqldb.DB {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := fulfillment.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db
}

// life is one life of the service's process behind real clients.
type life struct {
	t       testing.TB
	catalog fulfillmentv1.CatalogServiceClient
	stock   fulfillmentv1.StockServiceClient
	orders  fulfillmentv1.OrderServiceClient
	conn    *grpc.ClientConn
	crash   func() // ends Run's context, wherever Run is
	end     func() // the same, and waits for Run; the listener stays up. May be called twice.
}

func start(t testing.TB, db *sqldb.DB, cfg fulfillment.Config, random io.Reader) *life {
	t.Helper()
	return startLogging(t, db, cfg, random, nil)
}

func startLogging(t testing.TB, db *sqldb.DB, cfg fulfillment.Config, random io.Reader, log *slog.Logger) *life {
	t.Helper()
	svc, err := fulfillment.New(cfg, fulfillment.Deps{DB: db, Random: random, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return h(withRole(ctx), req)
		}))
	svc.Register(server)
	listener := bufconn.Listen(1 << 16)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	wg.Go(func() { done <- svc.Run(ctx) })
	conn, err := grpc.NewClient("passthrough:fulfillment", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		end()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		wg.Wait()
	})
	return &life{t, fulfillmentv1.NewCatalogServiceClient(conn), fulfillmentv1.NewStockServiceClient(conn), fulfillmentv1.NewOrderServiceClient(conn), conn, cancel, end}
}

// withRole stands for the interceptor that looks up bearer tokens.
func withRole(ctx context.Context) context.Context {
	if roles := metadata.ValueFromIncomingContext(ctx, "role"); len(roles) > 0 {
		return auth.NewContext(ctx, auth.Role(roles[0]))
	}
	return ctx
}

func as(ctx context.Context, role auth.Role) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "role", string(role))
}

func newID() string { return ids.NewV7(time.Now(), rand.Reader) }

func (l *life) createDrop(units uint32) *fulfillmentv1.CatalogDrop {
	l.t.Helper()
	res, err := l.catalog.CreateDrop(l.t.Context(), dropRequest(units))
	if err != nil {
		l.t.Fatal(err)
	}
	return res.GetDrop()
}

func dropRequest(units uint32) *fulfillmentv1.CreateDropRequest {
	return &fulfillmentv1.CreateDropRequest{
		RequestId: newID(), ChannelId: "demo", Title: "Poster", Units: units, Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1500},
	}
}

// node is a node that journals nothing and sells what it is told to.
type node struct {
	*life
	id     string
	leases map[string]*fulfillmentv1.Lease
	spare  map[string][]uint32 // by lease
}

func (l *life) join() *node {
	l.t.Helper()
	n := &node{life: l, id: newID(), leases: map[string]*fulfillmentv1.Lease{}, spare: map[string][]uint32{}}
	res, err := l.stock.JoinNode(l.t.Context(), n.joinRequest())
	if err != nil || res.GetEpoch() != 1 {
		l.t.Fatalf("got %v, %v", res, err)
	}
	return n
}

func (n *node) joinRequest() *fulfillmentv1.JoinNodeRequest {
	public := sha256.Sum256([]byte(n.id))
	keyID := sha256.Sum256(public[:])
	return &fulfillmentv1.JoinNodeRequest{NodeId: n.id, DiskId: "disk-" + n.id, Region: "europe-west3", SigningKey: &offerv1.SigningKey{
		KeyId: keyID[:8], PublicKey: public[:], Owner: offerv1.KeyOwner_KEY_OWNER_NODE, NodeId: n.id, Region: "europe-west3",
	}}
}

func (n *node) adopt(l *fulfillmentv1.Lease) {
	n.leases[l.GetLeaseId()], n.spare[l.GetLeaseId()] = l, l.GetSerials()
}

func (n *node) grant(drop string, wanted uint32) *fulfillmentv1.GrantLeaseResponse {
	n.t.Helper()
	res, err := n.stock.GrantLease(n.t.Context(), &fulfillmentv1.GrantLeaseRequest{RequestId: newID(), NodeId: n.id, Epoch: 1, DropId: drop, WantedUnits: wanted})
	if err != nil {
		n.t.Fatal(err)
	}
	if res.GetLease() != nil {
		n.adopt(res.GetLease())
	}
	return res
}

// take makes K's claim of a unit of the node's.
func (n *node) take(drop string) *fulfillmentv1.UnitClaim {
	n.t.Helper()
	for id, spare := range n.spare {
		if n.leases[id].GetDropId() == drop && len(spare) > 0 {
			n.spare[id] = spare[1:]
			k := make([]byte, 16)
			rand.Read(k)
			return &fulfillmentv1.UnitClaim{TokenId: k, DropId: drop, Serial: spare[0], LeaseId: id}
		}
	}
	n.t.Fatal("the node has no unit")
	return nil
}

func (n *node) untouched(drop string) (total int) {
	for id, spare := range n.spare {
		if n.leases[id].GetDropId() == drop {
			total += len(spare)
		}
	}
	return total
}

// beat sends a heartbeat, gives back what is recalled and adopts what was missing.
func (n *node) beat(hungry ...string) *fulfillmentv1.HeartbeatResponse {
	n.t.Helper()
	req := &fulfillmentv1.HeartbeatRequest{NodeId: n.id, Epoch: 1, HungryDropIds: hungry, KnownKeys: 1000}
	for id, l := range n.leases {
		req.Held = append(req.Held, &fulfillmentv1.HeldLease{LeaseId: id, DropId: l.GetDropId(), Untouched: uint32(len(n.spare[id]))})
	}
	res, err := n.stock.Heartbeat(n.t.Context(), req)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, l := range res.GetMissing() {
		n.adopt(l)
	}
	for _, r := range res.GetRecalls() {
		n.giveBack(r.GetDropId(), int(r.GetUnits()))
	}
	return res
}

func (n *node) giveBack(drop string, units int) {
	n.t.Helper()
	for id, spare := range n.spare {
		take := min(units, len(spare))
		if n.leases[id].GetDropId() != drop || take == 0 {
			continue
		}
		units -= take
		n.spare[id] = spare[take:]
		res, err := n.stock.ReturnUnits(n.t.Context(), &fulfillmentv1.ReturnUnitsRequest{NodeId: n.id, Epoch: 1, LeaseId: id, Serials: spare[:take]})
		if err != nil || res.GetFreed() != uint32(take) {
			n.t.Fatalf("got %v, %v, want %d freed", res, err, take)
		}
	}
}

func (l *life) settle(claims ...*fulfillmentv1.UnitClaim) {
	l.t.Helper()
	res, err := l.stock.SettleUnits(l.t.Context(), &fulfillmentv1.SettleUnitsRequest{Claims: claims})
	if err != nil {
		l.t.Fatal(err)
	}
	for i, r := range res.GetResults() {
		if !r.GetSettled() {
			l.t.Fatalf("claim %d: %v", i, r.GetReason())
		}
	}
}

func (l *life) place(claims ...*fulfillmentv1.UnitClaim) (ids []string) {
	l.t.Helper()
	req := &fulfillmentv1.PlaceOrdersRequest{}
	for _, c := range claims {
		o := &fulfillmentv1.Order{OrderId: newID(), PurchaseId: token.PurchaseID(c.GetTokenId()), DropId: c.GetDropId(), Serial: c.GetSerial()}
		req.Orders = append(req.Orders, o)
		ids = append(ids, o.OrderId)
	}
	if _, err := l.orders.PlaceOrders(l.t.Context(), req); err != nil {
		l.t.Fatal(err)
	}
	return ids
}

func (l *life) level(drop string) *fulfillmentv1.StockLevel {
	l.t.Helper()
	res, err := l.catalog.GetDrop(l.t.Context(), &fulfillmentv1.GetDropRequest{DropId: drop})
	if err != nil {
		l.t.Fatal(err)
	}
	s := res.GetDrop().GetStock()
	if s.GetFree()+s.GetLeased()+s.GetQuarantined()+s.GetSold() != s.GetUnits() {
		l.t.Fatalf("the equation is broken: %v", s)
	}
	return s
}

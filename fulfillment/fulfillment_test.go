package fulfillment_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// One drop through its whole life: lent, sold, delivered, given back, settled.
func TestADropFromPlanToSettled(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		d := l.createDrop(20)
		drop := d.GetDrop().GetDropId()
		if d.GetDrop().GetState() != offerv1.DropState_DROP_STATE_ARMED || len(d.GetArmSalt()) != 16 || d.GetGoodsKind() != fulfillmentv1.GoodsKind_GOODS_KIND_DIGITAL {
			t.Errorf("got %v", d)
		}
		n := l.join()
		n.grant(drop, 10)
		n.grant(drop, 10)
		sold, loser := n.take(drop), n.take(drop)
		l.settle(sold)
		order := l.place(sold)[0]
		time.Sleep(5 * time.Second)
		got, err := l.orders.GetOrder(as(t.Context(), auth.Service), &fulfillmentv1.GetOrderRequest{OrderId: order})
		if err != nil || got.GetOrder().GetState() != fulfillmentv1.OrderState_ORDER_STATE_DELIVERED || len(got.GetOrder().GetLicenceKey()) != 29 {
			t.Fatalf("after 5 s: %v, %v", got, err)
		}
		for _, role := range []auth.Role{auth.Finance, auth.Producer, auth.SRE} {
			got, err := l.orders.GetOrder(as(t.Context(), role), &fulfillmentv1.GetOrderRequest{OrderId: order})
			if err != nil || got.GetOrder().GetLicenceKey() != "" {
				t.Errorf("%s sees the key %q, %v", role, got.GetOrder().GetLicenceKey(), err)
			}
		}
		list, err := l.orders.ListOrders(as(t.Context(), auth.Service), &fulfillmentv1.ListOrdersRequest{DropId: drop})
		if err != nil || len(list.GetOrders()) != 1 || list.GetOrders()[0].GetLicenceKey() != "" {
			t.Errorf("the list: %v, %v", list, err)
		}

		over := d.GetDrop().GetCloseTime().AsTime().Add(62 * time.Second)
		time.Sleep(time.Until(over))
		_, err = l.catalog.SettleDrop(t.Context(), &fulfillmentv1.SettleDropRequest{DropId: drop})
		if status.Code(err) != codes.Aborted || rpcerr.Reason(err) != errorsv1.Reason_REASON_CONFLICT {
			t.Errorf("settled with units leased: %v", err)
		}
		n.beat() // recalls all that is untouched
		release := &fulfillmentv1.ReleaseUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{loser}}
		if res, err := l.stock.ReleaseUnits(t.Context(), release); err != nil || res.GetFreed() != 1 {
			t.Errorf("released %v, %v", res, err)
		}
		if s := l.level(drop); s.GetLeased() != 0 || s.GetSold() != 1 || s.GetFree() != 19 {
			t.Errorf("after healing: %v", s)
		}
		res, err := l.catalog.SettleDrop(t.Context(), &fulfillmentv1.SettleDropRequest{DropId: drop})
		if err != nil || res.GetDrop().GetDrop().GetDrop().GetState() != offerv1.DropState_DROP_STATE_SETTLED {
			t.Errorf("got %v, %v", res, err)
		}
	})
}

func TestAStarvingNodeIsFedDownToTheLastUnit(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		drop := l.createDrop(9).GetDrop().GetDropId()
		rich, poor := l.join(), l.join()
		for rich.grant(drop, 9).GetLease() != nil { // all of it
		}
		if n := rich.untouched(drop); n != 9 {
			t.Fatalf("the rich node has %d", n)
		}
		for sold := 0; sold < 9; sold++ { // the poor node sells all of it, one a second
			res := poor.grant(drop, 1)
			for beats := 0; res.GetLease() == nil; beats++ {
				if most := 2 + 2*(sold/8); beats == most { // the very last waits until it has lain idle for 2 s
					t.Fatalf("still starving after %d heartbeats with %d sold", most, sold)
				}
				poor.beat(drop)
				time.Sleep(time.Second)
				rich.beat()
				res = poor.grant(drop, 1)
			}
			l.settle(poor.take(drop))
		}
		if s := l.level(drop); s.GetSold() != 9 {
			t.Errorf("sell-through: %v", s)
		}
		res := poor.beat(drop)
		if !slices.Equal(res.GetSoldOutDropIds(), []string{drop}) || len(res.GetAvailableDropIds()) != 0 {
			t.Errorf("got %v", res)
		}
	})
}

func TestHeartbeatHealsALostGrant(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		n := l.join()
		if res := n.beat(); res.GetNextIn().AsDuration() != 5*time.Second {
			t.Errorf("without a drop: come again in %v", res.GetNextIn().AsDuration())
		}
		drop := l.createDrop(20).GetDrop().GetDropId()
		lost := n.grant(drop, 5).GetLease()
		n.leases, n.spare = map[string]*fulfillmentv1.Lease{}, map[string][]uint32{} // the answer never came
		res := n.beat(drop)
		if len(res.GetMissing()) != 1 || !proto.Equal(res.GetMissing()[0], lost) {
			t.Errorf("missing %v, want %v", res.GetMissing(), lost)
		}
		if res.GetNextIn().AsDuration() != time.Second || !slices.Equal(res.GetAvailableDropIds(), []string{drop}) {
			t.Errorf("got %v", res)
		}
		if res := n.beat(drop); len(res.GetMissing()) != 0 {
			t.Errorf("sent again: %v", res.GetMissing())
		}
	})
}

func TestNodesLearnEachOthersKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		a, b, c := l.join(), l.join(), l.join()
		res, err := l.stock.Heartbeat(t.Context(), &fulfillmentv1.HeartbeatRequest{NodeId: a.id, Epoch: 1, KnownKeys: 1})
		if err != nil || len(res.GetKeys()) != 4 { // fulfillment's own is the first
			t.Errorf("got %d keys, %v", len(res.GetKeys()), err)
		}
		if res, err = l.stock.Heartbeat(t.Context(), &fulfillmentv1.HeartbeatRequest{NodeId: a.id, Epoch: 1, KnownKeys: 4}); err != nil || len(res.GetKeys()) != 0 {
			t.Errorf("got %d keys that are known, %v", len(res.GetKeys()), err)
		}
		var got []string
		req := &fulfillmentv1.ListNodeKeysRequest{PageSize: 2}
		for {
			page, err := l.stock.ListNodeKeys(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range page.GetKeys() {
				got = append(got, k.GetNodeId())
			}
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if !slices.Equal(got, []string{"", a.id, b.id, c.id}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestListsArePaged(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		n := l.join()
		var drops, orders []string
		for range 7 {
			drop := l.createDrop(2).GetDrop().GetDropId()
			time.Sleep(time.Millisecond)
			drops = append(drops, drop)
			n.grant(drop, 1)
			c := n.take(drop)
			l.settle(c)
			orders = append(orders, l.place(c)...)
		}
		slices.Reverse(drops)
		slices.Reverse(orders)
		var gotDrops, gotOrders []string
		listDrops := &fulfillmentv1.ListDropsRequest{PageSize: 3, ChannelId: "demo", States: []offerv1.DropState{offerv1.DropState_DROP_STATE_ARMED}}
		for {
			page, err := l.catalog.ListDrops(t.Context(), listDrops)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page.GetDrops() {
				gotDrops = append(gotDrops, d.GetDrop().GetDrop().GetDropId())
				if s := d.GetStock(); s.GetUnits() != 2 || s.GetFree() != 1 || s.GetSold() != 1 {
					t.Errorf("got %v", s)
				}
			}
			if listDrops.PageToken = page.GetNextPageToken(); listDrops.PageToken == "" {
				break
			}
		}
		listOrders := &fulfillmentv1.ListOrdersRequest{PageSize: 3}
		for {
			page, err := l.orders.ListOrders(t.Context(), listOrders)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.GetOrders() {
				gotOrders = append(gotOrders, o.GetOrderId())
			}
			if listOrders.PageToken = page.GetNextPageToken(); listOrders.PageToken == "" {
				break
			}
		}
		if !slices.Equal(gotDrops, drops) || !slices.Equal(gotOrders, orders) {
			t.Errorf("drops %v, want %v; orders %v, want %v", gotDrops, drops, gotOrders, orders)
		}
	})
}

func TestCreateDropAnswersARepeatAlike(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		req := dropRequest(20)
		req.Duration = durationpb.New(30 * time.Second)
		first, err := l.catalog.CreateDrop(t.Context(), req)
		if err != nil || len(first.GetWarnings()) != 1 {
			t.Fatalf("got %v, %v", first, err)
		}
		again, err := l.catalog.CreateDrop(t.Context(), req)
		if err != nil || !proto.Equal(first, again) {
			t.Errorf("got %v, %v, want %v", again, err, first)
		}
		time.Sleep(10 * time.Minute) // its opening is in the past now; the repeat is still no new drop
		if again, err = l.catalog.CreateDrop(t.Context(), req); err != nil || again.GetDrop().GetDrop().GetDropId() != first.GetDrop().GetDrop().GetDropId() {
			t.Errorf("later: %v, %v", again, err)
		}
	})
}

func TestBadRequestsGetATypedError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, openMemory(t), fulfillment.Config{}, nil)
		ctx := t.Context()
		d := l.createDrop(5)
		drop := d.GetDrop().GetDropId()
		n, other, third := l.join(), l.join(), l.join()
		for _, disk := range []string{"disk-two", "disk-new"} {
			req := third.joinRequest()
			req.DiskId, req.Life, req.BootId = disk, 2, newID()
			if _, err := l.stock.JoinNode(ctx, req); err != nil {
				t.Fatal(err)
			}
		}
		replaced := func(n *node) func(*fulfillmentv1.JoinNodeRequest) {
			return func(r *fulfillmentv1.JoinNodeRequest) {
				proto.Reset(r)
				proto.Merge(r, n.joinRequest())
				r.DiskId = "disk-two"
			}
		}
		superseded := func(n *node) func(*fulfillmentv1.JoinNodeRequest) {
			return func(r *fulfillmentv1.JoinNodeRequest) {
				proto.Reset(r)
				proto.Merge(r, n.joinRequest())
				r.DiskId, r.Life = "disk-new", 1
			}
		}
		lease := n.grant(drop, 1).GetLease().GetLeaseId()
		later := dropRequest(5)
		later.RequestId = newID()
		if _, err := l.catalog.CreateDrop(ctx, later); err != nil {
			t.Fatal(err)
		}
		otherBody := proto.Clone(later).(*fulfillmentv1.CreateDropRequest)
		otherBody.Title = "Another"
		join := func(change func(*fulfillmentv1.JoinNodeRequest)) error {
			req := n.joinRequest()
			change(req)
			_, err := l.stock.JoinNode(ctx, req)
			return err
		}
		claim := func(change func(*fulfillmentv1.UnitClaim)) error {
			c := &fulfillmentv1.UnitClaim{TokenId: make([]byte, 16), DropId: drop, Serial: 1, LeaseId: lease}
			change(c)
			_, err := l.stock.SettleUnits(ctx, &fulfillmentv1.SettleUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{c}})
			return err
		}
		grant := func(change func(*fulfillmentv1.GrantLeaseRequest)) error {
			req := &fulfillmentv1.GrantLeaseRequest{RequestId: newID(), NodeId: n.id, Epoch: 1, DropId: drop, WantedUnits: 1}
			change(req)
			_, err := l.stock.GrantLease(ctx, req)
			return err
		}
		for name, c := range map[string]struct {
			err    error
			code   codes.Code
			reason errorsv1.Reason
		}{
			"a drop without anything":         {second(l.catalog.CreateDrop(ctx, &fulfillmentv1.CreateDropRequest{RequestId: newID()})), codes.InvalidArgument, errorsv1.Reason_REASON_DROP_TERMS_INVALID},
			"another drop under a request id": {second(l.catalog.CreateDrop(ctx, otherBody)), codes.AlreadyExists, errorsv1.Reason_REASON_REQUEST_REPLAYED},
			"a drop id that is none":          {second(l.catalog.GetDrop(ctx, &fulfillmentv1.GetDropRequest{DropId: "x"})), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"a drop id in capitals":           {second(l.catalog.GetDrop(ctx, &fulfillmentv1.GetDropRequest{DropId: strings.ToUpper(drop)})), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"an unknown drop":                 {second(l.catalog.GetDrop(ctx, &fulfillmentv1.GetDropRequest{DropId: newID()})), codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND},
			"a made-up page":                  {second(l.catalog.ListDrops(ctx, &fulfillmentv1.ListDropsRequest{PageToken: "?"})), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"another list's page":             {second(l.orders.ListOrders(ctx, &fulfillmentv1.ListOrdersRequest{PageToken: "AAAA"})), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"settling an unknown drop":        {second(l.catalog.SettleDrop(ctx, &fulfillmentv1.SettleDropRequest{DropId: newID()})), codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND},
			"settling an open drop":           {second(l.catalog.SettleDrop(ctx, &fulfillmentv1.SettleDropRequest{DropId: drop})), codes.Aborted, errorsv1.Reason_REASON_CONFLICT},
			"a disk that was replaced":        {join(replaced(third)), codes.FailedPrecondition, errorsv1.Reason_REASON_DISK_CHANGED},
			"an earlier life of a process":    {join(superseded(third)), codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_SUPERSEDED},
			"a node with another's key":       {join(func(r *fulfillmentv1.JoinNodeRequest) { r.SigningKey = other.joinRequest().SigningKey }), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"a key that is stolen and renamed": {join(func(r *fulfillmentv1.JoinNodeRequest) {
				r.SigningKey = other.joinRequest().SigningKey
				r.SigningKey.NodeId = n.id
			}), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"a key with a wrong id":       {join(func(r *fulfillmentv1.JoinNodeRequest) { r.SigningKey.KeyId = make([]byte, 8) }), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"no key":                      {join(func(r *fulfillmentv1.JoinNodeRequest) { r.SigningKey = nil }), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"a grant for a stranger":      {grant(func(r *fulfillmentv1.GrantLeaseRequest) { r.NodeId = newID() }), codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_NOT_JOINED},
			"a grant under an old epoch":  {grant(func(r *fulfillmentv1.GrantLeaseRequest) { r.Epoch = 0 }), codes.FailedPrecondition, errorsv1.Reason_REASON_EPOCH_STALE},
			"a grant of an unknown drop":  {grant(func(r *fulfillmentv1.GrantLeaseRequest) { r.DropId = newID() }), codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND},
			"a return of another's lease": {second(l.stock.ReturnUnits(ctx, &fulfillmentv1.ReturnUnitsRequest{NodeId: other.id, Epoch: 1, LeaseId: lease, Serials: []uint32{1}})), codes.FailedPrecondition, errorsv1.Reason_REASON_LEASE_NOT_FOUND},
			"a heartbeat of a stranger":   {second(l.stock.Heartbeat(ctx, &fulfillmentv1.HeartbeatRequest{NodeId: newID(), Epoch: 1})), codes.FailedPrecondition, errorsv1.Reason_REASON_NODE_NOT_JOINED},
			"a short K":                   {claim(func(c *fulfillmentv1.UnitClaim) { c.TokenId = []byte("short") }), codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"an unknown order":            {second(l.orders.GetOrder(ctx, &fulfillmentv1.GetOrderRequest{OrderId: newID()})), codes.NotFound, errorsv1.Reason_REASON_ORDER_NOT_FOUND},
			"an order of an unsold unit":  {second(l.orders.PlaceOrders(ctx, &fulfillmentv1.PlaceOrdersRequest{Orders: []*fulfillmentv1.Order{{OrderId: newID(), PurchaseId: "x", DropId: drop, Serial: 1}}})), codes.FailedPrecondition, errorsv1.Reason_REASON_UNIT_NOT_YOURS},
		} {
			if status.Code(c.err) != c.code || rpcerr.Reason(c.err) != c.reason {
				t.Errorf("%s: got %v with %v, want %v with %v", name, c.err, rpcerr.Reason(c.err), c.code, c.reason)
			}
		}
		time.Sleep(time.Hour)
		err := grant(func(*fulfillmentv1.GrantLeaseRequest) {})
		if status.Code(err) != codes.FailedPrecondition || rpcerr.Info(err).GetMetadata()["state"] != "CLOSED" {
			t.Errorf("a grant of a closed drop: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestEveryMethodIsRuledOrOpen(t *testing.T) {
	open := []string{fulfillmentv1.CatalogService_GetDrop_FullMethodName, fulfillmentv1.CatalogService_ListDrops_FullMethodName, fulfillmentv1.CatalogService_WatchCatalog_FullMethodName}
	rules := fulfillment.Rules()
	methods := 0
	for _, d := range []grpc.ServiceDesc{fulfillmentv1.CatalogService_ServiceDesc, fulfillmentv1.StockService_ServiceDesc, fulfillmentv1.FenceService_ServiceDesc, fulfillmentv1.OrderService_ServiceDesc} {
		var names []string
		for _, m := range d.Methods {
			names = append(names, m.MethodName)
		}
		for _, m := range d.Streams {
			names = append(names, m.StreamName)
		}
		for _, name := range names {
			methods++
			full := "/" + d.ServiceName + "/" + name
			if ruled := len(rules[full]) > 0; ruled == slices.Contains(open, full) {
				t.Errorf("%s: ruled %v", full, ruled)
			}
		}
	}
	if methods != len(rules)+len(open) {
		t.Errorf("%d methods, %d rules and %d open", methods, len(rules), len(open))
	}
}

func TestConfigReportsAllProblemsAtOnce(t *testing.T) {
	err := fulfillment.Config{OrderLease: time.Hour, OrderAttempts: -1}.Validate()
	if err == nil || !strings.Contains(err.Error(), "OrderLease") || !strings.Contains(err.Error(), "OrderAttempts") {
		t.Errorf("got %v", err)
	}
	if err := (fulfillment.Config{}).Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if _, err := fulfillment.New(fulfillment.Config{}, fulfillment.Deps{}); err == nil {
		t.Error("no store was taken")
	}
}

func TestStreamsEndWithTheService(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		catalog, err := l.catalog.WatchCatalog(t.Context(), &fulfillmentv1.WatchCatalogRequest{})
		if err != nil {
			t.Fatal(err)
		}
		orders, err := l.orders.WatchOrders(t.Context(), &fulfillmentv1.WatchOrdersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		for range 3 {
			for _, recv := range []func() error{func() error { return second(catalog.Recv()) }, func() error { return second(orders.Recv()) }} {
				if err := recv(); err != nil {
					t.Fatal(err)
				}
			}
			if silent := time.Since(last); silent > 15*time.Second {
				t.Errorf("silent for %v", silent)
			}
			last = time.Now()
		}
		l.end()
		for _, err := range []error{second(catalog.Recv()), second(orders.Recv())} {
			if status.Code(err) != codes.Unavailable || rpcerr.Reason(err) != errorsv1.Reason_REASON_DRAINING || errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		}
	})
}

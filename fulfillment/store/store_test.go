package store_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/internal/token"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// onEach runs a test on every engine.
func onEach(t *testing.T, test func(*testing.T, *store.Store)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { test(t, migrated(t, db)) })
}

func migrated(t testing.TB, db *sqldb.DB) *store.Store {
	t.Helper()
	if err := store.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return store.New(db)
}

// id makes an id of a kind and a number.
func id(kind byte, n int) store.ID {
	var i store.ID
	i[0] = kind
	binary.BigEndian.PutUint64(i[8:], uint64(n))
	return i
}

const ttl = time.Minute

func window(open time.Time, length time.Duration) catalog.Schedule {
	return catalog.Schedule{OpenTime: open, CloseTime: open.Add(length), OverTime: open.Add(length + ttl + dropclock.Grace)}
}

func create(t testing.TB, s *store.Store, drop store.ID, units uint32, w catalog.Schedule) store.Drop {
	t.Helper()
	d, err := s.CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{RequestId: drop.String()}, drop, func() (*fulfillmentv1.CatalogDrop, catalog.Schedule, error) {
		return &fulfillmentv1.CatalogDrop{Units: units, Drop: &offerv1.Drop{
			DropId: drop.String(), ChannelId: "demo", OpenTime: timestamppb.New(w.OpenTime), CloseTime: timestamppb.New(w.CloseTime),
		}}, w, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func join(t testing.TB, s *store.Store, node store.ID) {
	t.Helper()
	key := sha256.Sum256(node[:])
	if _, err := s.Join(t.Context(), store.Node{ID: node, DiskID: "disk-" + node.String(), Region: "r",
		Key: &offerv1.SigningKey{KeyId: key[:8], PublicKey: key[:]}}, start); err != nil {
		t.Fatal(err)
	}
}

func grant(t testing.TB, s *store.Store, request, node, drop, lease store.ID, wanted int) store.Grant {
	t.Helper()
	g, err := s.Grant(t.Context(), store.GrantRequest{RequestID: request, NodeID: node, DropID: drop, Epoch: 1, Wanted: wanted}, lease, start)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func level(t testing.TB, s *store.Store, drop store.ID) store.Level {
	t.Helper()
	levels, err := s.Levels(t.Context(), []store.ID{drop})
	if err != nil {
		t.Fatal(err)
	}
	return levels[drop]
}

func settle(t testing.TB, s *store.Store, claims ...store.Claim) []store.Verdict {
	t.Helper()
	v, err := s.Settle(t.Context(), claims)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func release(t testing.TB, s *store.Store, claims ...store.Claim) int {
	t.Helper()
	n, err := s.Release(t.Context(), claims, start)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestJoinKeepsTheEpochOfADisk(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		n := store.Node{ID: id('n', 1), DiskID: "disk-1", Region: "a", Key: &offerv1.SigningKey{KeyId: []byte("12345678")}}
		for range 3 {
			if j, err := s.Join(t.Context(), n, start); err != nil || j.Epoch != 1 {
				t.Fatalf("got %+v, %v", j, err)
			}
		}
		thief := n
		thief.ID, thief.DiskID = id('n', 2), "disk-3"
		if _, err := s.Join(t.Context(), thief, start); !errors.Is(err, store.ErrKeyTaken) {
			t.Errorf("another node's key: %v", err)
		}
		if keys, err := s.Keys(t.Context(), 0, -1); err != nil || len(keys) != 1 {
			t.Errorf("got %v, %v, want one key", keys, err)
		}
	})
}

func TestCreateDropOncePerRequest(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		first := create(t, s, id('d', 1), 1000, window(start, 90*time.Second))
		again, err := s.CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{RequestId: id('d', 1).String()}, id('d', 2), nil)
		if err != nil || again.ID != first.ID || !proto.Equal(again.Terms, first.Terms) || again.Schedule != first.Schedule {
			t.Errorf("the repeat got %+v, %v, want %+v", again, err, first)
		}
		_, err = s.CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{RequestId: id('d', 1).String(), Title: "other"}, id('d', 2), nil)
		if !errors.Is(err, store.ErrReplayed) {
			t.Errorf("another body: %v", err)
		}
		if got := level(t, s, first.ID); got != (store.Level{Units: 1000, Free: 1000}) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestGrantIsIdempotentAndFenced(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop := id('n', 1), id('d', 1)
		create(t, s, drop, 20, window(start, 90*time.Second))
		ask := store.GrantRequest{RequestID: id('r', 1), NodeID: node, DropID: drop, Epoch: 1, Wanted: 5}
		if _, err := s.Grant(t.Context(), ask, id('l', 1), start); !errors.As(err, new(*store.NotJoinedError)) {
			t.Errorf("a stranger: %v", err)
		}
		join(t, s, node)
		first := grant(t, s, ask.RequestID, node, drop, id('l', 1), 5)
		again := grant(t, s, ask.RequestID, node, drop, id('l', 2), 5)
		if !proto.Equal(first.Lease, again.Lease) || !again.Repeated || first.Lease.GetLeaseId() != id('l', 1).String() || !slices.Equal(first.Lease.GetSerials(), []uint32{1, 2}) {
			t.Errorf("got %v, then %v", first, again)
		}
		other := ask
		other.Wanted = 6
		if _, err := s.Grant(t.Context(), other, id('l', 3), start); !errors.Is(err, store.ErrReplayed) {
			t.Errorf("another body: %v", err)
		}
		stale := ask
		stale.Epoch = 2
		if _, err := s.Grant(t.Context(), stale, id('l', 3), start); !errors.As(err, new(*store.EpochStaleError)) {
			t.Errorf("another epoch: %v", err)
		}
		for _, at := range []time.Time{start.Add(-time.Minute), start.Add(time.Hour)} {
			fresh := ask
			fresh.RequestID = id('r', 9)
			if _, err := s.Grant(t.Context(), fresh, id('l', 3), at); !errors.As(err, new(*store.NotLiveError)) {
				t.Errorf("at %v: %v", at, err)
			}
		}
		if got := level(t, s, drop); got != (store.Level{Units: 20, Free: 18, Leased: 2}) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestSoldOutOnlyWhenNothingIsFreeOrLeased(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop, lease := id('n', 1), id('d', 1), id('l', 1)
		create(t, s, drop, 1, window(start, 90*time.Second))
		join(t, s, node)
		grant(t, s, id('r', 1), node, drop, lease, 1)
		if g := grant(t, s, id('r', 2), node, drop, id('l', 2), 1); g.Lease != nil || g.SoldOut {
			t.Errorf("one is leased, yet %+v", g)
		}
		c := store.Claim{TokenID: id('k', 1), DropID: drop, Serial: 1, LeaseID: lease}
		settle(t, s, c)
		if g := grant(t, s, id('r', 3), node, drop, id('l', 3), 1); g.Lease != nil || !g.SoldOut {
			t.Errorf("all is sold, yet %+v", g)
		}
		if release(t, s, c) != 1 {
			t.Fatal("not released")
		}
		if g := grant(t, s, id('r', 3), node, drop, id('l', 3), 1); !g.SoldOut {
			t.Errorf("the same request got another answer: %+v", g)
		}
		if g := grant(t, s, id('r', 4), node, drop, id('l', 4), 1); g.Lease == nil {
			t.Errorf("one is free again, yet %+v", g)
		}
	})
}

// The guards of docs/settlement.md 2.5, one by one.
func TestSettleAndRelease(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop := id('n', 1), id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		join(t, s, node)
		requests := 0
		fresh := func() (store.ID, uint32) { // a lease with its first serial
			requests++
			g := grant(t, s, id('r', requests), node, drop, id('l', requests), 1)
			return id('l', requests), g.Lease.GetSerials()[0]
		}
		want := func(rule string, got []store.Verdict, want ...store.Verdict) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", rule, got, want)
			}
		}
		lease, serial := fresh()
		mine := store.Claim{TokenID: id('k', 1), DropID: drop, Serial: serial, LeaseID: lease}
		theirs := mine
		theirs.TokenID = id('k', 2)
		want("the first gets the unit, within one batch too", settle(t, s, mine, theirs), store.Settled, store.NotYours)
		want("a repeat gets the same answer", settle(t, s, theirs, mine), store.NotYours, store.Settled)

		lease2, serial2 := fresh()
		second := store.Claim{TokenID: id('k', 1), DropID: drop, Serial: serial2, LeaseID: lease2}
		want("K has one unit at most", settle(t, s, second), store.NotYours)
		wrong := store.Claim{TokenID: id('k', 3), DropID: drop, Serial: serial2, LeaseID: lease}
		want("a unit of another lease", settle(t, s, wrong), store.NotYours)
		wrong.LeaseID = id('l', 99)
		want("a lease that was never granted", settle(t, s, wrong), store.NoLease)
		wrong.LeaseID, wrong.DropID = lease2, id('d', 2)
		want("a lease of another drop", settle(t, s, wrong), store.NoLease)
		wrong.DropID, wrong.Serial = drop, 5000
		want("a unit that does not exist", settle(t, s, wrong), store.NotYours)

		if n := release(t, s, theirs); n != 0 {
			t.Errorf("releasing what is sold to another freed %d", n)
		}
		if n := release(t, s, mine, mine); n != 1 {
			t.Errorf("releasing twice freed %d, want 1", n)
		}
		want("a settle after its release", settle(t, s, mine), store.NotYours)
		want("what K may not have stays so after K's release", settle(t, s, second), store.NotYours)

		lease3, serial3 := fresh() // the lowest free serial: the released one
		if serial3 != serial {
			t.Fatalf("got serial %d, want %d again", serial3, serial)
		}
		buyer := store.Claim{TokenID: id('k', 4), DropID: drop, Serial: serial3, LeaseID: lease3}
		if n := release(t, s, mine); n != 0 {
			t.Errorf("a replayed release took a unit from its next lease")
		}
		want("the released unit sells again", settle(t, s, buyer), store.Settled)
		if n := release(t, s, mine); n != 0 {
			t.Errorf("a replayed release took a unit from its next buyer")
		}
		want("and stays sold", settle(t, s, buyer), store.Settled)

		duplicate := store.Claim{TokenID: id('k', 4), DropID: drop, Serial: serial2, LeaseID: lease2}
		if n := release(t, s, duplicate, duplicate); n != 1 {
			t.Errorf("releasing a duplicate's unit freed %d, want 1", n)
		}
		want("the duplicate cannot be settled any more", settle(t, s, duplicate), store.NotYours)
		want("its winner is untouched", settle(t, s, buyer), store.Settled)

		early := store.Claim{TokenID: id('k', 5), DropID: drop}
		early.LeaseID, early.Serial = fresh()
		if n := release(t, s, early); n != 1 {
			t.Errorf("releasing an unsettled unit freed %d, want 1", n)
		}
		want("a settle that arrives after its release", settle(t, s, early), store.NotYours)
	})
}

func TestReturnFreesOnlyWhatIsStillTheLeases(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, other, drop := id('n', 1), id('n', 2), id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		join(t, s, node)
		g := grant(t, s, id('r', 1), node, drop, id('l', 1), 10)
		join(t, s, other)
		grant(t, s, id('r', 2), other, drop, id('l', 2), 10)
		serials := g.Lease.GetSerials()
		settle(t, s, store.Claim{TokenID: id('k', 1), DropID: drop, Serial: serials[0], LeaseID: id('l', 1)})
		give := func(node store.ID, epoch int64, lease store.ID, serials ...uint32) int {
			t.Helper()
			n, err := s.Return(t.Context(), store.Caller{NodeID: node, Epoch: epoch}, lease, serials, start)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := give(node, 1, id('l', 1), serials[0], serials[1], serials[1], 99, 5000); n != 1 {
			t.Errorf("freed %d, want 1: one is sold, one is named twice, one is free, one does not exist", n)
		}
		if n := give(node, 1, id('l', 1), serials[1]); n != 0 {
			t.Errorf("a repeat freed %d", n)
		}
		if _, err := s.Return(t.Context(), store.Caller{NodeID: node, Epoch: 1}, id('l', 2), serials, start); !errors.As(err, new(*store.LeaseNotFoundError)) {
			t.Errorf("another node's lease: %v", err)
		}
		if _, err := s.Return(t.Context(), store.Caller{NodeID: node, Epoch: 2}, id('l', 1), serials, start); !errors.As(err, new(*store.EpochStaleError)) {
			t.Errorf("another epoch: %v", err)
		}
	})
}

func TestActiveLeasesAreThoseWithALeasedUnit(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop := id('n', 1), id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		join(t, s, node)
		first := grant(t, s, id('r', 1), node, drop, id('l', 1), 1).Lease
		second := grant(t, s, id('r', 2), node, drop, id('l', 2), 3).Lease
		active := func(known ...store.ID) (ids []string) {
			t.Helper()
			set := map[store.ID]bool{}
			for _, k := range known {
				set[k] = true
			}
			leases, err := s.ActiveLeases(t.Context(), store.Caller{NodeID: node, Epoch: 1}, set, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range leases {
				ids = append(ids, l.GetLeaseId())
			}
			return ids
		}
		if got := active(); !slices.Equal(got, []string{first.LeaseId, second.LeaseId}) {
			t.Errorf("got %v", got)
		}
		if got := active(id('l', 1)); !slices.Equal(got, []string{second.LeaseId}) {
			t.Errorf("a known lease came: %v", got)
		}
		settle(t, s, store.Claim{TokenID: id('k', 1), DropID: drop, Serial: first.Serials[0], LeaseID: id('l', 1)})
		if got := active(); !slices.Equal(got, []string{second.LeaseId}) {
			t.Errorf("a lease without a leased unit came: %v", got)
		}
	})
}

func TestSettleDropNeedsTheEndAndNothingLeased(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop := id('n', 1), id('d', 1)
		d := create(t, s, drop, 2, window(start, 90*time.Second))
		join(t, s, node)
		lease := grant(t, s, id('r', 1), node, drop, id('l', 1), 1).Lease
		for _, at := range []time.Time{d.OverTime.Add(-1), d.OverTime} {
			if _, err := s.SettleDrop(t.Context(), drop, at); !errors.As(err, new(*store.NotSettleableError)) {
				t.Errorf("at %v: %v", at, err)
			}
		}
		if _, err := s.Return(t.Context(), store.Caller{NodeID: node, Epoch: 1}, id('l', 1), lease.Serials, start); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SettleDrop(t.Context(), drop, d.OverTime.Add(-time.Microsecond)); !errors.As(err, new(*store.NotSettleableError)) {
			t.Errorf("before its end: %v", err)
		}
		settled, err := s.SettleDrop(t.Context(), drop, d.OverTime)
		if err != nil || settled.State(start) != dropclock.Settled || settled.Terms.Drop.Revision <= d.Terms.Drop.Revision {
			t.Fatalf("got %+v, %v", settled, err)
		}
		again, err := s.SettleDrop(t.Context(), drop, d.OverTime)
		if err != nil || again.Terms.Drop.Revision != settled.Terms.Drop.Revision {
			t.Errorf("a repeat changed it: %+v, %v", again, err)
		}
		if _, err := s.SettleDrop(t.Context(), id('d', 9), d.OverTime); !errors.As(err, new(*store.DropNotFoundError)) {
			t.Errorf("an unknown drop: %v", err)
		}
	})
}

// The SQL that filters drops by state and the function that names their state are one rule.
// Each state alone, on each engine: what SQLite lets pass PostgreSQL may refuse.
func TestListDropsByOneState(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		d := create(t, s, id('d', 1), 1, window(start, time.Minute))
		for _, now := range []time.Time{start.Add(-time.Hour), start, d.OverTime} {
			for state := dropclock.State(1); state <= dropclock.Settled; state++ {
				found, err := s.ListDrops(t.Context(), store.DropQuery{States: []dropclock.State{state}, Now: now, Limit: 10})
				if err != nil || (len(found) == 1) != (d.State(now) == state) {
					t.Errorf("%v at %v: got %d drops, %v", state, now, len(found), err)
				}
			}
		}
	})
}

func TestListDropsAgreesWithTheClock(t *testing.T) {
	s := migrated(t, sqldbtest.Memory(t))
	rnd := 0
	for i := range 40 {
		rnd = (rnd*7919 + 104729) % 6007
		d := create(t, s, id('d', i+1), 1, window(start.Add(time.Duration(rnd)*100*time.Millisecond), time.Duration(10+rnd%200)*time.Second))
		if i%5 == 0 {
			if _, err := s.SettleDrop(t.Context(), d.ID, d.OverTime); err != nil {
				t.Fatal(err)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		states := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) dropclock.State {
			return dropclock.State(rapid.IntRange(1, 7).Draw(t, "state"))
		}), 1, 3, rapid.ID).Draw(rt, "states")
		now := start.Add(time.Duration(rapid.IntRange(-20_000, 1_000_000).Draw(rt, "ms")) * time.Millisecond)
		size := rapid.IntRange(1, 50).Draw(rt, "page")
		all, err := s.ListDrops(t.Context(), store.DropQuery{Now: now, Limit: 100})
		if err != nil || len(all) != 40 {
			rt.Fatalf("got %d drops, %v", len(all), err)
		}
		var want, got []store.ID
		for i, d := range all {
			if i > 0 && d.OpenTime.After(all[i-1].OpenTime) {
				rt.Fatalf("drop %d opens later than the one before", i)
			}
			if slices.Contains(states, d.State(now)) {
				want = append(want, d.ID)
			}
		}
		q := store.DropQuery{Now: now, States: states, Limit: size}
		for {
			page, err := s.ListDrops(t.Context(), q)
			if err != nil {
				rt.Fatal(err)
			}
			for _, d := range page {
				got = append(got, d.ID)
				q.AfterOpenTime, q.AfterID = d.OpenTime, d.ID
			}
			if len(page) < size {
				break
			}
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("states %v at %v: got %v, want %v", states, now, got, want)
		}
	})
}

func TestPlaceOrdersNeedsTheUnitToBeThePurchases(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop, k := id('n', 1), id('d', 1), id('k', 1)
		create(t, s, drop, 10, window(start, 90*time.Second))
		join(t, s, node)
		serial := grant(t, s, id('r', 1), node, drop, id('l', 1), 1).Lease.Serials[0]
		order := store.Order{ID: id('o', 1), PurchaseID: token.PurchaseID(k[:]), DropID: drop, Serial: serial}
		place := func(o store.Order) error { return s.PlaceOrders(t.Context(), []store.Placement{{Order: o}}, start) }
		if err := place(order); !errors.As(err, new(*store.UnitNotSoldError)) {
			t.Errorf("a unit that is leased: %v", err)
		}
		settle(t, s, store.Claim{TokenID: k, DropID: drop, Serial: serial, LeaseID: id('l', 1)})
		stranger := order
		stranger.PurchaseID = token.PurchaseID([]byte("stranger"))
		if err := place(stranger); !errors.As(err, new(*store.UnitNotSoldError)) {
			t.Errorf("a unit that is sold to another: %v", err)
		}
		for range 2 {
			if err := place(order); err != nil {
				t.Fatal(err)
			}
		}
		if err := place(stranger); !errors.Is(err, store.ErrReplayed) {
			t.Errorf("another body: %v", err)
		}
		second := order
		second.ID = id('o', 2)
		if err := place(second); !errors.As(err, new(*store.UnitNotSoldError)) {
			t.Errorf("a second order of one unit: %v", err)
		}
		if events, err := s.Events(t.Context(), 0, 10); err != nil || len(events) != 1 || events[0].Order.State != orders.Ready {
			t.Errorf("got %+v, %v, want one event", events, err)
		}
	})
}

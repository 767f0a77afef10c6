package fulfillment_test

import (
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
)

// onBackups runs a test in virtual time on both engines, with a way to take a backup that can be opened once the store is
// nobody's any more.
func onBackups(t *testing.T, test func(t *testing.T, db *sqldb.DB, backup func() reopen)) {
	t.Parallel()
	run(t, "memory", openMemory, func(t *testing.T, db *sqldb.DB) {
		test(t, db, func() reopen {
			image, err := db.Image(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return func() *sqldb.DB {
				db, err := sqldb.OpenImage(t.Context(), image)
				return ready(t, db, err)
			}
		})
	})
	run(t, "postgres", openPostgres, func(t *testing.T, db *sqldb.DB) {
		test(t, db, func() reopen {
			tables := tablesOf(t, db)
			for _, table := range tables {
				execute(t, db, "CREATE TABLE backup_of_"+table+" AS TABLE "+table)
			}
			return func() *sqldb.DB {
				execute(t, db, "SET LOCAL session_replication_role = replica", "TRUNCATE "+strings.Join(tables, ", "))
				for _, table := range tables { // rows that point to each other come in any order
					execute(t, db, "SET LOCAL session_replication_role = replica", "INSERT INTO "+table+" SELECT * FROM backup_of_"+table)
				}
				return db
			}
		})
	})
}

// reopen is a store as it was when its backup was taken.
type reopen func() *sqldb.DB

func tablesOf(t *testing.T, db *sqldb.DB) (names []string) {
	t.Helper()
	rows, err := db.Read().QueryContext(t.Context(), "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	return names
}

// execute runs statements in one transaction.
func execute(t *testing.T, db *sqldb.DB, statements ...string) {
	t.Helper()
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		for _, s := range statements {
			if _, err := tx.ExecContext(t.Context(), s); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// restore ends a life and begins another on a backup.
func (l *life) restore(backup reopen, cfg fulfillment.Config) *life {
	l.t.Helper()
	l.end()
	db := backup()
	if err := fulfillment.MarkRestored(l.t.Context(), db, time.Now()); err != nil {
		l.t.Fatal(err)
	}
	return start(l.t, db, cfg, nil)
}

// report tells what the node holds; drops are those that it serves.
func (n *node) report(drops ...*fulfillmentv1.CatalogDrop) {
	n.t.Helper()
	who := n.joinRequest()
	who.Epoch = 1
	req := &fulfillmentv1.ReportHoldingsRequest{Node: who, Drops: drops, Complete: true}
	for _, l := range n.leases {
		req.Leases = append(req.Leases, &fulfillmentv1.HeldSerials{Lease: l})
	}
	if _, err := n.stock.ReportHoldings(n.t.Context(), req); err != nil {
		n.t.Fatal(err)
	}
}

// tell is the verifier's word.
func (l *life) tell(keys []*offerv1.SigningKey, seals []*fulfillmentv1.SealedEpoch, facts ...*fulfillmentv1.UnitFact) {
	l.t.Helper()
	at, err := l.stock.RestoreUnits(l.t.Context(), &fulfillmentv1.RestoreUnitsRequest{})
	if err != nil || at.GetRestoreId() == 0 {
		l.t.Fatalf("got %v, %v", at, err)
	}
	for _, f := range facts {
		if at, err = l.stock.RestoreUnits(l.t.Context(), &fulfillmentv1.RestoreUnitsRequest{RestoreId: at.GetRestoreId(), Facts: []*fulfillmentv1.UnitFact{f}, AfterTokenId: f.GetTokenId()}); err != nil {
			l.t.Fatal(err)
		}
	}
	if at, err = l.stock.RestoreUnits(l.t.Context(), &fulfillmentv1.RestoreUnitsRequest{RestoreId: at.GetRestoreId(), Complete: true, Keys: keys, Seals: seals}); err != nil || !at.GetComplete() {
		l.t.Fatalf("got %v, %v", at, err)
	}
}

func fact(c *fulfillmentv1.UnitClaim, standing fulfillmentv1.UnitStanding) *fulfillmentv1.UnitFact {
	return &fulfillmentv1.UnitFact{TokenId: c.GetTokenId(), DropId: c.GetDropId(), Serial: c.GetSerial(), LeaseId: c.GetLeaseId(), Standing: standing}
}

// recovers wants everything of stock refused.
func (n *node) recovers(drop string) {
	n.t.Helper()
	_, granted := n.stock.GrantLease(n.t.Context(), &fulfillmentv1.GrantLeaseRequest{RequestId: newID(), NodeId: n.id, Epoch: 1, DropId: drop, WantedUnits: 1})
	_, joined := n.stock.JoinNode(n.t.Context(), n.joinRequest())
	_, beat := n.stock.Heartbeat(n.t.Context(), &fulfillmentv1.HeartbeatRequest{NodeId: n.id, Epoch: 1})
	_, settled := n.stock.SettleUnits(n.t.Context(), &fulfillmentv1.SettleUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{{TokenId: make([]byte, 16), DropId: drop, Serial: 1, LeaseId: newID()}}})
	_, unknown := n.catalog.GetDrop(n.t.Context(), &fulfillmentv1.GetDropRequest{DropId: newID()})
	stream, err := n.catalog.WatchCatalog(n.t.Context(), &fulfillmentv1.WatchCatalogRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	_, watched := stream.Recv()
	for what, err := range map[string]error{"grant": granted, "join": joined, "heartbeat": beat, "settle": settled, "an unknown drop": unknown, "the catalogue": watched} {
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_STORE_RECOVERING {
			n.t.Errorf("%s: %v", what, err)
		}
	}
}

// After the backup units are lent to a node that it knows and to one that it does not, sold, and released, orders are placed
// and delivered, and a drop is planned. When everybody has told, all of that is so again.
func TestARestoredFulfillmentIsWhatItWas(t *testing.T) {
	onBackups(t, func(t *testing.T, db *sqldb.DB, takeBackup func() reopen) {
		l := start(t, db, fulfillment.Config{}, nil)
		old := l.createDrop(40)
		drop := old.GetDrop().GetDropId()
		first := l.join()
		first.grant(drop, 4)
		before := first.take(drop)
		l.settle(before)
		ordered := l.place(before)
		backup := takeBackup()

		time.Sleep(time.Second) // the order is delivered
		delivered, err := l.orders.GetOrder(as(t.Context(), "service"), &fulfillmentv1.GetOrderRequest{OrderId: ordered[0]})
		if err != nil || delivered.GetOrder().GetLicenceKey() == "" {
			t.Fatalf("got %v, %v", delivered, err)
		}
		second := l.join()
		first.grant(drop, 4)
		second.grant(drop, 4)
		sold, open, failed, unheard := second.take(drop), second.take(drop), first.take(drop), first.take(drop)
		l.settle(sold, failed)
		if _, err := l.stock.ReleaseUnits(t.Context(), &fulfillmentv1.ReleaseUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{failed}}); err != nil {
			t.Fatal(err)
		}
		planned := l.createDrop(10)
		second.grant(planned.GetDrop().GetDropId(), 2)
		want, wantPlanned := l.level(drop), l.level(planned.GetDrop().GetDropId())

		l = l.restore(backup, fulfillment.Config{})
		first.life, second.life = l, l
		first.recovers(drop)
		first.report(old)
		soldFact := fact(sold, fulfillmentv1.UnitStanding_UNIT_STANDING_SOLD)
		soldOrder := newID()
		soldFact.Order = &fulfillmentv1.Order{OrderId: soldOrder, PurchaseId: token.PurchaseID(sold.GetTokenId()), DropId: drop, Serial: sold.GetSerial(), State: fulfillmentv1.OrderState_ORDER_STATE_READY}
		beforeFact := fact(before, fulfillmentv1.UnitStanding_UNIT_STANDING_SOLD)
		beforeFact.Order = delivered.GetOrder()
		failedFact := fact(failed, fulfillmentv1.UnitStanding_UNIT_STANDING_RELEASED)
		failedFact.WasSold = true
		l.tell([]*offerv1.SigningKey{first.joinRequest().GetSigningKey(), second.joinRequest().GetSigningKey()}, nil,
			soldFact, beforeFact, failedFact, fact(open, fulfillmentv1.UnitStanding_UNIT_STANDING_OPEN))
		time.Sleep(time.Minute)
		first.recovers(drop) // the second one has not reported
		second.report(old, planned)
		time.Sleep(2 * time.Second)

		if got := l.level(drop); got.GetSold() != want.GetSold() || got.GetFree() != want.GetFree() || got.GetLeased() != want.GetLeased() {
			t.Errorf("stock is %v, was %v", got, want)
		}
		if got := l.level(planned.GetDrop().GetDropId()); got.GetLeased() != wantPlanned.GetLeased() || got.GetUnits() != wantPlanned.GetUnits() {
			t.Errorf("the drop planned after the backup has stock %v, had %v", got, wantPlanned)
		}
		l.settle(before, sold, open, unheard)
		for id, want := range map[string]string{ordered[0]: delivered.GetOrder().GetLicenceKey(), soldOrder: ""} {
			o, err := l.orders.GetOrder(as(t.Context(), "service"), &fulfillmentv1.GetOrderRequest{OrderId: id})
			if err != nil || o.GetOrder().GetState() != fulfillmentv1.OrderState_ORDER_STATE_DELIVERED || want != "" && o.GetOrder().GetLicenceKey() != want {
				t.Errorf("the order is %v, %v", o.GetOrder().GetState(), err)
			}
		}
		held := map[uint32]bool{}
		for _, n := range []*node{first, second} {
			for _, lease := range n.leases {
				if lease.GetDropId() == drop && lease.GetLeaseId() != failed.GetLeaseId() {
					for _, s := range lease.GetSerials() {
						held[s] = true
					}
				}
			}
		}
		third := l.join()
		for lease := third.grant(drop, 10).GetLease(); lease != nil; lease = third.grant(drop, 10).GetLease() {
			if i := slices.IndexFunc(lease.GetSerials(), func(s uint32) bool { return held[s] }); i >= 0 {
				t.Fatalf("unit %d is lent a second time", lease.GetSerials()[i])
			}
		}
		if revision := l.planned(planned.GetDrop().GetDropId()); revision <= planned.GetDrop().GetRevision() {
			t.Errorf("revision %d, was %d", revision, planned.GetDrop().GetRevision())
		}
	})
}

func (l *life) planned(drop string) int64 {
	l.t.Helper()
	res, err := l.catalog.GetDrop(l.t.Context(), &fulfillmentv1.GetDropRequest{DropId: drop})
	if err != nil {
		l.t.Fatal(err)
	}
	return res.GetDrop().GetDrop().GetDrop().GetRevision()
}

// A node that was lent units after the backup stays away, and an operator gives it up. What it may hold is lent to nobody;
// a receipt of its still settles; it begins under a new epoch when it comes back after all; the rest is free after its window.
func TestWhatASilentNodeMayHoldIsFrozen(t *testing.T) {
	onBackups(t, func(t *testing.T, db *sqldb.DB, takeBackup func() reopen) {
		l := start(t, db, fulfillment.Config{}, nil)
		drop := l.createDrop(20).GetDrop().GetDropId()
		here, silent := l.join(), l.join()
		backup := takeBackup()
		here.grant(drop, 2)
		silent.grant(drop, 2)
		late := silent.take(drop)

		l = l.restore(backup, fulfillment.Config{RecoverWithout: []string{silent.id}, Claims: fulfillment.ClaimsWindows{Digital: time.Minute}})
		here.life, silent.life = l, l
		here.report()
		l.tell(nil, nil)
		time.Sleep(2 * time.Second)
		if got := here.grant(drop, 5); got.GetLease() != nil || got.GetSoldOut() {
			t.Errorf("got %v: what the silent node may hold is lent", got)
		}
		if got := l.level(drop); got.GetQuarantined() != 20-uint32(len(here.leases)) {
			t.Errorf("stock is %v", got)
		}
		l.settle(late)
		l.settle(late)
		rejoin := silent.joinRequest()
		rejoin.Epoch = 1
		if joined, err := l.stock.JoinNode(t.Context(), rejoin); err != nil || joined.GetEpoch() <= 1 {
			t.Errorf("the node that was given up joins under %v, %v", joined, err)
		}
		list, err := l.stock.ListQuarantinedLeases(t.Context(), &fulfillmentv1.ListQuarantinedLeasesRequest{})
		if err != nil || len(list.GetLeases()) != 1 {
			t.Fatalf("got %v, %v", list, err)
		}
		time.Sleep(time.Until(list.GetLeases()[0].GetClaimsEndTime().AsTime()))
		if _, err := l.stock.CloseLease(t.Context(), &fulfillmentv1.CloseLeaseRequest{LeaseId: list.GetLeases()[0].GetLeaseId()}); err != nil {
			t.Fatal(err)
		}
		if got := l.level(drop); got.GetQuarantined() != 0 || got.GetSold() != 1 {
			t.Errorf("stock is %v", got)
		}
	})
}

// A node that retired since has nothing, and what it sold the verifier knows: nobody waits for it, nothing is frozen. One
// that lost its disk since may have had anything.
func TestASealFreezesNothingALostDiskDoes(t *testing.T) {
	for name, sealed := range map[string]bool{"sealed": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			onBackups(t, func(t *testing.T, db *sqldb.DB, takeBackup func() reopen) {
				l := start(t, db, fulfillment.Config{}, nil)
				drop := l.createDrop(20).GetDrop().GetDropId()
				n := l.join()
				n.grant(drop, 1)
				backup := takeBackup()
				l = l.restore(backup, fulfillment.Config{})
				n.life = l
				var seals []*fulfillmentv1.SealedEpoch
				if sealed {
					seals = append(seals, &fulfillmentv1.SealedEpoch{NodeId: n.id, Epoch: 1})
				}
				who := n.joinRequest()
				who.DiskId, who.Epoch = "disk-"+newID(), 2
				if !sealed {
					if _, err := l.stock.ReportHoldings(t.Context(), &fulfillmentv1.ReportHoldingsRequest{Node: who, Complete: true}); err != nil {
						t.Fatal(err)
					}
				}
				l.tell(nil, seals)
				time.Sleep(2 * time.Second)
				got := l.level(drop)
				if frozen := got.GetQuarantined() == 20; frozen == sealed || sealed && got.GetFree() != 19 {
					t.Errorf("stock is %v", got)
				}
				old := n.joinRequest()
				old.Epoch = 1
				_, err := l.stock.JoinNode(t.Context(), old)
				if disk := rpcerr.Reason(err) == errorsv1.Reason_REASON_DISK_CHANGED; disk == sealed {
					t.Errorf("the older disk joins: %v", err)
				}
			})
		})
	}
}

// A node joined after the backup, was lent a unit, sold it, and lost its disk before the verifier heard of it. Its lost
// disk was heard of, by another node's list of keys in a restore that did not end, or by its own report: what it had is
// lent to nobody.
func TestWhatADiskHeldThatWasOnlyHeardOfIsFrozen(t *testing.T) {
	heard := map[string]func(l *life, db *sqldb.DB, here, lost *node) *life{
		"its key, in a restore before": inARestoreBefore,
		"its own report": func(l *life, _ *sqldb.DB, _, lost *node) *life {
			lost.life = l
			lost.report()
			return l
		},
	}
	for name, hear := range heard {
		t.Run(name, func(t *testing.T) {
			onBackups(t, func(t *testing.T, db *sqldb.DB, takeBackup func() reopen) {
				l := start(t, db, fulfillment.Config{}, nil)
				drop := l.createDrop(20).GetDrop().GetDropId()
				here := l.join()
				backup := takeBackup()
				lost := l.join()
				lost.grant(drop, 1)
				late := lost.take(drop)

				old := backup()
				l = l.restore(func() *sqldb.DB { return old }, fulfillment.Config{})
				here.life = l
				l = hear(l, old, here, lost)
				here.life = l
				again := lost.joinRequest()
				again.DiskId = "disk-" + newID()
				if _, err := l.stock.ReportHoldings(t.Context(), &fulfillmentv1.ReportHoldingsRequest{Node: again, Complete: true}); err != nil {
					t.Fatal(err)
				}
				here.report()
				l.tell(nil, nil)
				time.Sleep(2 * time.Second)
				if got := l.level(drop); got.GetQuarantined()+got.GetLeased() != 20 {
					t.Errorf("stock is %v", got)
				}
				l.settle(late)
			})
		})
	}
}

// inARestoreBefore goes on from a backup that was made in a restore in which here told the key of another node.
//
//rimlight:bubble its callers are bubbles
func inARestoreBefore(l *life, db *sqldb.DB, here, other *node) *life {
	who := here.joinRequest()
	who.Epoch = 1
	if _, err := l.stock.ReportHoldings(l.t.Context(), &fulfillmentv1.ReportHoldingsRequest{
		Node: who, Keys: []*offerv1.SigningKey{other.joinRequest().GetSigningKey()}, Complete: true,
	}); err != nil {
		l.t.Fatal(err)
	}
	time.Sleep(time.Second)
	return l.restore(func() *sqldb.DB { return db }, fulfillment.Config{})
}

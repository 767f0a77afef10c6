package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/sqldb"

	"google.golang.org/protobuf/proto"
)

// TestEscrowAgainstAnOracle drives the store with random calls, replays included, beside maps that say the same thing in
// the dumbest way: who holds each unit, what each request was answered, what each K ever had.
func TestEscrowAgainstAnOracle(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db, err := sqldb.OpenMemory(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		defer db.Close()
		if err := store.Migrate(t.Context(), db); err != nil {
			rt.Fatal(err)
		}
		w := &world{t: t, rt: rt, s: store.New(db),
			grants: map[store.ID]store.GrantRequest{}, answers: map[store.ID]store.Grant{}, leases: map[store.ID]*fulfillmentv1.Lease{},
			had: map[store.ID]store.Claim{}, released: map[store.Claim]bool{}, aside: map[store.ID]bool{}}
		for d := range w.units {
			create(t, w.s, id('d', d), unitsPerDrop, window(start, 90*time.Second))
		}
		for n := range nodes {
			w.join(n)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"grant": w.grant, "grant again": w.grantAgain, "return": w.giveBack, "settle": w.settle, "release": w.release,
			"lose a disk": w.loseDisk, "close": w.closeLease, "": w.check,
		})
	})
}

const (
	drops        = 2
	unitsPerDrop = 12
	nodes        = 3
)

type holder struct {
	lease, token store.ID // zero: none
}

type world struct {
	t  *testing.T
	rt *rapid.T
	s  *store.Store

	units    [drops][unitsPerDrop + 1]holder // by serial
	grants   map[store.ID]store.GrantRequest
	answers  map[store.ID]store.Grant
	leases   map[store.ID]*fulfillmentv1.Lease
	order    []store.ID // leases, oldest first
	had      map[store.ID]store.Claim
	released map[store.Claim]bool
	epochs   [nodes]int64
	aside    map[store.ID]bool // leases of lost disks
}

// join makes the node's next epoch, from a disk that was never seen.
func (w *world) join(n int) {
	node := id('n', n)
	w.epochs[n]++
	j, err := w.s.Join(w.t.Context(), store.Node{ID: node, DiskID: fmt.Sprint("disk-", w.epochs[n]), Region: "r",
		Key: &offerv1.SigningKey{KeyId: fmt.Appendf(nil, "key-%d-%d", n, w.epochs[n])}}, start)
	want := store.Joined{Epoch: w.epochs[n]}
	for lease, l := range w.leases {
		if l.GetNodeId() == node.String() && !w.aside[lease] && w.anyLeased(lease) {
			w.aside[lease] = true
			want.Quarantined++
		}
	}
	if err != nil || j != want {
		w.rt.Fatalf("node %d joined with %+v, %v, want %+v", n, j, err, want)
	}
}

// anyLeased tells whether a unit of the lease is neither free nor sold.
func (w *world) anyLeased(lease store.ID) bool {
	for d := range w.units {
		for _, u := range w.units[d] {
			if u.lease == lease && u.token == (store.ID{}) {
				return true
			}
		}
	}
	return false
}

func (w *world) closeLease(rt *rapid.T) {
	lease, ok := w.anyLease(rt)
	if !ok {
		rt.Skip("nothing granted yet")
	}
	got, err := w.s.CloseLease(w.t.Context(), lease, func(store.QuarantinedLease) error { return nil })
	if !w.aside[lease] {
		if !errors.As(err, new(*store.LeaseInUseError)) {
			rt.Fatalf("a lease in use was closed: %d, %v", got, err)
		}
		return
	}
	want := 0
	for d := range w.units {
		for serial := range w.units[d] {
			if u := &w.units[d][serial]; u.lease == lease && u.token == (store.ID{}) {
				*u = holder{}
				want++
			}
		}
	}
	if err != nil || got != want {
		rt.Fatalf("closing freed %d, %v, want %d", got, err, want)
	}
}

func (w *world) loseDisk(rt *rapid.T) {
	n := rapid.IntRange(0, nodes-1).Draw(rt, "node")
	before := fmt.Sprint("disk-", w.epochs[n])
	w.join(n)
	if _, err := w.s.Join(w.t.Context(), store.Node{ID: id('n', n), DiskID: before, Region: "r"}, start); !errors.As(err, new(*store.DiskChangedError)) {
		rt.Fatalf("the disk before: %v", err)
	}
}

func (w *world) grant(rt *rapid.T) {
	n := len(w.grants) + 1
	d := rapid.IntRange(0, drops-1).Draw(rt, "drop")
	node := rapid.IntRange(0, nodes-1).Draw(rt, "node")
	req := store.GrantRequest{RequestID: id('r', n), NodeID: id('n', node), DropID: id('d', d), Epoch: w.epochs[node],
		Wanted: rapid.IntRange(1, 4).Draw(rt, "wanted")}
	g, err := w.s.Grant(w.t.Context(), req, id('l', n), start)
	if err != nil {
		rt.Fatal(err)
	}
	var free, leased int
	for _, u := range w.units[d][1:] {
		switch {
		case u.lease == store.ID{}:
			free++
		case u.token == store.ID{}:
			leased++
		}
	}
	if (g.Lease != nil) != (free > 0) || g.SoldOut != (free+leased == 0) || len(g.Lease.GetSerials()) > req.Wanted {
		rt.Fatalf("with %d free and %d leased: %+v", free, leased, g)
	}
	for _, serial := range g.Lease.GetSerials() {
		if w.units[d][serial] != (holder{}) {
			rt.Fatalf("unit %d of drop %d was lent while %+v held it", serial, d, w.units[d][serial])
		}
		w.units[d][serial].lease = id('l', n)
	}
	w.grants[req.RequestID], w.answers[req.RequestID] = req, g
	if g.Lease != nil {
		w.leases[id('l', n)] = g.Lease
		w.order = append(w.order, id('l', n))
	}
}

func (w *world) grantAgain(rt *rapid.T) {
	if len(w.grants) == 0 {
		rt.Skip("nothing granted yet")
	}
	r := id('r', rapid.IntRange(1, len(w.grants)).Draw(rt, "request"))
	g, err := w.s.Grant(w.t.Context(), w.grants[r], id('x', int(r[15])), start)
	if w.grants[r].Epoch != w.epochs[w.grants[r].NodeID[15]] {
		if !errors.As(err, new(*store.EpochStaleError)) {
			rt.Fatalf("a grant under an old epoch was repeated: %+v, %v", g, err)
		}
		return
	}
	if want := w.answers[r]; err != nil || !proto.Equal(g.Lease, want.Lease) || g.SoldOut != want.SoldOut {
		rt.Fatalf("got %+v, %v, want %+v", g, err, want)
	}
}

func (w *world) giveBack(rt *rapid.T) {
	lease, ok := w.anyLease(rt)
	if !ok {
		rt.Skip("nothing granted yet")
	}
	serials := rapid.SliceOfN(rapid.Uint32Range(1, unitsPerDrop), 1, 4).Draw(rt, "serials")
	node, err := store.ParseID(w.leases[lease].GetNodeId())
	if err != nil {
		rt.Fatal(err)
	}
	epoch := w.epochs[node[15]]
	if w.leases[lease].GetEpoch() != epoch {
		for _, e := range []int64{epoch, w.leases[lease].GetEpoch()} {
			got, err := w.s.Return(w.t.Context(), store.Caller{NodeID: node, Epoch: e}, lease, serials, start)
			if !errors.As(err, new(*store.LeaseNotFoundError)) && !errors.As(err, new(*store.EpochStaleError)) {
				rt.Fatalf("units of a lost disk came back under epoch %d: %d, %v", e, got, err)
			}
		}
		return
	}
	got, err := w.s.Return(w.t.Context(), store.Caller{NodeID: node, Epoch: epoch}, lease, serials, start)
	want := 0
	for _, serial := range serials {
		if u := w.unit(w.dropOf(lease), serial); u.lease == lease && u.token == (store.ID{}) {
			*u = holder{}
			want++
		}
	}
	if err != nil || got != want {
		rt.Fatalf("got %d, %v, want %d", got, err, want)
	}
}

func (w *world) settle(rt *rapid.T) {
	claims, ok := w.claims(rt)
	if !ok {
		rt.Skip("nothing granted yet")
	}
	got, err := w.s.Settle(w.t.Context(), claims)
	var want []store.Verdict
	for _, c := range claims {
		want = append(want, w.verdict(c))
	}
	if err != nil || !slices.Equal(got, want) {
		rt.Fatalf("%v: got %v, %v, want %v", claims, got, err, want)
	}
}

// verdict is the dumb rule: K has one unit in its life, from whoever lent it, unless it was released before.
func (w *world) verdict(c store.Claim) store.Verdict {
	if had, ok := w.had[c.TokenID]; ok {
		if had == c && !w.released[c] {
			return store.Settled
		}
		return store.NotYours
	}
	u := w.unit(c.DropID, c.Serial)
	if u.lease != c.LeaseID || u.token != (store.ID{}) || w.released[c] {
		return store.NotYours
	}
	u.token, w.had[c.TokenID] = c.TokenID, c
	return store.Settled
}

func (w *world) release(rt *rapid.T) {
	claims, ok := w.claims(rt)
	if !ok {
		rt.Skip("nothing granted yet")
	}
	got, err := w.s.Release(w.t.Context(), claims, start)
	want := 0
	for _, c := range claims {
		u := w.unit(c.DropID, c.Serial)
		if !w.released[c] && u.lease == c.LeaseID && (u.token == c.TokenID || u.token == store.ID{}) {
			*u = holder{}
			want++
		}
		w.released[c] = true
	}
	if err != nil || got != want {
		rt.Fatalf("%v: got %d, %v, want %d", claims, got, err, want)
	}
}

// check compares every level: free + leased + quarantined + sold = units follows, since the oracle has one holder per unit.
func (w *world) check(rt *rapid.T) {
	for d := range w.units {
		want := store.Level{Units: unitsPerDrop}
		for _, u := range w.units[d][1:] {
			switch {
			case u.token != store.ID{}:
				want.Sold++
			case w.aside[u.lease]:
				want.Quarantined++
			case u.lease != store.ID{}:
				want.Leased++
			default:
				want.Free++
			}
		}
		if got := level(w.t, w.s, id('d', d)); got != want {
			rt.Fatalf("drop %d: got %+v, want %+v", d, got, want)
		}
	}
}

// claims are mostly plausible: a few K and serials of real leases, so that repeats, duplicates and thefts are common.
func (w *world) claims(rt *rapid.T) ([]store.Claim, bool) {
	var claims []store.Claim
	for range rapid.IntRange(1, 3).Draw(rt, "claims") {
		lease, ok := w.anyLease(rt)
		if !ok {
			return nil, false
		}
		c := store.Claim{TokenID: id('k', rapid.IntRange(1, 8).Draw(rt, "k")), DropID: w.dropOf(lease), LeaseID: lease,
			Serial: rapid.SampledFrom(w.leases[lease].GetSerials()).Draw(rt, "serial")}
		if rapid.IntRange(0, 9).Draw(rt, "wild") == 0 {
			c.Serial = rapid.Uint32Range(1, unitsPerDrop).Draw(rt, "any serial")
		}
		claims = append(claims, c)
	}
	return claims, true
}

func (w *world) anyLease(rt *rapid.T) (store.ID, bool) {
	if len(w.order) == 0 {
		return store.ID{}, false
	}
	return rapid.SampledFrom(w.order).Draw(rt, "lease"), true
}

func (w *world) dropOf(lease store.ID) store.ID {
	drop, err := store.ParseID(w.leases[lease].GetDropId())
	if err != nil {
		w.rt.Fatal(err)
	}
	return drop
}

func (w *world) unit(drop store.ID, serial uint32) *holder { return &w.units[drop[15]][serial] }

package lease_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/region/lease"
)

// event is what a journal would hold.
type event func(*lease.Book) error

// TestBook compares the book with a dumb oracle: one map from serial to what happened to it. Serials are unique over
// leases, as fulfillment guarantees. A restart replays the events into an empty book.
func TestBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const drops = 2
		var (
			book     lease.Book
			journal  []event
			fate     = map[string]string{} // "drop/serial" -> untouched, used, returning, gone
			owner    = map[string]string{} // "drop/serial" -> lease
			leases   = map[string]lease.Lease{}
			sold     = map[string]bool{}
			next     uint32
			epoch    int64 = 1
			dropName       = func() string { return fmt.Sprint("drop", rapid.IntRange(0, drops-1).Draw(t, "drop")) }
		)
		book.SetEpoch(epoch)
		log := func(e event) { journal = append(journal, e) }
		current := func(id string) bool { return leases[owner[id]].Epoch == epoch }
		count := func(drop, what string) (n int) {
			for id, f := range fate {
				if f == what && current(id) && leases[owner[id]].Drop == drop {
					n++
				}
			}
			return n
		}
		unit := func(l string, s uint32) string { return fmt.Sprintf("%s/%d", leases[l].Drop, s) }

		t.Repeat(map[string]func(*rapid.T){
			"adopt": func(t *rapid.T) {
				l := lease.Lease{ID: fmt.Sprint("lease", len(leases)), Drop: dropName(), Epoch: epoch}
				for range rapid.IntRange(1, 6).Draw(t, "units") {
					next += uint32(rapid.IntRange(1, 2).Draw(t, "step")) // runs and gaps
					l.Serials = append(l.Serials, next)
				}
				leases[l.ID] = l
				for _, s := range l.Serials {
					fate[unit(l.ID, s)], owner[unit(l.ID, s)] = "untouched", l.ID
				}
				if !book.Adopt(l) {
					t.Fatal("a new lease was not taken in")
				}
				log(func(b *lease.Book) error { b.Adopt(l); return nil })
			},
			"adopt again": func(t *rapid.T) {
				for _, l := range leases {
					if book.Adopt(l) {
						t.Fatal("a known lease was taken in again")
					}
				}
			},
			"take": func(t *rapid.T) {
				drop := dropName()
				u, ok := book.Take(drop)
				if want := count(drop, "untouched") > 0; ok != want {
					t.Fatalf("taking from %s: got %v, want %v", drop, ok, want)
				}
				if !ok {
					return
				}
				id := unit(u.Lease, u.Serial)
				if fate[id] != "untouched" || sold[id] || !current(id) {
					t.Fatalf("unit %s was handed out; it was %s", id, fate[id])
				}
				fate[id], sold[id] = "used", true
				log(func(b *lease.Book) error { return b.Use(u) })
			},
			"undo a take that was not journaled": func(t *rapid.T) {
				drop := dropName()
				u, ok := book.Take(drop)
				if ok != (count(drop, "untouched") > 0) {
					t.Fatalf("taking from %s: got %v", drop, ok)
				}
				if ok && fate[unit(u.Lease, u.Serial)] != "untouched" {
					t.Fatalf("unit %v was handed out; it was %s", u, fate[unit(u.Lease, u.Serial)])
				}
				book.Undo(u)
			},
			"return": func(t *rapid.T) {
				drop, units := dropName(), rapid.IntRange(0, 8).Draw(t, "units")
				want, got := min(units, count(drop, "untouched")), 0
				for _, r := range book.PlanReturn(drop, units) {
					for _, s := range r.Serials {
						if id := unit(r.Lease, s); fate[id] != "untouched" || !current(id) {
							t.Fatalf("unit %s goes back; it was %s", id, fate[id])
						}
						fate[unit(r.Lease, s)] = "returning"
						got++
					}
					log(func(b *lease.Book) error { return b.Return(r) })
				}
				if got != want {
					t.Fatalf("%d units go back, want %d", got, want)
				}
			},
			"acknowledge": func(t *rapid.T) {
				for _, r := range book.Returning() {
					book.Acknowledge(r)
					for _, s := range r.Serials {
						fate[unit(r.Lease, s)] = "gone"
					}
				}
			},
			"restart": func(t *rapid.T) {
				book = lease.Book{}
				for _, e := range journal {
					if err := e(&book); err != nil {
						t.Fatal(err)
					}
				}
				book.SetEpoch(epoch)
				for id, f := range fate { // acknowledgements are not journaled: those returns are sent again
					if f == "gone" {
						fate[id] = "returning"
					}
				}
			},
			"new epoch": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					epoch++
					book.SetEpoch(epoch)
				}
			},
			"": func(t *rapid.T) {
				for d := range drops {
					drop := fmt.Sprint("drop", d)
					if got, want := book.Untouched(drop), count(drop, "untouched"); got != want {
						t.Fatalf("%s: got %d untouched, want %d", drop, got, want)
					}
				}
				returning, want := 0, 0
				for _, r := range book.Returning() {
					returning += len(r.Serials)
				}
				for d := range drops {
					want += count(fmt.Sprint("drop", d), "returning")
				}
				if returning != want {
					t.Fatalf("got %d units on their way back, want %d", returning, want)
				}
				held := 0
				for _, l := range leases {
					if l.Epoch == epoch {
						held++
					}
				}
				if got := len(book.Held()); got != held {
					t.Fatalf("got %d leases held, want %d", got, held)
				}
			},
		})
	})
}

func TestUnknownUnits(t *testing.T) {
	var b lease.Book
	b.SetEpoch(1)
	b.Adopt(lease.Lease{ID: "l", Drop: "d", Epoch: 1, Serials: []uint32{1, 2}})
	for name, err := range map[string]error{
		"use of an unknown lease":     b.Use(lease.Unit{Lease: "x", Serial: 1}),
		"use of an unknown serial":    b.Use(lease.Unit{Lease: "l", Serial: 3}),
		"return of an unknown serial": b.Return(lease.Return{Lease: "l", Serials: []uint32{1, 3}}),
	} {
		if !errors.Is(err, lease.ErrUnknown) {
			t.Errorf("%s: got %v, want ErrUnknown", name, err)
		}
	}
	if got := b.Untouched("d"); got != 2 {
		t.Errorf("got %d untouched after refusals, want 2", got)
	}
}

func TestAdoptKeepsItsOwnSerials(t *testing.T) {
	var b lease.Book
	serials := []uint32{1, 2}
	b.Adopt(lease.Lease{ID: "l", Drop: "d", Serials: serials})
	slices.Reverse(serials)
	if u, ok := b.Take("d"); !ok || u.Serial != 1 {
		t.Errorf("got %v, %v, want the lowest serial of the lease as it was adopted", u, ok)
	}
	b.Forget("d")
	if len(b.Held()) != 0 || b.Untouched("d") != 0 {
		t.Error("a forgotten drop has leases")
	}
}

func TestHoldingsLackWhatWentBack(t *testing.T) {
	var b lease.Book
	b.SetEpoch(1)
	b.Adopt(lease.Lease{ID: "b", Drop: "d", Epoch: 1, Serials: []uint32{7, 9, 11}})
	b.Take("d")
	b.PlanReturn("d", 1)
	got := b.Holdings()
	if len(got) != 1 || len(got[0].GivenBack) != 1 || got[0].GivenBack[0] != 11 || len(got[0].Serials) != 3 {
		t.Errorf("got %+v; 7 is used, 9 untouched, 11 on its way back", got)
	}
}

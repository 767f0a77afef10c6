package region

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/rimlight/rimlight/region/shorthand"
)

// State is everything that a journal tells a node, as a text: two nodes of one journal have the same.
func (n *Node) State(ctx context.Context) (string, error) {
	t := n.till
	t.mu.Lock()
	ids := map[string]bool{}
	for id := range t.sales {
		ids[id] = true
	}
	for id := range t.past.index.all() {
		ids[shorthand.PurchaseID(id).String()] = true
	}
	t.mu.Unlock()
	var out strings.Builder
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		s, err := n.find(ctx, id)
		if err != nil {
			return "", err
		}
		receipt, err := n.readReceipt(ctx, s.sequence)
		if err != nil {
			return "", err
		}
		purchase := ""
		if !s.settled && s.purchase != nil {
			raw, err := prototext.MarshalOptions{}.Marshal(s.purchase)
			if err != nil {
				return "", err
			}
			purchase = strings.ReplaceAll(string(raw), " ", "") // prototext's spaces differ from run to run
		}
		fmt.Fprintln(&out, id, s.drop, s.session, s.unit, s.body, s.acceptTime, s.sequence, s.settled, purchase, receipt)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	bought := map[string]map[[16]byte]int{}
	for drop, sessions := range t.bought {
		for session, n := range sessions.all() {
			if bought[drop] == nil {
				bought[drop] = map[[16]byte]int{}
			}
			bought[drop][session] = int(n)
		}
	}
	fmt.Fprintln(&out, bought, t.epoch, t.book.Held(), t.book.Returning(), t.lastAccept, string(t.lastHash), t.lastSale, t.cursor, t.sealed, t.sealSequence)
	fmt.Fprintln(&out, len(t.unsent)+t.past.loadedBeyond(t.acked), n.life, n.superseded, n.Mode(), n.modeEnds.Load() != nil, n.offered, n.keys.Len())
	for _, d := range n.catalogue.Load().sorted() {
		fmt.Fprintln(&out, d.id, d.terms, n.catalogue.Load().revision)
	}
	for _, h := range t.book.Held() { // which units are next
		for range h.Untouched {
			u, ok := t.book.Take(h.Drop)
			defer t.book.Undo(u)
			fmt.Fprintln(&out, u, ok)
		}
	}
	return out.String(), nil
}

// all gives the keys that have a number.
func (t *table) all() iter.Seq2[[16]byte, uint32] {
	return func(yield func([16]byte, uint32) bool) {
		for _, s := range t.slots {
			if s.value != free && s.value != zeroed && !yield(s.key, s.value) {
				return
			}
		}
	}
}

// Table is a table by itself.
type Table struct{ table }

// NewTable makes one.
func NewTable() *Table { return &Table{newTable()} }

// Get is get.
func (t *Table) Get(key [16]byte) uint32 { return t.get(key) }

// Set is set.
func (t *Table) Set(key [16]byte, value uint32) { t.set(key, value) }

// Slots is how long its array is.
func (t *Table) Slots() int { return len(t.slots) }

// InMemory is how many sales the node holds whole, and how many in short.
func (n *Node) InMemory() (whole, short int) {
	n.till.mu.Lock()
	defer n.till.mu.Unlock()
	return len(n.till.sales), n.till.past.count
}

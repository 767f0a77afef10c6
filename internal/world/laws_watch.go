package world

import (
	"slices"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// streamsTellAll holds watch streams to their promise: everything in its order, once, over any break.
func streamsTellAll(e *Evidence, _ *index, broken func(string, ...any)) {
	truth := map[string][]Item{"purchases": e.PurchaseEvents, "orders": e.OrderEvents}
	for _, w := range e.Watched {
		if w.Backwards > 0 {
			broken("%d messages about %s did not advance their cursor", w.Backwards, w.Stream)
		}
		if w.Stream == "orders" && e.restored("fulfillment") || w.Stream == "purchases" && e.restored("verifier") {
			continue // what was told of what is lost was told
		}
		want := truth[w.Stream]
		for i := range min(len(want), len(w.Items)) {
			if w.Items[i] != want[i] {
				broken("of %s, message %d is about %s in state %d, and should be about %s in state %d",
					w.Stream, i+1, w.Items[i].ID, w.Items[i].State, want[i].ID, want[i].State)
				break
			}
		}
		if len(w.Items) != len(want) {
			broken("of %s, %d changes happened, and %d were told", w.Stream, len(want), len(w.Items))
		}
	}
	for _, b := range e.Boards {
		boardIsTrue(e, b, broken)
	}
	purchasesAreToldInOrder(e, broken)
}

// boardIsTrue holds streams to their promise that tell what is, and not all that was: nothing twice, nothing that was
// overtaken, and in the end the truth.
func boardIsTrue(e *Evidence, b Board, broken func(string, ...any)) {
	if b.Backwards+b.Repeats+b.Restarts > 0 {
		broken("what %s says of drops went back %d times, was said again %d times, and began anew %d times", b.Stream, b.Backwards, b.Repeats, b.Restarts)
	}
	if b.Missed > 0 {
		broken("%s went past %d changes of drops that it had not told", b.Stream, b.Missed)
	}
	for i, id := range e.DropIDs {
		switch {
		case b.Stream == "catalogue" && b.Drops[id] != e.Revisions[id]:
			broken("drop %d is at revision %d, and the catalogue's stream told %d", i, e.Revisions[id], b.Drops[id])
		case b.Stream != "catalogue" && !b.over(id):
			broken("drop %d is settled, and viewers of %s were told state %d", i, b.Stream, b.Drops[id])
		}
	}
}

// purchasesAreToldInOrder finds the states that each stream of WatchPurchase told in what happened, in this order. That a
// node accepted it is known to the node alone. What a restored verifier forgot happened before.
func purchasesAreToldInOrder(e *Evidence, broken func(string, ...any)) {
	happened := map[string][]int{}
	for _, i := range e.PurchaseEvents {
		happened[i.ID] = append(happened[i.ID], i.State)
	}
	for _, t := range e.Told {
		all, states := slices.Concat(append(e.lives(t.PurchaseID), happened[t.PurchaseID])...), t.States
		rest := all
		if states[0] == int(offerv1.PurchaseState_PURCHASE_STATE_ACCEPTED) {
			states = states[1:]
		}
		for _, state := range states {
			at := slices.Index(rest, state)
			if at < 0 {
				broken("purchase %s went through states %v, and %s told a viewer %v", t.PurchaseID, all, t.Region, t.States)
				break
			}
			rest = rest[at+1:]
		}
	}
}

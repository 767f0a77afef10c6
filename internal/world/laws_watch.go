package world

// streamsTellAll holds watch streams to their promise: everything in its order, once, over any break.
func streamsTellAll(e *Evidence, _ *index, broken func(string, ...any)) {
	truth := map[string][]Item{"purchases": e.PurchaseEvents, "orders": e.OrderEvents}
	for _, w := range e.Watched {
		if w.Backwards > 0 {
			broken("%d messages about %s did not advance their cursor", w.Backwards, w.Stream)
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
}

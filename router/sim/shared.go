package sim

// shared is what a central controller of a policy knows: one per run.
type shared struct {
	w *world
}

func newShared(w *world) *shared { return &shared{w: w} }

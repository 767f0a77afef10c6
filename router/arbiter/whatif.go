package arbiter

import "time"

// Change is what would be different about a region, all of its nodes.
type Change struct {
	Region       string
	Drained      bool
	Slower       time.Duration // each call takes so much longer in it
	WithoutStock bool          // of the drop in question
}

// With is the snapshot as it would be with the changes. The snapshot itself stays as it is.
func (s *Snapshot) With(drop string, changes ...Change) *Snapshot {
	changed := &Snapshot{Version: s.Version, Time: s.Time, Regions: make([]*Region, len(s.Regions))}
	for i, g := range s.Regions {
		row := *g
		for _, c := range changes {
			if c.Region != g.Name {
				continue
			}
			row.Service = clamp(row.Service + clamp(c.Slower))
			if c.Drained {
				row.Mode = Drained
			}
			if c.WithoutStock {
				row.Stock = map[string]Stock{drop: StockNone}
			}
		}
		changed.Regions[i] = &row
	}
	return changed
}

package sim

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed scenarios/*.json
var shipped embed.FS

// Scenario is one row of the suite: parts that are played apart and counted together.
type Scenario struct {
	ID    string `json:"id"`    // S1 to S10, S2-overload
	Title string `json:"title"` // for people
	// Overload says that there is more to do than all regions together can: it is reported apart.
	Overload bool   `json:"overload,omitempty"`
	Parts    []Part `json:"parts"`

	file string
	raw  []byte
}

// Part is one world with its events. Times count from the first call.
type Part struct {
	Name     string  `json:"name"`
	Regions  int     `json:"regions,omitempty"`   // how many serve; 0: 6. Fewer when the matrix has no more
	Routers  int     `json:"routers,omitempty"`   // 0: 24
	Load     float64 `json:"load"`                // calls per second over what all regions can do, outside of crowds
	PeakLoad float64 `json:"peak_load,omitempty"` // lowers Load until no moment is above; 0: does not
	Seconds  float64 `json:"seconds"`             // how long viewers call
	// Measure is from when calls count: before, the policies learn. 0: 2 s.
	Measure float64 `json:"measure_from,omitempty"`
	// Restricted is the share of the zone's own viewers who may be served inside of the zone only. The zone is the
	// busiest region and the one nearest to it.
	Restricted float64 `json:"restricted,omitempty"`
	Crowds     []Crowd `json:"crowds,omitempty"`
	Faults     []Fault `json:"faults,omitempty"`
}

// Crowd multiplies the calls of the viewers whose nearest region is the named one.
type Crowd struct {
	Region string  `json:"region"` // role or name; "all": everybody
	From   float64 `json:"from"`   // s
	To     float64 `json:"to"`     // s
	Factor float64 `json:"factor"`
}

// Fault is something that goes wrong from one time to another.
type Fault struct {
	Kind   string  `json:"kind"`
	Region string  `json:"region,omitempty"` // role or name
	From   float64 `json:"from"`             // s
	To     float64 `json:"to"`               // s
	// Routers says whose links are meant: "all" (the default), "half", or a role: those whose nearest region it is.
	Routers string  `json:"routers,omitempty"`
	Factor  float64 `json:"factor,omitempty"`   // of the service time
	Share   float64 `json:"share,omitempty"`    // of the calls or messages
	DelayMS float64 `json:"delay_ms,omitempty"` // on the round trip
	Period  float64 `json:"period,omitempty"`   // s: on for one, off for one
}

// The kinds of faults, with the fields that each needs.
var kinds = map[string]struct {
	region, factor, share, delay, period bool
}{
	"slow":          {region: true, factor: true},              // every service time times factor
	"gray":          {region: true, factor: true, share: true}, // that share's
	"loss_to":       {region: true, share: true},               // messages to the region
	"loss_from":     {region: true, share: true},               // answers of the region
	"errors":        {region: true, share: true},               // fails in 0.2 ms; probes do not
	"exhausted":     {region: true, share: true},               // sheds in 0.2 ms; probes do not
	"kill_reset":    {region: true},                            // connections are refused and cut
	"kill_hole":     {region: true},                            // nothing comes back
	"cut":           {region: true},                            // both ways between the routers and the region
	"cut_to":        {region: true},                            // requests only
	"cut_from":      {region: true},                            // answers only
	"delay":         {region: true, delay: true},
	"flap_delay":    {region: true, delay: true, period: true},
	"flap_cut":      {region: true, period: true},
	"drift":         {region: true, delay: true}, // grows from nothing
	"no_stock":      {region: true},              // answers that it has no unit
	"drain":         {region: true},              // announced; refuses 2 s later
	"absent":        {region: true},              // not built yet
	"router_start":  {},                          // the routers' processes are replaced at From
	"stale_started": {},                          // the same, with a table that knows wrong distances
}

// Roles name regions without knowing the matrix.
var roles = []string{"busiest", "second", "near_busiest", "pair_a", "pair_b", "farthest"}

// Scenarios are the shipped ones, S1 first.
func Scenarios() ([]*Scenario, error) {
	names, err := fs.Glob(shipped, "scenarios/*.json")
	if err != nil {
		return nil, fmt.Errorf("sim: listing the scenarios: %w", err)
	}
	var all []*Scenario
	for _, name := range names {
		f, err := shipped.Open(name)
		if err != nil {
			return nil, fmt.Errorf("sim: %w", err)
		}
		s, err := ParseScenario(path.Base(name), f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Scenario) int { return strings.Compare(order(a.ID), order(b.ID)) })
	return all, nil
}

// order sorts S2 before S10, and S2 before S2-overload.
func order(id string) string {
	number, rest, _ := strings.Cut(strings.TrimPrefix(id, "S"), "-")
	return fmt.Sprintf("%4s-%s", number, rest)
}

// ParseScenario reads a scenario file. Errors name the file and the line.
func ParseScenario(file string, r io.Reader) (*Scenario, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("sim: reading %s: %w", file, err)
	}
	s := &Scenario{file: file, raw: raw}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		at := d.InputOffset()
		var syntax *json.SyntaxError
		var typed *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			at = syntax.Offset
		case errors.As(err, &typed):
			at = typed.Offset
		default:
			if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
				return nil, s.problem(name, "%v", err)
			}
		}
		return nil, fmt.Errorf("sim: %s: line %d: %w", file, lineAt(raw, int(at)), err)
	}
	return s, s.validate()
}

func (s *Scenario) validate() error {
	var errs []error
	bad := func(token, format string, args ...any) { errs = append(errs, s.problem(token, format, args...)) }
	if s.ID == "" || len(s.Parts) == 0 {
		bad(`"id"`, "an id and at least one part are needed")
	}
	for _, p := range s.Parts {
		token := quoted(p.Name)
		if p.Name == "" || p.Seconds <= 0 || p.Seconds > 600 || p.Load <= 0 || p.Load > 10 || p.PeakLoad < 0 ||
			p.Regions < 0 || p.Regions > maxRegions || p.Routers < 0 || p.Routers > 1000 || p.Measure < 0 ||
			p.Measure >= p.Seconds || p.Restricted < 0 || p.Restricted > 1 {
			bad(token, "part %s: needs a name, seconds within 0 to 600, load within 0 to 10, at most %d regions and 1,000 "+
				"routers, measure_from within seconds, restricted within 0 to 1", token, maxRegions)
		}
		for _, c := range p.Crowds {
			if c.Region == "" || c.From < 0 || c.To <= c.From || c.Factor < 0 || c.Factor > 100 {
				bad(token, "part %s: a crowd needs a region, 0 <= from < to, factor within 0 to 100", token)
			}
		}
		for _, f := range p.Faults {
			needs, ok := kinds[f.Kind]
			switch {
			case !ok:
				bad(quoted(f.Kind), "part %s: unknown kind of fault %q", token, f.Kind)
			case f.From < 0 || f.To <= f.From:
				bad(quoted(f.Kind), "part %s: %s: 0 <= from < to is needed", token, f.Kind)
			case needs.region != (f.Region != "") || needs.factor != (f.Factor > 0) || needs.share != (f.Share > 0) ||
				f.Share > 1 || needs.delay != (f.DelayMS > 0) || f.DelayMS > 10_000 || needs.period != (f.Period > 0):
				bad(quoted(f.Kind), "part %s: %s: has not exactly the fields that it needs", token, f.Kind)
			}
		}
	}
	return errors.Join(errs...)
}

// problem is an error at the line where the token stands first.
func (s *Scenario) problem(token, format string, args ...any) error {
	return fmt.Errorf("sim: %s: line %d: %s", s.file, lineAt(s.raw, bytes.Index(s.raw, []byte(token))), fmt.Sprintf(format, args...))
}

func lineAt(raw []byte, offset int) int {
	return 1 + bytes.Count(raw[:min(max(offset, 0), len(raw))], []byte{'\n'})
}

func quoted(text string) string {
	q, err := json.Marshal(text)
	if err != nil {
		return text
	}
	return string(q)
}

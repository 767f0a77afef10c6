package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

// topRow is one region, its nodes taken together.
type topRow struct {
	name                string
	nodes, up, ejected  int
	suspect             int
	modes               []string // each once
	offers, share, late float64
	median, p99         time.Duration
	inFlight, workers   uint32
	units               uint32
	lag                 int64
	notes               string
}

func topRows(nodes []*routerv1.RegionStatus) []topRow {
	byName := map[string]*topRow{}
	var order []*topRow
	for _, n := range nodes {
		r := byName[n.GetName()]
		if r == nil {
			r = &topRow{name: n.GetName()}
			byName[r.name] = r
			order = append(order, r)
		}
		r.add(n)
	}
	rows := make([]topRow, len(order))
	for i, r := range order {
		rows[i] = *r
	}
	return rows
}

func (r *topRow) add(n *routerv1.RegionStatus) {
	r.nodes++
	if n.GetReachable() {
		r.up++
		r.offers += n.GetOffersPerSecond() // of a silent one it is old
	}
	if n.GetEjected() {
		r.ejected++
	}
	if n.GetSuspect() {
		r.suspect++
	}
	if mode := short(n.GetMode(), "REGION_MODE_"); !slices.Contains(r.modes, mode) {
		r.modes = append(r.modes, mode)
	}
	r.share += n.GetShare()
	r.late = max(r.late, n.GetLateShare()) // these three are the region's already, and each node's the same
	r.median, r.p99 = max(r.median, n.GetMedian().AsDuration()), max(r.p99, n.GetP99().AsDuration())
	r.inFlight, r.workers, r.lag = r.inFlight+n.GetInFlight(), r.workers+n.GetParallelism(), r.lag+n.GetJournalLag()
	for _, st := range n.GetStock() {
		r.units += st.GetUntouched()
	}
	if text := notes(n); r.notes == "" {
		r.notes = text
	}
}

// trouble is how badly a region needs somebody: what viewers feel before what operators did.
func (r topRow) trouble() int {
	switch {
	case r.up < r.nodes:
		return 4
	case r.ejected > 0:
		return 3
	case r.late > lateTrouble:
		return 2
	case r.suspect > 0, !slices.Equal(r.modes, []string{short(regionv1.RegionMode_REGION_MODE_SERVING, "REGION_MODE_")}):
		return 1
	}
	return 0
}

// lateTrouble is the share of late calls that makes a slip, where a router was not told otherwise.
const lateTrouble = 0.05

var topSorts = []struct {
	name    string
	compare func(a, b topRow) int
}{
	{"trouble", func(a, b topRow) int {
		return cmp.Or(cmp.Compare(b.trouble(), a.trouble()), cmp.Compare(b.offers, a.offers))
	}},
	{"offers", func(a, b topRow) int { return cmp.Compare(b.offers, a.offers) }},
	{"p99", func(a, b topRow) int { return cmp.Compare(b.p99, a.p99) }},
	{"lag", func(a, b topRow) int { return cmp.Compare(b.lag, a.lag) }},
	{"name", func(topRow, topRow) int { return 0 }},
}

func nextSort(name string) string {
	for i, s := range topSorts {
		if s.name == name {
			return topSorts[(i+1)%len(topSorts)].name
		}
	}
	return name
}

// topView is what the screen shows.
type topView struct {
	router  string
	rows    []topRow
	sort    string
	now     time.Time // zero: a snapshot, which has no keys
	heard   time.Time
	problem error // why nothing newer came
}

// line is one of the screen's, with its colour; the text has none, so that it can be cut.
type line struct {
	text  string
	style style
}

type style int

const (
	plain style = iota
	bold
	bad
	warn
)

// lines are the frame for a screen of so many columns and rows; 0: as many as it takes.
func (v topView) lines(width, height int) []line {
	rows := slices.Clone(v.rows)
	slices.SortFunc(rows, func(a, b topRow) int { return strings.Compare(a.name, b.name) })
	for _, s := range topSorts {
		if s.name == v.sort {
			slices.SortStableFunc(rows, s.compare)
		}
	}
	head := v.head()
	hidden := 0
	if room := height - len(head) - 1; height > 0 && room < len(rows) { // one is the columns' names
		room = max(0, room-1)
		hidden = len(rows) - room
		rows = rows[:room]
	}
	out := slices.Concat(head, table(rows))
	if hidden > 0 {
		out = append(out, line{fmt.Sprintf("... and %d more; s sorts them otherwise", hidden), plain})
	}
	if height > 0 {
		out = out[:min(height, len(out))]
	}
	for i := range out {
		out[i].text = fit(out[i].text, width)
	}
	return out
}

// fit cuts a line for a screen of so many columns; 0: not at all. What could steer the terminal does not pass: some of the
// text is a node's.
func fit(text string, width int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if width > 0 && utf8.RuneCountInString(text) > width {
		text = string([]rune(text)[:width])
	}
	return text
}

// head sums up.
func (v topView) head() []line {
	var offers float64
	troubled := 0
	for _, r := range v.rows {
		offers += r.offers
		if r.trouble() > 0 {
			troubled++
		}
	}
	text := fmt.Sprintf("%s: %d regions, %d in trouble, %.1f offers/s", v.router, len(v.rows), troubled, offers)
	if v.now.IsZero() {
		return []line{{text, bold}}
	}
	head := []line{{fmt.Sprintf("%s  %s  by %s (s)  q quits", v.now.Format("15:04:05"), text, v.sort), bold}}
	if v.problem != nil {
		head = append(head, line{fmt.Sprintf("The router has not answered for %v; what is below is old.", v.now.Sub(v.heard).Round(time.Second)), bad})
	}
	return head
}

// table is the columns' names and the rows.
func table(rows []topRow) []line {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row(w, "REGION", "UP", "MODE", "OFFERS/S", "SHARE", "LATE", "P50_MS", "P99_MS", "IN_FLIGHT", "EJECTED", "UNITS", "LAG", "NOTES")
	for _, r := range rows {
		row(w, r.name, of(r.up, r.nodes), strings.Join(r.modes, ","), strconv.FormatFloat(r.offers, 'f', 1, 64), percent(r.share), percent(r.late),
			milliseconds(r.median), milliseconds(r.p99), fmt.Sprintf("%d/%d", r.inFlight, r.workers), of(r.ejected, r.nodes), r.units, r.lag,
			strings.ReplaceAll(r.notes, "\n", " "))
	}
	_ = w.Flush() // to memory
	var out []line
	for i, text := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		l := line{strings.TrimRight(text, " "), bold}
		if i > 0 {
			l.style = [...]style{plain, warn, bad, bad, bad}[rows[i-1].trouble()]
		}
		out = append(out, l)
	}
	return out
}

// of is a count of a region's nodes; of one node there is yes or no.
func of(n, all int) string {
	if all == 1 {
		return map[bool]string{true: "yes", false: "no"}[n == 1]
	}
	return fmt.Sprintf("%d/%d", n, all)
}

func milliseconds(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000)
}

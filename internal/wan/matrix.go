// Package wan knows how far regions are from each other and makes connections that slow.
//
//	Matrix: measured round trips between regions      Dialer, NewConn: a net.Conn whose bytes arrive half a round
//	(embedded, or any CSV of the same header)          trip after they were written, in both directions
//
// Invariants. Bytes arrive in the order in which they were written, none is lost, and many are under way at once, as on
// a long fat pipe. What is under way is bounded: a writer that is too far ahead waits. Timers are package time's, so in a
// testing/synctest bubble a delay is exact.
//
// It does not model loss, bandwidth or jitter: those of TCP show as latency, which a caller can put into Path.RTT.
package wan

import (
	"bytes"
	_ "embed" // the matrix
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed gcp_rtt_ms.csv
var gcp []byte

// maxRTTMillis is more than any path on Earth has: a larger figure is in another unit.
const maxRTTMillis = 10_000

var header = []string{"provider", "snapshot", "from", "to", "min_ms", "avg_ms", "max_ms", "mdev_ms"}

// Matrix is the round-trip time of every ordered pair of regions. It is immutable.
type Matrix struct {
	names []string
	rtt   map[pair]time.Duration
}

type pair struct{ from, to string }

// Default is the embedded matrix: Google Cloud's regions in June 2020 (README.md tells its origin).
func Default() *Matrix { return parseDefault() }

var parseDefault = sync.OnceValue(func() *Matrix {
	m, err := Parse(bytes.NewReader(gcp))
	if err != nil {
		panic("wan: embedded matrix: " + err.Error()) // a test parses it
	}
	return m
})

// Parse reads a CSV with the header provider,snapshot,from,to,min_ms,avg_ms,max_ms,mdev_ms, in any order of columns. The
// average counts. Every pair of regions must be there once, in both directions and with itself; times are 0 to 10,000 ms.
// It reports every problem with its line.
func Parse(r io.Reader) (*Matrix, error) {
	rows := csv.NewReader(r)
	columns, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("wan: reading the header: %w", err)
	}
	column, err := columnIndex(columns)
	if err != nil {
		return nil, err
	}
	m := &Matrix{rtt: map[pair]time.Duration{}}
	lineOf := map[pair]int{}
	firstLine := map[string]int{}
	var problems []error
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("wan: %w", err) // names the line itself
		}
		line, _ := rows.FieldPos(0)
		p := pair{row[column["from"]], row[column["to"]]}
		if p.from == "" || p.to == "" {
			problems = append(problems, fmt.Errorf("wan: line %d: a region without a name", line))
			continue
		}
		if before, ok := lineOf[p]; ok {
			problems = append(problems, fmt.Errorf("wan: line %d: %s to %s is on line %d already", line, p.from, p.to, before))
			continue
		}
		lineOf[p] = line
		for _, name := range []string{p.from, p.to} {
			if _, ok := firstLine[name]; !ok {
				firstLine[name] = line
			}
		}
		for _, name := range header[4:] {
			ms, err := millis(row[column[name]])
			if err != nil {
				problems = append(problems, fmt.Errorf("wan: line %d: %s: %w", line, name, err))
			}
			if name == "avg_ms" {
				m.rtt[p] = time.Duration(math.Round(ms*1000)) * time.Microsecond
			}
		}
	}
	m.names = slices.Sorted(maps.Keys(firstLine))
	for _, from := range m.names {
		for _, to := range m.names {
			if _, ok := lineOf[pair{from, to}]; !ok {
				problems = append(problems, fmt.Errorf("wan: line %d: %s is named here, but the pair %s to %s is missing",
					max(firstLine[from], firstLine[to]), from, from, to))
			}
		}
	}
	if len(m.names) == 0 {
		problems = append(problems, errors.New("wan: line 1: no region follows the header"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return m, nil
}

func columnIndex(columns []string) (map[string]int, error) {
	index := map[string]int{}
	for i, name := range columns {
		name = strings.TrimSpace(name)
		if !slices.Contains(header, name) {
			return nil, fmt.Errorf("wan: line 1: unknown column %q", name)
		}
		if _, ok := index[name]; ok {
			return nil, fmt.Errorf("wan: line 1: column %q twice", name)
		}
		index[name] = i
	}
	for _, name := range header {
		if _, ok := index[name]; !ok {
			return nil, fmt.Errorf("wan: line 1: column %q is missing", name)
		}
	}
	return index, nil
}

func millis(text string) (float64, error) {
	ms, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no number", text)
	}
	if !(ms >= 0 && ms <= maxRTTMillis) { // also false for NaN
		return 0, fmt.Errorf("%v ms is not within 0 to %d ms", ms, maxRTTMillis)
	}
	return ms, nil
}

// Names are the regions, sorted. The slice is the caller's.
func (m *Matrix) Names() []string { return slices.Clone(m.names) }

// RTT is the average round trip from one region to another, which may differ from the way back; false when a name is
// unknown.
func (m *Matrix) RTT(from, to string) (time.Duration, bool) {
	d, ok := m.rtt[pair{from, to}]
	return d, ok
}

// Nearest is the region with the shortest round trip from another; the first in the order of names when several are.
// False when none of them, or from, is known.
func (m *Matrix) Nearest(from string, among []string) (string, bool) {
	var best string
	for _, name := range slices.Sorted(slices.Values(among)) {
		d, ok := m.RTT(from, name)
		if !ok {
			continue
		}
		if bestRTT, ok := m.RTT(from, best); !ok || d < bestRTT {
			best = name
		}
	}
	return best, best != ""
}

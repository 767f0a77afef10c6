// Package torture plays very many schedules of faults on internal/world, in processes that may die, and says what held.
//
//	tools/torture ── Run ──> Pool ──> world.test, one per core: an Order in, a Verdict out, as JSON lines
//	                          └──> a broken schedule ── Shrink ──> the faults that matter
//
// A bubble of virtual time needs a test's *testing.T, so the workers are the test binary of internal/world. One that
// panics, deadlocks or hangs is a violation of the seed that it played, and another one takes its place.
//
// It knows no laws and no faults: a schedule is a seed and the places of the faults to keep.
package torture

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Order is one schedule to play.
type Order struct {
	Seed uint64 `json:"seed"`
	// Aim is the mix to draw from; empty: every kind of fault.
	Aim string `json:"aim,omitempty"`
	// Transport carries the calls: InProcess or OverGRPC; empty: as the seed draws it.
	Transport string `json:"transport,omitempty"`
	// Keep has the places of the faults to play; nil: all of them.
	Keep *[]int `json:"keep,omitempty"`
	// Tell asks for the story and the schedule.
	Tell bool `json:"tell,omitempty"`
}

// What carries a schedule's calls.
const (
	InProcess = "in-process"
	OverGRPC  = "grpc"
)

// Verdict is what became of it.
type Verdict struct {
	Seed uint64 `json:"seed"`
	// Broken names the laws that did not hold; Detail says how, Story tells the whole when it was asked for.
	Broken   []string `json:"broken,omitempty"`
	Detail   string   `json:"detail,omitempty"`
	Story    string   `json:"story,omitempty"`
	Schedule []string `json:"schedule,omitempty"`
	// Size is how many faults the whole schedule has.
	Size int `json:"size"`
	// Accepts are redemptions that nodes accepted, Sold the units that were delivered. Wanted are the units that I14 is
	// about, SoldOfWanted those of them that were delivered.
	Accepts      int            `json:"accepts"`
	Sold         int            `json:"sold"`
	Wanted       int            `json:"wanted"`
	SoldOfWanted int            `json:"sold_of_wanted"`
	Faults       map[string]int `json:"faults"`
	// OverGRPC tells that grpc-go carried the calls.
	OverGRPC bool `json:"over_grpc,omitempty"`
	// VirtualSeconds is how long the world lived.
	VirtualSeconds float64 `json:"virtual_seconds"`
}

// Replay is the command that plays an order again.
func (o Order) Replay() string {
	s := fmt.Sprintf("make torture-replay SEED=%d", o.Seed)
	if o.Aim != "" {
		s += " AIM=" + o.Aim
	}
	if o.Transport != "" {
		s += " TRANSPORT=" + o.Transport
	}
	if o.Keep != nil {
		s += " KEEP=" + strings.Trim(strings.ReplaceAll(fmt.Sprint(*o.Keep), " ", ","), "[]")
	}
	return s
}

// Summary is the end of a run: one JSON line.
type Summary struct {
	Schedules  int `json:"schedules"`
	Violations int `json:"violations"`
	Accepts    int `json:"accepts"`
	Sold       int `json:"sold"`
	// SellThrough is the sold share of the units that I14 is about: willing buyers for three times the stock, and no worse
	// than partitions and dead nodes.
	SellThrough float64        `json:"sell_through"`
	Faults      map[string]int `json:"faults"`
	Seconds     float64        `json:"seconds"`
	// OverGRPC counts the schedules whose calls grpc-go carried.
	OverGRPC int `json:"over_grpc"`
	// PerCPUMinute is how many schedules a core plays in a minute.
	PerCPUMinute   float64 `json:"schedules_per_cpu_minute"`
	VirtualSeconds float64 `json:"virtual_seconds"`
	FirstSeed      uint64  `json:"first_seed"`

	wanted, soldOfWanted int
}

func (s *Summary) add(v Verdict) {
	s.Schedules++
	if len(v.Broken) > 0 {
		s.Violations++
	}
	s.Accepts += v.Accepts
	s.Sold += v.Sold
	s.wanted += v.Wanted
	s.soldOfWanted += v.SoldOfWanted
	for _, what := range slices.Sorted(maps.Keys(v.Faults)) {
		s.Faults[what] += v.Faults[what]
	}
	s.VirtualSeconds += v.VirtualSeconds
	if v.OverGRPC {
		s.OverGRPC++
	}
}

// Run plays the schedules of n seeds from first.Seed on, or as many as begin within a time if that is not zero. It hands
// each verdict to told as it comes, one at a time.
func Run(ctx context.Context, pool *Pool, within time.Duration, first Order, n int, told func(Verdict)) (Summary, error) {
	begin, cpu := time.Now(), pool.CPU()
	s := Summary{Faults: map[string]int{}, FirstSeed: first.Seed}
	orders := make(chan Order)
	go func() {
		defer close(orders)
		for i := 0; i < n && (within == 0 || time.Since(begin) < within); i++ {
			select {
			case orders <- Order{Seed: first.Seed + uint64(i), Aim: first.Aim, Transport: first.Transport}:
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex // guards s and told
	err := pool.Each(ctx, orders, func(v Verdict) {
		mu.Lock()
		defer mu.Unlock()
		s.add(v)
		told(v)
	})
	if s.wanted > 0 {
		s.SellThrough = float64(s.soldOfWanted) / float64(s.wanted)
	}
	s.Seconds = time.Since(begin).Seconds()
	if spent := (pool.CPU() - cpu).Minutes(); spent > 0 {
		s.PerCPUMinute = float64(s.Schedules) / spent
	}
	return s, err
}

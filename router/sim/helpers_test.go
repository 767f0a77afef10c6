package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/wan"
)

// line is a matrix of regions in a row, step ms from one to the next.
func line(t testing.TB, n int, step float64) *wan.Matrix {
	t.Helper()
	var b strings.Builder
	b.WriteString("provider,snapshot,from,to,min_ms,avg_ms,max_ms,mdev_ms\n")
	for i := range n {
		for j := range n {
			ms := step * float64(max(i-j, j-i))
			fmt.Fprintf(&b, "test,2026-01,r%d,r%d,%v,%v,%v,0\n", i, j, ms, ms, ms)
		}
	}
	m, err := wan.Parse(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// place builds a part over a line of two regions, 40 ms apart, unless the part says otherwise.
func place(t testing.TB, p Part) *world {
	t.Helper()
	if p.Name == "" {
		p.Name = "test"
	}
	n := max(p.Regions, 2)
	w, err := build(&Scenario{ID: "T", Parts: []Part{p}, file: "test.json"}, &p, Options{Matrix: line(t, n, 40)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// always sends everything to one region, with a retry wherever there is one left.
type always struct {
	base
	region int
}

func (p *always) Pick(_ time.Duration, a Ask) int {
	if a.Allowed.has(p.region) {
		return p.region
	}
	return -1
}

func fixed(region int) Spec {
	return Spec{"always", func(Env) Policy { return &always{region: region} }}
}

// env is a policy's surroundings for a worked example: as many regions as distances.
func env(rtt ...float64) Env {
	return Env{
		Regions: make([]string, len(rtt)), RTT: rtt, Rand: rand.New(rand.NewPCG(1, 2)),
		Probe: func(int) {}, Connects: func(time.Duration, int) bool { return true },
	}
}

func everyone(n int) Ask { return Ask{Allowed: bit(n) - 1} }

func scenarios(t testing.TB) []*Scenario {
	t.Helper()
	all, err := Scenarios()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

package main

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuantileIsASampleThatOnlyTheRestExceeds(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	for _, c := range []struct {
		name    string
		samples []int
		q       float64
		want    int
	}{
		{"the median of one is itself", []int{7}, 0.5, 7},
		{"the median of an even number is the lower", []int{4, 1, 3, 2}, 0.5, 2},
		{"the 99th of a hundred leaves one above", hundred, 0.99, 99},
		{"the 99.9th of a hundred is the highest", hundred, 0.999, 100},
		{"the lowest is the zeroth", hundred, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := quantile(c.samples, c.q); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestRatioComparesWithinARound(t *testing.T) {
	// The second round was disturbed, for both alike.
	if got := ratio([]float64{2, 200, 2}, []float64{1, 100, 1}); got != 2 {
		t.Errorf("got %v, want 2", got)
	}
}

// Of a thousand series of coin-like samples, the median of all that could be drawn is outside in fifty.
func TestAroundHoldsTheMedian(t *testing.T) {
	random, held := rand.New(rand.NewPCG(1, 2)), 0
	for range 1000 {
		samples := make([]float64, 60)
		for i := range samples {
			samples[i] = random.ExpFloat64()
		}
		if from, to := around(samples); from <= math.Ln2 && math.Ln2 <= to {
			held++
		}
	}
	if held < 930 || held > 985 {
		t.Errorf("the median was held %d times", held)
	}
	if from, to := around([]int{7}); from != 7 || to != 7 {
		t.Errorf("of one sample: %d to %d", from, to)
	}
}

// A stall of the server must show in every call that was due meanwhile, not only in the one that it caught.
func TestOpenLoopCountsFromTheIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalledUntil := time.Now().Add(500 * time.Millisecond)
		got, err := openLoop(t.Context(), 100, 100, func(context.Context, int) error {
			time.Sleep(time.Until(stalledUntil))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, latency := range got.latency {
			if want := max(0, 500*time.Millisecond-time.Duration(i)*10*time.Millisecond); latency != want {
				t.Fatalf("call %d: got %v, want %v", i, latency, want)
			}
		}
	})
}

func TestClosedLoopMakesEveryCallOnce(t *testing.T) {
	var calls [100]atomic.Int32
	if _, err := closedLoop(t.Context(), 7, len(calls), func(_ context.Context, i int) error { calls[i].Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("call %d was made %d times", i, n)
		}
	}
}

func TestLoopsEndWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	fail := func(context.Context, int) error { return broken }
	if _, err := closedLoop(t.Context(), 2, 100, fail); !errors.Is(err, broken) {
		t.Errorf("closed loop: got %v", err)
	}
	if _, err := openLoop(t.Context(), 1_000_000, 100, fail); !errors.Is(err, broken) {
		t.Errorf("open loop: got %v", err)
	}
}

func TestReplaceTouchesOneFigureOnly(t *testing.T) {
	const document = "before\n<!-- figure a -->\nold\n<!-- end of a -->\nbetween\n<!-- figure b -->\n<!-- end of b -->\nafter\n"
	got, err := replace([]byte(document), "a", "new\n")
	if want := strings.Replace(document, "old", "new", 1); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if again, err := replace(got, "a", "new\n"); err != nil || string(again) != string(got) {
		t.Errorf("a second time changed it: %q, %v", again, err)
	}
	for _, name := range []string{"c", "a -->\n<!-- figure"} {
		if _, err := replace([]byte(document), name, "new\n"); err == nil {
			t.Errorf("%q was found", name)
		}
	}
}

func TestEveryFigureHasItsPlace(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range figures {
		if _, err := replace(readme, f.name, ""); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
}

func TestChooseLeavesSlowFiguresOut(t *testing.T) {
	for _, c := range []struct {
		name    string
		options options
		want    int
	}{
		{"everything but the slow", options{}, len(figures) - 3},
		{"the slow too when asked", options{cold: true}, len(figures)},
		{"one by name", options{only: "redeem"}, 1},
		{"a slow one by name", options{only: "build"}, 1},
		{"none by a wrong name", options{only: "speed"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := choose(c.options)
			if len(got) != c.want || (err == nil) != (c.want > 0) {
				t.Errorf("got %d figures, %v, want %d", len(got), err, c.want)
			}
		})
	}
}

// This process can be read as well as any other.
func TestProcessIsReadFromProc(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs /proc: ", err)
	}
	spent, err := processTime(os.Getpid())
	if err != nil || spent < 0 {
		t.Errorf("got %v, %v", spent, err)
	}
	m, err := processMemory(os.Getpid())
	if err != nil || m.now <= 0 || m.peak < m.now {
		t.Errorf("got %+v, %v", m, err)
	}
}

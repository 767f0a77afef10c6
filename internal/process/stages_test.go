package process_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/internal/process"
)

// finishing is a stage that needs time to finish and writes down when it did.
func finishing(name string, takes time.Duration, order *[]string) process.Stage {
	return process.Stage{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		<-time.After(takes) // virtual time
		*order = append(*order, name)
		return nil
	}}
}

func TestStagesStopInOrderEachWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var order []string
		err := process.RunStages(ctx, finishing("intake", 3*time.Second, &order), finishing("work", time.Second, &order), finishing("store", 0, &order))
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"intake", "work", "store"}; !slices.Equal(order, want) {
			t.Errorf("stopped in order %v, want %v", order, want)
		}
	})
}

func TestAStageThatFailsStopsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		var order []string
		err := process.RunStages(t.Context(), finishing("intake", 0, &order),
			process.Stage{Name: "work", Run: func(context.Context) error { return boom }}, finishing("store", 0, &order))
		if !errors.Is(err, boom) || !strings.Contains(err.Error(), "work: boom") {
			t.Errorf("got %v, want the stage and its error", err)
		}
		if want := []string{"intake", "store"}; !slices.Equal(order, want) {
			t.Errorf("stopped %v, want %v", order, want)
		}
	})
}

func TestAStageThatEndsByItselfIsAnError(t *testing.T) {
	err := process.RunStages(t.Context(), process.Stage{Name: "loop", Run: func(context.Context) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "loop ended by itself") {
		t.Errorf("got %v", err)
	}
}

func TestTogetherStopsAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var a, b []string
		start := time.Now()
		err := process.Together("both", finishing("a", 3*time.Second, &a), finishing("b", 3*time.Second, &b)).Run(ctx)
		if took := time.Since(start); err != nil || took != 4*time.Second {
			t.Errorf("got %v after %v, want nil after 4s: side by side", err, took)
		}
	})
}

func TestTogetherFailsWithTheOneThatFailed(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		run  func(context.Context) error
		want string
	}{
		{func(context.Context) error { return boom }, "a: boom"},
		{func(context.Context) error { return nil }, "a ended by itself"},
	} {
		var order []string
		err := process.Together("both", process.Stage{Name: "a", Run: c.run}, finishing("b", 0, &order)).Run(t.Context())
		if err == nil || err.Error() != c.want || len(order) != 1 {
			t.Errorf("got %v and %v, want %q and the other stopped", err, order, c.want)
		}
	}
}

package world_test

import (
	"flag"
	"testing"
	"testing/synctest"

	"github.com/rimlight/rimlight/internal/world"
)

var (
	seedFlag  = flag.Uint64("world.seed", 0, "replay one seed; 0: a few fixed ones")
	seedsFlag = flag.Int("world.seeds", 3, "how many seeds the storm plays")
)

// play runs a scenario in a bubble of its own, and fails the test with what replays it where a law is broken.
func play(t *testing.T, cfg world.Config) *world.Report {
	t.Helper()
	r := observe(t, cfg)
	if len(r.Violations) > 0 {
		t.Fatalf("%vreplay: go test ./internal/world -run '^%s$' -world.seed=%d", r, t.Name(), r.Seed)
	}
	return r
}

// observe runs a scenario and leaves the judgement to the test.
func observe(t *testing.T, cfg world.Config) (r *world.Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = world.Run(t.Context(), cfg); err != nil {
			t.Fatalf("%v\nreplay: go test ./internal/world -run '^%s$' -world.seed=%d", err, t.Name(), cfg.Seed)
		}
	})
	return r
}

func seed(or uint64) uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return or
}

func TestSmallCalm(t *testing.T) {
	t.Log(play(t, world.Calm(seed(1)).Scaled(10)))
}

func TestSmallStorm(t *testing.T) {
	t.Log(play(t, world.Stormy(seed(1)).Scaled(10)))
}

func TestStorm(t *testing.T) {
	t.Log(play(t, world.Stormy(seed(1))))
}

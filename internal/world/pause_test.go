package world_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/world"
)

// A drop that the shop pauses is refused at every region within two seconds, by every node's own journal, and sells again
// when it goes on.
func TestAPausedDropSellsNothing(t *testing.T) {
	t.Parallel()
	cfg := shop(seed(21), 300, 200)
	cfg.Habits = []world.Weighted[world.Habit]{{Weight: 3, Value: world.Plain}, {Weight: 1, Value: world.Claims}, {Weight: 1, Value: world.DoubleTaps}}
	// Not at a multiple of ten seconds, when watch streams read the catalogue anyway.
	cfg.Schedule = []world.Fault{{Kind: world.Paused, At: 43 * time.Second, For: 30 * time.Second}}
	r := play(t, cfg)
	if r.Refusals["RequestOffer REASON_DROP_NOT_OPEN"] == 0 || r.Refusals["RedeemOffer REASON_DROP_NOT_OPEN"] == 0 || r.Refusals["ClaimOffer REASON_DROP_NOT_OPEN"] == 0 {
		t.Errorf("nobody met the pause: %v", r.Refusals)
	}
}

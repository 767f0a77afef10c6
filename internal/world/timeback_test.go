package world_test

import (
	"testing"

	"github.com/rimlight/rimlight/internal/world"
)

// Answers are late, and what that cost a drop's viewers is given back while nodes and the centre lose each other.
func TestTimeIsGivenBack(t *testing.T) {
	t.Parallel()
	n := uint64(3)
	if testing.Short() {
		n = 1
	}
	sold := 0
	for s := uint64(1); s <= n; s++ {
		sold += play(t, world.Torture(s, world.AimLateAnswers)).ExtraTime
	}
	if sold == 0 {
		t.Error("nothing was sold in time given back")
	}
}

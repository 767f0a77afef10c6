package world_test

import (
	"fmt"
	"testing"

	"github.com/rimlight/rimlight/internal/world"
)

// Schedules over internal/rpc, grpc-go and simulated TCP; tools/torture plays more of them.
func TestOverGRPC(t *testing.T) {
	t.Parallel()
	first, n := uint64(1), uint64(3)
	if raceEnabled {
		n = 1
	}
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for s := first; s < first+n; s++ {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			t.Parallel()
			cfg := world.Torture(s, world.AnyAim)
			cfg.OverGRPC = true
			play(t, cfg)
		})
	}
}

func TestOneScheduleInFiftyIsOverGRPC(t *testing.T) {
	over := 0
	for s := range uint64(1000) {
		if world.Torture(s+1, world.AnyAim).OverGRPC {
			over++
		}
	}
	if over < 12 || over > 30 {
		t.Errorf("%d of 1,000 schedules are over grpc-go, want about 20", over)
	}
}

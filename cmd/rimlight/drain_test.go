package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

// draining is a region's node with so much left in it.
func draining(node string, calls uint32, units uint32, lag int64) *routerv1.RegionStatus {
	return &routerv1.RegionStatus{
		Name: "moon", NodeId: node, Mode: regionv1.RegionMode_REGION_MODE_DRAINED, Reachable: true, InFlight: calls, JournalLag: lag,
		Stock: []*regionv1.DropStock{{Untouched: units}}, Drained: calls == 0 && units == 0 && lag == 0,
	}
}

func TestDrainWaitsUntilNothingIsLeft(t *testing.T) {
	f := startFakeAdmin(t)
	f.set(func() {
		f.mode = &routerv1.SetRegionModeResponse{Regions: []*routerv1.RegionStatus{draining("a", 3, 5, 7), draining("b", 0, 0, 0)}}
	})
	other := &routerv1.RegionStatus{Name: "earth", InFlight: 9, Reachable: true}
	unknown := draining("a", 0, 0, 0)
	unknown.Drained = false // the router was told of the drain, and has not heard from the node since
	watched := func(nodes ...*routerv1.RegionStatus) {
		f.set(func() { f.watch = append(f.watch, &routerv1.WatchRegionsResponse{Regions: append(nodes, other)}) })
	}
	watched(unknown, draining("b", 0, 0, 0))
	code, out, errOut := f.verb(t, "drain", "moon", "--wait", "--within", "100ms")
	if code != exitUnreachable || !strings.Contains(errOut, "not in time: moon is drained, and after 100ms") || !strings.Contains(errOut, "0 calls, 0 units, 0 redemptions") {
		t.Errorf("with a node that has not said so: exit %d, %q", code, errOut)
	}
	if !strings.Contains(out, "moon    a") {
		t.Errorf("it printed %q", out)
	}

	watched(draining("a", 3, 5, 7), draining("b", 0, 0, 0))
	watched(draining("a", 0, 0, 0), draining("b", 0, 0, 0))
	code, out, errOut = f.verb(t, "drain", "moon", "--wait", "--reason", "test", "-o", "json")
	var got struct {
		Regions []struct {
			Name, NodeID, JournalLag string
			Drained                  bool
		}
	}
	if err := json.Unmarshal([]byte(out), &got); code != exitDone || err != nil || len(got.Regions) != 2 || !got.Regions[0].Drained || got.Regions[0].JournalLag != "0" {
		t.Errorf("exit %d, %v, %s%s", code, err, out, errOut)
	}
	if errOut != "" {
		t.Errorf("a pipe heard %q", errOut)
	}
	if code, out, errOut = f.verb(t, "drain", "moon", "--wait"); code != exitDone {
		t.Errorf("exit %d, %s", code, errOut)
	}
	golden(t, "drain", out)
	f.set(func() {
		for _, q := range f.asked {
			if q.GetMode() != regionv1.RegionMode_REGION_MODE_DRAINED || q.GetRegion() != "moon" || q.GetDryRun() {
				t.Errorf("it asked for %v", q)
			}
		}
	})
}

func TestWhatIsLeftInARegion(t *testing.T) {
	silent, undone := draining("b", 0, 0, 0), draining("a", 0, 0, 0)
	silent.Reachable, silent.Drained = false, false
	undone.Mode, undone.Drained = regionv1.RegionMode_REGION_MODE_SERVING, false
	gone := draining("a", 0, 0, 0)
	gone.Reachable = false // somebody turned it off already
	for _, tt := range []struct {
		name  string
		nodes []*routerv1.RegionStatus
		want  string
	}{
		{"of its nodes together", []*routerv1.RegionStatus{draining("a", 1, 2, 3), draining("b", 10, 20, 30)}, "11 calls, 22 units, 33 redemptions to forward"},
		{"a silent node is named", []*routerv1.RegionStatus{draining("a", 0, 0, 0), silent}, "0 calls, 0 units, 0 redemptions to forward; node b does not answer"},
		{"another mode is told", []*routerv1.RegionStatus{undone}, "0 calls, 0 units, 0 redemptions to forward; somebody set it to serving"},
		{"nothing", []*routerv1.RegionStatus{draining("a", 0, 0, 0)}, ""},
		{"nothing, and it was turned off since", []*routerv1.RegionStatus{gone}, ""},
		{"no node is known", nil, "0 calls, 0 units, 0 redemptions to forward"},
	} {
		if got := leftIn(tt.nodes); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTimesThatAreOver(t *testing.T) {
	for args, says := range map[string]string{
		"drain moon --for=-5s": "--for -5s", "cordon moon --for=-5s": "--for -5s", "undrain moon --for=-5s": "--for -5s", "drain moon --wait --within=0s": "--within",
	} {
		if code, _, errOut := exec(t, strings.Fields(args)...); code != exitUsage || !strings.Contains(errOut, says) {
			t.Errorf("%s: exit %d, %q", args, code, errOut)
		}
	}
}

func TestDrainsFlagsContradict(t *testing.T) {
	for _, args := range [][]string{{"--wait", "--dry-run"}, {"--wait", "--for", (4 * time.Minute).String()}} {
		if code, _, errOut := exec(t, append([]string{"drain", "moon"}, args...)...); code != exitUsage || !strings.Contains(errOut, args[1]) {
			t.Errorf("%v: exit %d, %q", args, code, errOut)
		}
	}
}

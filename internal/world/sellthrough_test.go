package world_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/world"
)

var tableFlag = flag.Uint64("world.sellthrough", 0, "from how many seeds TestSellThroughTable makes its table; 0: none")

// deadFor is most of the drop, which opens after 15 s and lasts for 120.
const deadFor = 90 * time.Second

// TestSellThroughTable writes the figures of docs/testing.md: make sell-through.
func TestSellThroughTable(t *testing.T) {
	if *tableFlag == 0 {
		t.Skip("makes a table; run with -world.sellthrough=20")
	}
	regions := []string{"europe-west3", "us-central1"} // of four
	cutOff := func(nodes []string) (all []world.Fault) {
		for _, node := range nodes {
			for _, centre := range []string{"verifier", "fulfillment"} {
				for _, way := range [][2]string{{node, centre}, {centre, node}} {
					all = append(all, world.Fault{Kind: world.Cut, Host: way[0], To: way[1], At: 30 * time.Second, For: deadFor})
				}
			}
		}
		return all
	}
	situations := []struct {
		name   string
		faults []world.Fault
	}{
		{"healthy", nil},
		{"one node of four cut off from the centre for 90 s", cutOff(regions[:1])},
		{"two nodes of four cut off for 90 s", cutOff(regions)},
		{"one node of four dead for 90 s", []world.Fault{{Kind: world.Crash, Host: regions[0], At: 30 * time.Second, For: deadFor}}},
		{"one node of four dead until the drop is over", []world.Fault{{Kind: world.Crash, Host: regions[0], At: 30 * time.Second, For: 200 * time.Second}}},
		{"the verifier dead for 90 s", []world.Fault{{Kind: world.Crash, Host: "verifier", At: 30 * time.Second, For: deadFor}}},
		{"fulfillment dead for 90 s", []world.Fault{{Kind: world.Crash, Host: "fulfillment", At: 30 * time.Second, For: deadFor}}},
	}
	var table strings.Builder
	table.WriteString("| situation | willing buyers to a unit | sold, median | lowest |\n|---|---:|---:|---:|\n")
	for _, s := range situations {
		for _, viewers := range []int{1300, 850} {
			var mu sync.Mutex // guards shares and demand
			var shares, demand []float64
			t.Run(fmt.Sprintf("%s/%d", s.name, viewers), func(t *testing.T) {
				for n := range *tableFlag {
					t.Run(fmt.Sprint(n+1), func(t *testing.T) {
						t.Parallel()
						cfg := shop(seed(n+1), 200, viewers)
						cfg.Schedule = s.faults
						d := play(t, cfg).Drops[0]
						mu.Lock()
						defer mu.Unlock()
						shares, demand = append(shares, d.SellThrough()), append(demand, float64(d.Willing)/float64(d.Units))
					})
				}
			})
			if len(shares) == 0 {
				t.Fatal("nothing was played")
			}
			slices.Sort(shares)
			slices.Sort(demand)
			fmt.Fprintf(&table, "| %s | %.1f | %.1f %% | %.1f %% |\n", s.name, demand[len(demand)/2], 100*shares[len(shares)/2], 100*shares[0])
		}
	}
	t.Logf("%d seeds each:\n\n%s", *tableFlag, &table)
}

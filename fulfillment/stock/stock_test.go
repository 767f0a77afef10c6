package stock_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/stock"
)

func TestSize(t *testing.T) {
	for name, c := range map[string]struct{ free, wanted, nodes, want int }{
		"an eighth of a fair share":                              {free: 320, wanted: 100, nodes: 4, want: 10},
		"never more than wanted":                                 {free: 320, wanted: 3, nodes: 4, want: 3},
		"at least one while anything is free":                    {free: 9, wanted: 100, nodes: 4, want: 1},
		"single units below two per node":                        {free: 7, wanted: 100, nodes: 4, want: 1},
		"the last unit is lent":                                  {free: 1, wanted: 100, nodes: 4, want: 1},
		"nothing free lends nothing":                             {free: 0, wanted: 100, nodes: 4, want: 0},
		"nothing wanted lends nothing":                           {free: 10, wanted: 0, nodes: 4, want: 0},
		"one node alone gets an eighth":                          {free: 800, wanted: 1000, nodes: 1, want: 100},
		"no node known counts as one":                            {free: 800, wanted: 1000, nodes: 0, want: 100},
		"twenty units for four nodes go out one by one at first": {free: 20, wanted: 20, nodes: 4, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := stock.Size(c.free, c.wanted, c.nodes); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestSizeLendsEverythingInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		free := rapid.IntRange(0, 20_000).Draw(t, "free")
		nodes := rapid.IntRange(1, 40).Draw(t, "nodes")
		wanted := rapid.IntRange(1, 10_000).Draw(t, "wanted")
		if got, want := stock.Size(min(free, stock.Enough(wanted, nodes)), wanted, nodes), stock.Size(free, wanted, nodes); got != want {
			t.Fatalf("with %d counted only as far as enough: lent %d, want %d", free, got, want)
		}
		for free > 0 {
			n := stock.Size(free, wanted, nodes)
			if n < 1 || n > free || n > wanted {
				t.Fatalf("lent %d of %d free, wanted %d", n, free, wanted)
			}
			if n > 1 && n*8*nodes > free {
				t.Fatalf("lent %d of %d free to one of %d nodes", n, free, nodes)
			}
			free -= n
		}
	})
}

func TestRecall(t *testing.T) {
	const rich, poor, other = "a-rich", "b-poor", "c-other"
	for name, c := range map[string]struct {
		reports []stock.Report
		asker   string
		want    int
	}{
		"the richest gives half": {
			[]stock.Report{{rich, 10, false, true}, {other, 4, false, true}, {poor, 0, true, false}}, rich, 5},
		"the others are left alone": {
			[]stock.Report{{rich, 10, false, true}, {other, 4, false, true}, {poor, 0, true, false}}, other, 0},
		"nobody starves, nobody gives": {
			[]stock.Report{{rich, 10, false, true}, {poor, 1, true, false}}, rich, 0},
		"an empty node that would not sell does not starve": {
			[]stock.Report{{rich, 10, false, true}, {poor, 0, false, true}}, rich, 0},
		"an idle node gives its last unit": {
			[]stock.Report{{rich, 1, false, true}, {poor, 0, true, false}}, rich, 1},
		"a node that sells keeps its last unit": {
			[]stock.Report{{rich, 1, false, false}, {poor, 0, true, false}}, rich, 0},
		"a node that sells gives the second": {
			[]stock.Report{{rich, 2, false, false}, {poor, 0, true, false}}, rich, 1},
		"of equals the first by id is asked": {
			[]stock.Report{{other, 4, false, true}, {rich, 4, false, true}, {poor, 0, true, false}}, rich, 2},
		"of equals only one is asked": {
			[]stock.Report{{other, 4, false, true}, {rich, 4, false, true}, {poor, 0, true, false}}, other, 0},
		"the starving give nothing": {
			[]stock.Report{{poor, 0, true, false}, {other, 0, true, false}}, poor, 0},
		"a node that reported nothing gives nothing": {nil, rich, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := stock.Recall(c.asker, c.reports); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// A little world: nodes report, give what they are asked for, and the poorest of the hungry take it. However the stock
// lay, the world comes to rest, and then nobody starves beside a node that could spare a unit.
func TestRecallFeedsTheStarvingAndComesToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "nodes")
		reports := make([]stock.Report, n)
		for i := range reports {
			reports[i] = stock.Report{NodeID: fmt.Sprint(i), Untouched: rapid.IntRange(0, 50).Draw(t, "untouched"), Hungry: rapid.Bool().Draw(t, "hungry")}
			reports[i].Idle = !reports[i].Hungry
		}
		for round := 0; ; round++ {
			if round > 200 {
				t.Fatalf("still moving after %d rounds: %+v", round, reports)
			}
			free := 0
			for i := range reports { // one heartbeat of each
				give := stock.Recall(reports[i].NodeID, reports)
				if give < 0 || give > reports[i].Untouched {
					t.Fatalf("asked %d of %+v", give, reports[i])
				}
				reports[i].Untouched -= give
				if free += give; give > 0 {
					break // something is free now: nobody else is asked
				}
			}
			if free == 0 {
				break
			}
			for ; free > 0; free-- { // the poorest of the hungry take one each
				poorest := -1
				for i := range reports {
					if reports[i].Hungry && (poorest < 0 || reports[i].Untouched < reports[poorest].Untouched) {
						poorest = i
					}
				}
				reports[poorest].Untouched++
			}
		}
		for _, poor := range reports {
			for _, rich := range reports {
				spare := rich.Untouched
				if !rich.Idle {
					spare--
				}
				if poor.Hungry && poor.Untouched == 0 && spare > 0 {
					t.Fatalf("%+v starves beside %+v", poor, rich)
				}
			}
		}
	})
}

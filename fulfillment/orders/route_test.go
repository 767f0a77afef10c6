package orders_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/orders"
)

func TestRoute(t *testing.T) {
	noon, keys := start.Add(12*time.Hour), []string{"k1", "k2"}
	node := func(id string, change func(*orders.Node)) orders.Node {
		n := orders.Node{ID: id, SKUs: []string{"poster"}, Keys: keys[1:], MaxParallel: 4}
		if change != nil {
			change(&n)
		}
		return n
	}
	for name, c := range map[string]struct {
		wish  orders.Wish
		nodes []orders.Node
		want  string
	}{
		"nobody can":                  {orders.Wish{Recipients: keys, SKU: "poster"}, nil, ""},
		"another good":                {orders.Wish{SKU: "mug"}, []orders.Node{node("a", nil)}, ""},
		"a zone is a name":            {orders.Wish{Recipients: keys, SKU: "poster", Region: "us-east1"}, []orders.Node{node("a", func(n *orders.Node) { n.Zones = []string{"us-east1"} })}, "a"},
		"a zone is a first part":      {orders.Wish{Recipients: keys, SKU: "poster", Region: "us-east1"}, []orders.Node{node("a", func(n *orders.Node) { n.Zones = []string{"us"} })}, "a"},
		"a zone is no half of a part": {orders.Wish{Recipients: keys, SKU: "poster", Region: "us-east1"}, []orders.Node{node("a", func(n *orders.Node) { n.Zones = []string{"us-ea"} })}, ""},
		"another zone":                {orders.Wish{Recipients: keys, SKU: "poster", Region: "us-east1"}, []orders.Node{node("a", func(n *orders.Node) { n.Zones = []string{"europe"} })}, ""},
		"open now":                    {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("a", func(n *orders.Node) { n.Hours = []orders.Hours{{From: 12 * 60, To: 12*60 + 1}} })}, "a"},
		"the end is not included":     {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("a", func(n *orders.Node) { n.Hours = []orders.Hours{{From: 0, To: 12 * 60}} })}, ""},
		"over midnight":               {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("a", func(n *orders.Node) { n.Hours = []orders.Hours{{From: 22 * 60, To: 13 * 60}} })}, "a"},
		"no hand is free":             {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("a", func(n *orders.Node) { n.Open = 4 })}, ""},
		"the hour is used up":         {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("a", func(n *orders.Node) { n.MaxPerHour, n.LastHour = 7, 7 })}, ""},
		"the smaller share":           {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("a", func(n *orders.Node) { n.Open = 2 }), node("b", func(n *orders.Node) { n.Open, n.MaxParallel = 3, 10 })}, "b"},
		"of equals the first":         {orders.Wish{Recipients: keys, SKU: "poster"}, []orders.Node{node("b", nil), node("a", nil)}, "a"},
		"who refused comes last":      {orders.Wish{Recipients: keys, SKU: "poster", Refused: []string{"a"}}, []orders.Node{node("a", nil), node("b", func(n *orders.Node) { n.Open = 3 })}, "b"},
		"sealed to others":            {orders.Wish{SKU: "poster", Recipients: keys[:1]}, []orders.Node{node("a", nil)}, ""},
		"sealed to nobody":            {orders.Wish{SKU: "poster"}, []orders.Node{node("a", nil)}, ""},
		"and is asked again":          {orders.Wish{Recipients: keys, SKU: "poster", Refused: []string{"a"}}, []orders.Node{node("a", nil), node("b", func(n *orders.Node) { n.Open = 4 })}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := orders.Route(c.wish, c.nodes, noon); got != c.want || ok != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, ok, c.want)
			}
		})
	}
}

// The oracle sorts everybody by every rule in words, and takes the first who can.
func TestRouteIsWhatTheOracleSays(t *testing.T) {
	regions := []string{"europe-west3", "europe-west1", "us-east1", "europe"}
	rapid.Check(t, func(t *rapid.T) {
		var nodes []orders.Node
		for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
			n := orders.Node{
				ID: fmt.Sprintf("n%d", i), SKUs: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 2).Draw(t, "skus"),
				Zones:       rapid.SliceOfN(rapid.SampledFrom(append(regions, "us", "eu")), 0, 2).Draw(t, "zones"),
				Keys:        rapid.SliceOfN(rapid.SampledFrom([]string{"k1", "k2", "k3"}), 1, 2).Draw(t, "keys"),
				MaxParallel: rapid.IntRange(1, 4).Draw(t, "parallel"), MaxPerHour: rapid.IntRange(0, 3).Draw(t, "hourly"),
				Open: rapid.IntRange(0, 4).Draw(t, "open"), LastHour: rapid.IntRange(0, 4).Draw(t, "hour"),
			}
			for range rapid.IntRange(0, 2).Draw(t, "hours") {
				n.Hours = append(n.Hours, orders.Hours{From: rapid.IntRange(0, 1439).Draw(t, "from"), To: rapid.IntRange(0, 1440).Draw(t, "to")})
			}
			nodes = append(nodes, n)
		}
		w := orders.Wish{
			Region: rapid.SampledFrom(regions).Draw(t, "region"), SKU: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "sku"),
			Recipients: rapid.SliceOfN(rapid.SampledFrom([]string{"k1", "k2", "k3"}), 0, 3).Draw(t, "recipients"),
		}
		for _, n := range nodes {
			if rapid.Bool().Draw(t, "refused") {
				w.Refused = append(w.Refused, n.ID)
			}
		}
		now := start.Add(time.Duration(rapid.IntRange(0, 1439).Draw(t, "minute")) * time.Minute)
		want := oracle(w, nodes, now)
		got, ok := orders.Route(w, nodes, now)
		if got != want || ok != (want != "") {
			t.Fatalf("got %q, %v, want %q", got, ok, want)
		}
	})
}

func oracle(w orders.Wish, nodes []orders.Node, now time.Time) string {
	type entry struct {
		refused bool
		share   float64
		id      string
	}
	var able []entry
	for _, n := range nodes {
		zone := len(n.Zones) == 0
		for _, z := range n.Zones {
			zone = zone || strings.HasPrefix(w.Region+"-", z+"-")
		}
		awake := len(n.Hours) == 0
		for _, h := range n.Hours {
			length := h.To - h.From
			if length < 0 {
				length += 24 * 60
			}
			for m := range length {
				awake = awake || (h.From+m)%(24*60) == now.Hour()*60+now.Minute()
			}
		}
		opens := false
		for _, k := range n.Keys {
			opens = opens || strings.Contains(strings.Join(w.Recipients, " "), k)
		}
		if opens && zone && awake && slices.Contains(n.SKUs, w.SKU) && n.Open < n.MaxParallel && (n.MaxPerHour == 0 || n.LastHour < n.MaxPerHour) {
			able = append(able, entry{slices.Contains(w.Refused, n.ID), float64(n.Open) / float64(n.MaxParallel), n.ID})
		}
	}
	best := ""
	for _, refused := range []bool{true, false} { // the better kind last
		var kind []entry
		for _, e := range able {
			if e.refused == refused {
				kind = append(kind, e)
			}
		}
		slices.SortStableFunc(kind, func(a, b entry) int {
			if a.share != b.share {
				if a.share < b.share {
					return -1
				}
				return 1
			}
			return strings.Compare(a.id, b.id)
		})
		if len(kind) > 0 {
			best = kind[0].id
		}
	}
	return best
}

// Nodes act on one order in any interleaving, late and again: one of them may send the parcel, and it stays that one.
func TestOneNodeSendsTheParcel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := orders.Order{State: orders.Ready, Until: start}
		now := start
		sender := ""
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			node := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node")
			attempt := rapid.IntRange(1, policy.MaxAttempts).Draw(t, "attempt")
			before, next, err := o, o, error(nil)
			step := rapid.IntRange(0, 5).Draw(t, "step")
			switch step {
			case 0:
				next, err = policy.Assign(o, node, now)
			case 1:
				next, err = policy.Expire(o, now)
			case 2:
				next, err = orders.Accept(o, node, attempt, now.Add(5*time.Second))
			case 3:
				next, err = policy.Refuse(o, node, attempt, now)
			case 4:
				if next, err = orders.Clear(o, node, attempt); err == nil {
					if name := fmt.Sprint(node, attempt); sender != "" && sender != name {
						t.Fatalf("%s may send what %s may have sent", name, sender)
					} else {
						sender = name
					}
				}
			case 5:
				if next, err = orders.Ship(o, node, attempt); err == nil && sender != fmt.Sprint(node, attempt) {
					t.Fatalf("%s %d sent what %q may send", node, attempt, sender)
				}
			}
			if err != nil && next != before {
				t.Fatalf("a refused step %d changed %+v into %+v", step, before, next)
			}
			if before.State == orders.Acked && next.State != orders.Acked && next.State != orders.Cleared && next.State != orders.Dead {
				t.Fatalf("accepted, and then %+v", next)
			}
			o = next
		}
	})
}

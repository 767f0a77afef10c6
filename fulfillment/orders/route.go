package orders

import (
	"slices"
	"strings"
	"time"
)

// Node is what routing knows of a microfulfillment node.
type Node struct {
	// ID is its name in orders.
	ID string
	// Zones are the regions that it delivers for: names, or first parts of names. None: all.
	Zones []string
	// SKUs are the goods that it has.
	SKUs []string
	// Keys are the ids of those whose delivery details it can open.
	Keys []string
	// MaxParallel is how many orders it works on at the same time, MaxPerHour how many it takes in an hour; 0: any number.
	MaxParallel, MaxPerHour int
	// Hours are when it works. None: always.
	Hours []Hours
	// Open is how many orders it works on, LastHour how many it was given in the last hour and has not refused.
	Open, LastHour int
}

// Hours are a part of every day, in minutes since midnight UTC, To not included. A To before From is on the next day.
type Hours struct{ From, To int }

// Wish is what routing knows of an order.
type Wish struct {
	// Region accepted the purchase.
	Region string
	SKU    string
	// Recipients are the ids of the keys that the delivery details are sealed to.
	Recipients []string
	// Refused are nodes that did not take it.
	Refused []string
}

// Route chooses a node for an order: the one with the smallest share of its capacity taken, among those that can and have
// not refused it; among those that have when there is no other, since they may have restocked. Of equals the one with the
// smaller id. False: none can.
func Route(w Wish, nodes []Node, now time.Time) (id string, ok bool) {
	best := -1
	for i, n := range nodes {
		if n.can(w, now) && (best < 0 || n.before(nodes[best], w)) {
			best = i
		}
	}
	if best < 0 {
		return "", false
	}
	return nodes[best].ID, true
}

// Routable tells whether a node could take an order, whoever its delivery details are sealed to.
func Routable(w Wish, nodes []Node, now time.Time) bool {
	return slices.ContainsFunc(nodes, func(n Node) bool { return n.free(w, now) })
}

func (n Node) can(w Wish, now time.Time) bool { return n.opens(w.Recipients) && n.free(w, now) }

func (n Node) free(w Wish, now time.Time) bool {
	return slices.Contains(n.SKUs, w.SKU) && n.serves(w.Region) && n.open(now) &&
		n.Open < n.MaxParallel && (n.MaxPerHour == 0 || n.LastHour < n.MaxPerHour)
}

func (n Node) before(m Node, w Wish) bool {
	if a, b := slices.Contains(w.Refused, n.ID), slices.Contains(w.Refused, m.ID); a != b {
		return b
	}
	if a, b := n.Open*m.MaxParallel, m.Open*n.MaxParallel; a != b { // shares, without division
		return a < b
	}
	return n.ID < m.ID
}

func (n Node) opens(recipients []string) bool {
	return slices.ContainsFunc(n.Keys, func(id string) bool { return slices.Contains(recipients, id) })
}

func (n Node) serves(region string) bool {
	return len(n.Zones) == 0 || slices.ContainsFunc(n.Zones, func(zone string) bool {
		return region == zone || strings.HasPrefix(region, zone+"-")
	})
}

func (n Node) open(now time.Time) bool {
	now = now.UTC()
	minute := now.Hour()*60 + now.Minute()
	return len(n.Hours) == 0 || slices.ContainsFunc(n.Hours, func(h Hours) bool {
		if h.From <= h.To {
			return h.From <= minute && minute < h.To
		}
		return h.From <= minute || minute < h.To
	})
}

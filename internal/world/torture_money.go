package world

import (
	"time"

	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// sellParcels makes the scenario one of parcels: a drop of a few, from which some orders die, and later one of the same
// title, where vouchers are spent. It is dearer by half of the seeds, so that price locks are worth something, else cheaper, so
// that stored value is enough for more than one. The provider is slow to refund, forgets its keys, and tells of what happened late.
func (c *Config) sellParcels(aim string) {
	r := c.draws("parcels", 0)
	price := []int64{1400, 400}[r.IntN(2)]
	c.Drops = []Drop{
		{Title: "poster", Units: 8 + r.IntN(6), Viewers: 30, Opens: 13 * time.Second, Lasts: 40 * time.Second, Physical: true},
		{Title: "poster", Units: 10, Viewers: 4, Opens: 100 * time.Second, Lasts: 45 * time.Second, Physical: r.IntN(2) == 0, Price: price, Currency: currencies[0]},
	}
	c.Abandon, c.Refunds = 0.2, 0.5
	if aim == AimParcels {
		c.Drops, c.Refunds = c.Drops[:1], 0
		c.Payments, c.Habits = []Weighted[Payment]{{1, Payment{Reference: testpsp.RefOK}}}, []Weighted[Habit]{{1, Plain}}
		return
	}
	c.Payments = []Weighted[Payment]{
		{10, Payment{Reference: testpsp.RefOK}},
		{5, Payment{Reference: testpsp.RefDecline}},
		{1, Payment{Reference: testpsp.RefActionRequired, Confirms: true}},
		{3, Payment{Reference: testpsp.RefTimeoutAfter}},
		{1, Payment{Reference: testpsp.RefTimeoutBefore}},
		{1, Payment{Reference: testpsp.Ref500Kept}},
		{2, Payment{Reference: testpsp.RefRefundSlow}},
		{2, Payment{Reference: testpsp.RefRefundFails}},
	}
	c.Habits = []Weighted[Habit]{{12, Plain}, {2, DoubleTaps}, {2, Replays}, {2, Claims}, {1, Presents}, {2, Fails}, {1, BuysTwice}}
	c.Provider = testpsp.Config{KeyTTL: time.Second, HintDelay: 3 * time.Second, HintDuplicates: 0.2}
}

// troubleDepots lets every third fault of a host be a depot's, or all of them.
func (c *Config) troubleDepots(aim string) {
	r := c.draws("depots", 0)
	for i := range c.Schedule {
		f := &c.Schedule[i]
		at := Depots[r.IntN(len(Depots))]
		if aim != AimParcels && r.IntN(3) != 0 {
			continue
		}
		switch f.Kind {
		case Cut:
			if f.Host, f.To = at, "fulfillment"; r.IntN(2) == 0 {
				f.Host, f.To = f.To, f.Host
			}
		case Crash, Stop, CrashBeforeCommit, CrashAfterCommit, Swizzle, Slow:
			f.Host = at
		}
	}
}

package world

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// Aims of a schedule: which faults and viewers it draws most.
const (
	// AnyAim is every kind of fault. A quarter of the seeds have AimMarket's, a sixteenth each AimRestores',
	// AimVerifierRestores' and AimLateAnswers', and a sixth of the others AimMoney's viewers and goods.
	AnyAim = ""
	// AimMarket is what I14 is about: partitions and dead nodes, and more viewers than units.
	AimMarket = "market"
	// AimCrashes are power cuts at commits.
	AimCrashes = "crashes"
	// AimDisks are disks that are lost, and nodes that are replaced while they live.
	AimDisks = "disks"
	// AimRoom are disks that are full, and little else that hides it.
	AimRoom = "room"
	// AimLate are disks that are lost with what they did not forward, and viewers who show their receipts when nobody waits
	// for them any more.
	AimLate = "late"
	// AimOperators are fences and retirements, of nodes that are cut off, too.
	AimOperators = "operators"
	// AimCopies are data directories that are copied, and viewers who come to the original and to the copy.
	AimCopies = "copies"
	// AimPayments are declines, actions and outages of the provider.
	AimPayments = "payments"
	// AimMoney is what happens to money that was taken: parcels that never come, choices, refunds, and a later drop where
	// vouchers are spent.
	AimMoney = "money"
	// AimCards is a few cards that pay for many, and outages of the provider.
	AimCards = "cards"
	// AimRestores is a fulfillment that goes on from old backups, while nodes crash and lose their disks.
	AimRestores = "restores"
	// AimVerifierRestores is a verifier that goes on from old backups, while nodes crash.
	AimVerifierRestores = "verifier-restores"
	// AimLateAnswers is a drop that closes later than planned, and faults at every word about that.
	AimLateAnswers = "late-answers"
	// AimCatalogue is a shop that holds its drops and lets them go on, while whoever reads the catalogue loses its stream.
	AimCatalogue = "catalogue"
	// AimParcels is a drop of parcels with every fault at the depots.
	AimParcels = "parcels"
)

// kinds of faults, by how often an aim draws them.
var kinds = map[string][]Weighted[Kind]{
	AnyAim: {
		{5, Cut}, {3, Swizzle}, {3, Crash}, {2, Stop}, {3, CrashBeforeCommit}, {3, CrashAfterCommit}, {1, BadSync}, {2, Slow},
		{2, Step}, {1, Drift}, {2, Storm}, {1, NoPayments}, {1, LoseDisk}, {1, Replace}, {1, Copy}, {1, FullDisk}, {1, Fence}, {1, Retire},
	},
	AimMarket:           {{5, Cut}, {3, Swizzle}, {1, Crash}, {1, Stop}, {1, CrashAfterCommit}, {1, LoseDisk}},
	AimCrashes:          {{2, Cut}, {4, CrashBeforeCommit}, {6, CrashAfterCommit}, {2, BadSync}},
	AimDisks:            {{6, Cut}, {3, LoseDisk}, {3, Replace}, {2, Slow}, {1, Swizzle}, {1, CrashAfterCommit}, {1, Storm}},
	AimRoom:             {{2, Cut}, {6, FullDisk}, {1, Stop}, {1, CrashAfterCommit}, {1, Slow}},
	AimLate:             {{1, Cut}, {6, LoseDisk}},
	AimOperators:        {{5, Cut}, {3, Fence}, {4, Retire}, {1, Slow}, {1, CrashAfterCommit}},
	AimCopies:           {{2, Cut}, {4, Copy}, {1, Slow}, {1, Crash}, {1, CrashAfterCommit}, {1, Storm}},
	AimPayments:         {{1, Cut}, {2, CrashBeforeCommit}, {2, CrashAfterCommit}, {1, Storm}, {4, NoPayments}},
	AimCards:            {{1, Cut}, {2, CrashBeforeCommit}, {2, CrashAfterCommit}, {1, Crash}, {1, Storm}, {4, NoPayments}},
	AimMoney:            {{4, Cut}, {1, Swizzle}, {2, Crash}, {2, CrashBeforeCommit}, {3, CrashAfterCommit}, {1, Storm}, {4, NoPayments}, {1, Slow}},
	AimRestores:         {{4, Cut}, {3, Restore}, {2, Crash}, {2, Stop}, {2, CrashBeforeCommit}, {2, CrashAfterCommit}, {2, LoseDisk}, {1, Slow}, {1, Storm}},
	AimVerifierRestores: {{4, Cut}, {3, Restore}, {2, Crash}, {2, Stop}, {2, CrashBeforeCommit}, {2, CrashAfterCommit}, {1, Slow}, {1, Storm}, {1, NoPayments}},
	AimLateAnswers:      {{5, Cut}, {2, Swizzle}, {1, Crash}, {1, CrashBeforeCommit}, {2, CrashAfterCommit}, {1, LoseDisk}, {1, Slow}, {2, Step}, {1, Storm}, {2, LateAnswers}},
	AimCatalogue:        {{2, Cut}, {1, Swizzle}, {3, Crash}, {2, Stop}, {3, CrashAfterCommit}, {1, Storm}, {8, Paused}},
	AimParcels:          {{6, Cut}, {2, Swizzle}, {2, Crash}, {1, CrashBeforeCommit}, {1, CrashAfterCommit}, {2, Slow}},
}

// faultsDrawn is how many faults a schedule has.
const faultsDrawn = 20

// grpcOneIn is how many schedules there are to one over grpc-go, which costs more and shows less of duplication.
const grpcOneIn = 50

// secondNodeOneIn is how many schedules there are to one in which a region has two nodes.
const secondNodeOneIn = 4

// Torture is a small world with everything against it: three regions, forty viewers, twenty faults, two virtual minutes.
// All of it follows from the seed and the aim; Config.Schedule lists the faults in the order of their times.
func Torture(seed uint64, aim string) Config {
	cfg := Config{
		Seed: seed, Regions: []string{"asia-southeast1", "europe-west3", "us-central1"},
		Jitter: 10 * time.Millisecond, SyncTime: 2 * time.Millisecond,
	}
	cfg.OverGRPC = cfg.draws("transport", 0).IntN(grpcOneIn) == 0
	if n := cfg.draws("second node", 0); n.IntN(secondNodeOneIn) == 0 {
		cfg.Regions = append(cfg.Regions, cfg.Regions[n.IntN(len(cfg.Regions))]+"+2")
	}
	r := cfg.draws("torture "+aim, 0)
	market := aim == AnyAim && r.IntN(4) == 0
	switch mix := cfg.draws("mix", 0).IntN(16); {
	case aim != AnyAim:
	case mix == 0:
		aim = AimRestores
	case mix == 1:
		aim = AimVerifierRestores
	case mix == 2:
		aim = AimLateAnswers
	case market:
		aim = AimMarket
	}
	money := aim == AimMoney || aim == AimParcels || aim == AnyAim && cfg.draws("money", 0).IntN(6) == 0
	cfg.Loss, cfg.Duplication = []float64{0, 0.01, 0.05}[r.IntN(3)], []float64{0, 0.02, 0.1}[r.IntN(3)]
	cfg.Skew = []time.Duration{0, 300 * time.Millisecond}[r.IntN(2)]
	if aim == AimCrashes {
		cfg.SyncTime = 20 * time.Millisecond // so that power is lost in the middle of one
	}
	if aim == AimDisks {
		cfg.Habits = []Weighted[Habit]{{4, Plain}, {4, Forgets}, {1, Replays}, {1, DoubleTaps}, {1, ChangesOrder}}
	}
	if aim == AimLate {
		cfg.Habits = []Weighted[Habit]{{1, Forgets}}
	}
	if aim == AimCopies {
		cfg.Habits = []Weighted[Habit]{{3, Plain}, {8, DoubleTaps}, {2, ClaimsTwice}, {1, Forgets}}
	}
	if aim == AimPayments {
		cfg.Payments = troubledPayments
	}
	if aim == AimMarket || r.IntN(2) == 0 {
		cfg.Drops = []Drop{{Title: "scarce", Units: 3 + r.IntN(4), Viewers: 40, Opens: 13 * time.Second, Lasts: 40 * time.Second}}
		cfg.Abandon = 0.3
	} else {
		cfg.Drops = []Drop{
			{Title: "balanced", Units: 8 + r.IntN(8), Viewers: 26, Opens: 13 * time.Second, Lasts: 40 * time.Second},
			{Title: "scarce", Units: 1 + r.IntN(3), Viewers: 14, Opens: 15 * time.Second, Lasts: 30 * time.Second},
		}
	}
	if money {
		cfg.sellParcels(aim)
	}
	if aim == AimCards {
		cfg.shareCards()
	}
	if aim == AimLateAnswers {
		cfg.slipDrops()
	}
	for len(cfg.Schedule) < faultsDrawn {
		f := cfg.drawFault(r, pick(r, kinds[aim]))
		if aim == AimMarket && f.Kind != Cut && !slices.Contains(cfg.Regions, f.Host) {
			continue // the centre stays up
		}
		if f.Kind == Restore && aim == AimVerifierRestores {
			f.Host = "verifier"
		}
		cfg.Schedule = append(cfg.Schedule, f)
		if (aim == AimDisks || aim == AimLate) && f.Kind == LoseDisk { // with what it has not forwarded
			before := time.Duration(r.Int64N(int64(8 * time.Second)))
			cfg.Schedule = append(cfg.Schedule, Fault{Kind: Cut, Host: f.Host, To: "verifier", At: f.At - before, For: before + time.Second})
		}
		if aim == AimCopies && f.Kind == Copy { // what both sell waits for its settlement, and more of it comes meanwhile
			cfg.Schedule = append(cfg.Schedule, Fault{Kind: Cut, Host: "verifier", To: "fulfillment", At: f.At, For: f.For})
		}
		if aim == AimOperators && f.Kind == Retire { // longer than a stopping node waits for the verifier
			cfg.Schedule = append(cfg.Schedule, Fault{Kind: Cut, Host: f.Host, To: "verifier", At: f.At - 4*time.Second, For: 20 * time.Second})
		}
	}
	if money {
		cfg.troubleDepots(aim)
	}
	slices.SortStableFunc(cfg.Schedule, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return cfg
}

// troubledPayments are those that do not simply succeed.
var troubledPayments = []Weighted[Payment]{
	{2, Payment{Reference: testpsp.RefOK}},
	{1, Payment{Reference: testpsp.RefDecline}},
	{4, Payment{Reference: testpsp.RefDeclineOnce}},
	{2, Payment{Reference: testpsp.RefActionRequired, Confirms: true}},
	{2, Payment{Reference: testpsp.RefActionRequired}},
	{2, Payment{Reference: testpsp.RefTimeoutBefore}},
	{3, Payment{Reference: testpsp.RefTimeoutAfter}},
	{1, Payment{Reference: testpsp.Ref500Once}},
}

// drawFault draws one fault between the arming of the first drop and about half a minute after the last one closed.
func (c Config) drawFault(r *rand.Rand, kind Kind) Fault {
	f := Fault{Kind: kind}
	node := func() string { return c.Regions[r.IntN(len(c.Regions))] }
	host := func() string { return []string{node(), node(), "verifier", "fulfillment"}[r.IntN(4)] }
	upTo := func(shortest, longest time.Duration) time.Duration {
		return shortest + time.Duration(r.Int64N(int64(longest-shortest)))
	}
	last := time.Duration(0)
	for _, d := range c.Drops {
		last = max(last, d.Opens+d.Lasts)
	}
	f.At = upTo(8*time.Second, last+27*time.Second)
	f.For = upTo(500*time.Millisecond, 12*time.Second)
	switch f.Kind {
	case Cut:
		f.Host, f.To = node(), []string{"verifier", "fulfillment"}[r.IntN(2)]
		if r.IntN(2) == 0 {
			f.Host, f.To = f.To, f.Host
		}
	case BadSync, LoseDisk, FullDisk, Retire:
		f.Host = node()
	case Fence:
		f.Host, f.Nth = node(), r.IntN(len(c.Drops)+1)
	case Replace:
		f.Host, f.For = node(), upTo(0, 30*time.Second)
	case Copy:
		f.Host, f.For, f.Nth = node(), upTo(0, 20*time.Second), r.IntN(3)/2
	case Storm:
		f.Share = 0.05 + 0.25*r.Float64()
	case NoPayments, Paused:
	case LateAnswers:
		f.By = upTo(0, 20*time.Second)
	case CrashBeforeCommit, CrashAfterCommit:
		f.Host, f.Nth = host(), 1+r.IntN(12)
	case Slow:
		f.Host, f.By = host(), upTo(20*time.Millisecond, 1500*time.Millisecond)
	case Restore:
		f.Host, f.By = "fulfillment", upTo(time.Second, 25*time.Second)
	case Step, Drift:
		f.Host, f.By = host(), upTo(-900*time.Millisecond, 900*time.Millisecond)
	default:
		f.Host = host()
	}
	return f
}

// Keep is the scenario with only some of its faults, by their places in Schedule.
func (c Config) Keep(places []int) Config {
	all := c.Schedule
	c.Schedule = nil
	for _, i := range places {
		if i >= 0 && i < len(all) {
			c.Schedule = append(c.Schedule, all[i])
		}
	}
	return c
}

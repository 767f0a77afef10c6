// Package checkup says what is wrong in a fleet that was looked at: one sentence and one fix per problem.
//
//	members (answers, clocks, versions, disks) --+
//	paths between them (round trips, losses) ----+--> Problems, the worst first
//
// A problem names who has it, not everybody who sees it: a member that half of the others cannot ping is one problem. What
// was not measured is no problem.
//
// It is pure. It measures nothing and does not know how its figures came about: the router's shell does.
package checkup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Where a figure becomes a problem.
const (
	// MostClockOffset is a quarter of the 2 s of grace that the settlement gives clocks: what is more is on its way to
	// refusing viewers whose offers have not expired.
	MostClockOffset = 500 * time.Millisecond
	// SlowSync is what a commit may take, p99, unless whoever asks says otherwise: a decision may take 100 ms, and needs some 20
	// for the rest of it on a busy machine. What is less is slow, and endangers nothing: a laptop's disk is no problem.
	SlowSync = 80 * time.Millisecond
	// fewestSyncs is how many commits a p99 needs to mean something.
	fewestSyncs = 20
	// MostLoss is the share of pings that may be lost: two of five is no accident.
	MostLoss = 0.3
	// MostRTT is two thirds of the ring's probe timeout.
	MostRTT = 400 * time.Millisecond
	// A disk is nearly full below leastFree, or below leastShare where that is less than plenty.
	leastFree  = 1 << 30
	leastShare = 0.05
	plenty     = 10 << 30
)

// Member is a router or a node.
type Member struct {
	Name    string // for people; unique
	Version string
	Silence string // why it did not answer; empty: it did
	// ClockOffset is how far its clock is before the asking one, wrong by ClockError at most.
	ClockOffset, ClockError time.Duration
	// SyncP99 is of the last Syncs commits; FreeBytes and AllBytes are its disk's. All 0: it has none.
	SyncP99             time.Duration
	Syncs               int
	FreeBytes, AllBytes uint64
}

// Path is the way from one member to another, by name.
type Path struct {
	From, To   string
	RTT        time.Duration // 0: every ping was lost
	Sent, Lost int
}

// Problem is something to be done.
type Problem struct {
	Subject, Sentence, Fix string
}

// Problems judges a fleet. slowSync is from which p99 of its commits on a disk is slow; 0: SlowSync.
func Problems(members []Member, paths []Path, slowSync time.Duration) []Problem {
	var list []Problem
	silent := map[string]bool{}
	for _, m := range members {
		if m.Silence != "" {
			silent[m.Name] = true
			list = append(list, Problem{
				m.Name, fmt.Sprintf("It does not answer: %s.", strings.TrimRight(m.Silence, ".")),
				"Look whether it runs, and whether its RPC port can be reached from the router that you asked; if it is gone for good, fence its node.",
			})
		}
	}
	for _, m := range members {
		if !silent[m.Name] {
			list = append(list, disk(m, cmp.Or(slowSync, SlowSync))...)
		}
	}
	for _, m := range members {
		if off := m.ClockOffset.Abs() - m.ClockError; !silent[m.Name] && off > MostClockOffset {
			ahead := "ahead of"
			if m.ClockOffset < 0 {
				ahead = "behind"
			}
			list = append(list, Problem{
				m.Name, fmt.Sprintf("Its clock is %v %s the asked router's, give or take %v.", round(m.ClockOffset.Abs()), ahead, round(m.ClockError)),
				"Let NTP or chrony set the clock of that machine, or of the router's if all others are off alike.",
			})
		}
	}
	list = append(list, lossy(paths, silent)...)
	return append(list, versions(members)...)
}

func disk(m Member, slow time.Duration) (list []Problem) {
	share := float64(m.FreeBytes) / float64(max(m.AllBytes, 1))
	if m.AllBytes > 0 && (m.FreeBytes < leastFree || share < leastShare && m.FreeBytes < plenty) {
		list = append(list, Problem{
			m.Name, fmt.Sprintf("Its disk is nearly full: %.1f GiB are free, %.0f %% of it.", float64(m.FreeBytes)/(1<<30), 100*share),
			"Drain it, then make room or move its data to a larger disk: a journal that cannot be written stops the node.",
		})
	}
	if m.Syncs >= fewestSyncs && m.SyncP99 >= slow {
		list = append(list, Problem{
			m.Name, fmt.Sprintf("Its disk is slow: 99 %% of its last %d commits took up to %v.", m.Syncs, round(m.SyncP99)),
			"Give the journal a disk of its own that is fast to fsync: each redemption waits for it.",
		})
	}
	return list
}

// lossy finds bad paths, and blames an end that has most of them.
func lossy(paths []Path, silent map[string]bool) (list []Problem) {
	all, bad := map[string]int{}, map[string]int{}
	isBad := func(p Path) bool { return p.Sent > 0 && float64(p.Lost) > MostLoss*float64(p.Sent) }
	paths = slices.DeleteFunc(slices.Clone(paths), func(p Path) bool { return silent[p.From] || silent[p.To] }) // said already
	for _, p := range paths {
		for _, end := range []string{p.From, p.To} {
			all[end]++
			if isBad(p) {
				bad[end]++
			}
		}
	}
	worst := 0
	for _, n := range bad {
		worst = max(worst, n)
	}
	blamed := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		if bad[name] == worst && worst > 1 && 2*bad[name] >= all[name] && all[name] > 2 {
			blamed[name] = true
			list = append(list, Problem{
				name, fmt.Sprintf("Pings get lost on %d of the %d ways from and to it.", bad[name], all[name]),
				"Look at its network, and whether its gossip port lets UDP through both ways.",
			})
		}
	}
	for _, p := range paths {
		if blamed[p.From] || blamed[p.To] {
			continue
		}
		switch {
		case isBad(p):
			list = append(list, Problem{
				p.From, fmt.Sprintf("%d of %d pings from it to %s were lost.", p.Lost, p.Sent, p.To),
				"Look at the network between the two, and whether both gossip ports let UDP through.",
			})
		case p.RTT > MostRTT:
			list = append(list, Problem{
				p.From, fmt.Sprintf("A ping from it to %s takes %v there and back.", p.To, round(p.RTT)),
				"Look at the way between the two: the ring takes members for dead that do not answer within 600 ms.",
			})
		}
	}
	return list
}

// versions names those who run something else than most, or everybody if there is no most.
func versions(members []Member) []Problem {
	who := map[string][]string{}
	for _, m := range members {
		if m.Version != "" {
			who[m.Version] = append(who[m.Version], m.Name)
		}
	}
	if len(who) < 2 {
		return nil
	}
	order := slices.SortedFunc(maps.Keys(who), func(a, b string) int {
		if n := len(who[b]) - len(who[a]); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for i, v := range order {
		if names := who[v]; i == 0 || len(names) > 5 {
			parts = append(parts, fmt.Sprintf("%s on %d", v, len(names)))
		} else {
			parts = append(parts, fmt.Sprintf("%s on %s", v, strings.Join(names, ", ")))
		}
	}
	return []Problem{{
		"fleet", fmt.Sprintf("It runs %d versions: %s.", len(who), strings.Join(parts, "; ")),
		"Finish the rolling update, or roll it back: versions are tested beside each other for as long as that takes.",
	}}
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

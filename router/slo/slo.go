// Package slo counts how many of a fleet's calls are late, and says when that is too many: a slip.
//
//	calls --Record--> Windows, of one router --Counts--+
//	                  peers' Windows ------------------+--Sum--> Judge --> slips that begin, change and end
//
// A call is late when it took longer than its flow's objective, or when the platform failed it, however fast. Three kinds
// of windows count it: its flow's and its drop's say what viewers saw; its regions' say what became of each attempt, also
// where another region made good for it. A share is judged over the fleet, never over one router: five routers with four
// calls each know nothing, together they do.
//
// Memory is bounded: so many flows, regions and drops; what comes beyond them is counted as overflow and not judged. Time
// is the reading of any steady clock. Nothing here survives a restart: the longest windows begin anew, and the other
// routers' go on.
//
// It does not decide where calls go, and it tells nobody: the router's shell does.
package slo

import (
	"errors"
	"fmt"
	"time"
)

// Scope is whose calls a window counts.
type Scope uint8

// The scopes.
const (
	Flow   Scope = iota + 1 // a method, or a forwarded service
	Region                  // the attempts at a region
	Drop
	scopes
)

// String is the scope in the words of logs and metrics.
func (s Scope) String() string {
	return [...]string{"", "flow", "region", "drop"}[s]
}

// Key names a window.
type Key struct {
	Scope Scope
	Name  string
}

// Cause is what a late call waited for.
type Cause uint8

// The causes.
const (
	Network  Cause = iota // the way there and back
	Service               // the region's work
	Queue                 // the region's queue
	NoRegion              // nobody could be asked
	Unknown               // no answer came: Resolve makes it Network or Service
	causes
)

// String is the cause in words.
func (c Cause) String() string {
	return [...]string{"network", "service", "queue", "no region", "unknown"}[c]
}

// Counts is calls, and the late ones among them by cause.
type Counts struct {
	Calls  int64
	Causes [causes]int64
}

// Late is how many calls were late.
func (c Counts) Late() int64 {
	var n int64
	for _, k := range c.Causes {
		n += k
	}
	return n
}

// Share is the late calls' share, 0 to 1; 0 without calls.
func (c Counts) Share() float64 {
	if c.Calls == 0 {
		return 0
	}
	return float64(c.Late()) / float64(c.Calls)
}

// Cause is what most late calls waited for; Unknown without late calls.
func (c Counts) Cause() Cause {
	most := Unknown
	for cause, n := range c.Causes {
		if n > c.Causes[most] {
			most = Cause(cause)
		}
	}
	return most
}

// Plus is the sum.
func (c Counts) Plus(o Counts) Counts {
	c.Calls += o.Calls
	for i, n := range o.Causes {
		c.Causes[i] += n
	}
	return c
}

// Resolve blames the calls without an answer on the service if the region's probes are answered, else on the network.
func (c Counts) Resolve(probesAnswered bool) Counts {
	blamed := Network
	if probesAnswered {
		blamed = Service
	}
	c.Causes[blamed] += c.Causes[Unknown]
	c.Causes[Unknown] = 0
	return c
}

// Config is what counts as late and how much of it is too much. The zero value takes every default.
type Config struct {
	// Objective is how long a call may take. Default 200 ms, what a viewer still takes for "at once".
	Objective time.Duration
	// Objectives are those of single flows, by method or forwarded service, where they differ.
	Objectives map[string]time.Duration
	// LateShare is the share of late calls above which a window is a slip, above 0 and below 1. Default 0.05. Half alerts
	// on one region's bad second; double sleeps through a lost minute of a drop.
	LateShare float64
	// LateShares are those of single flows, by method or forwarded service, where they differ. Regions and drops see calls
	// of all flows, and keep to LateShare.
	LateShares map[string]float64
	// MinCalls is how many calls over the fleet a window needs to be judged. Default 20: of fewer, one late call is more
	// than 5 %.
	MinCalls int64
	// MonthShare is the share of a month's calls that may be late: its error budget, above 0 and below 1. Default 0.01.
	MonthShare float64
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	if c.Objective == 0 {
		c.Objective = 200 * time.Millisecond
	}
	if c.LateShare == 0 {
		c.LateShare = 0.05
	}
	if c.MinCalls == 0 {
		c.MinCalls = 20
	}
	if c.MonthShare == 0 {
		c.MonthShare = 0.01
	}
	return c
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Objective < 0 {
		errs = append(errs, fmt.Errorf("Objective: %v is negative", c.Objective))
	}
	for flow, d := range c.Objectives {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("Objectives[%s]: %v is not positive", flow, d))
		}
	}
	for flow, share := range c.LateShares {
		if share <= 0 || share >= 1 {
			errs = append(errs, fmt.Errorf("LateShares[%s]: %v is not a share between 0 and 1", flow, share))
		}
	}
	for name, share := range map[string]float64{"LateShare": c.LateShare, "MonthShare": c.MonthShare} {
		if share < 0 || share >= 1 {
			errs = append(errs, fmt.Errorf("%s: %v is not a share below 1", name, share))
		}
	}
	if c.MinCalls < 0 {
		errs = append(errs, fmt.Errorf("MinCalls: %d is negative", c.MinCalls))
	}
	return errors.Join(errs...)
}

// Of is a flow's objective.
func (c Config) Of(flow string) time.Duration {
	if d, ok := c.Objectives[flow]; ok {
		return d
	}
	return c.Objective
}

// shareOf is above which share of late calls a window is a slip.
func (c Config) shareOf(key Key) float64 {
	if share, ok := c.LateShares[key.Name]; ok && key.Scope == Flow {
		return share
	}
	return c.LateShare
}

package router

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/router/slo"
)

// keptSlips is how many slips a router remembers: a bad evening's worth.
const keptSlips = 256

var errResume = errors.New("not a resume token of this router's life")

// slipFeed is the slips of the fleet, as this router judged them, and who waits for news of them.
type slipFeed struct {
	life string // resume tokens of another one mean nothing here

	mu       sync.Mutex
	slips    []keptSlip // by number, oldest first
	revision int64      // of the last change
	gone     int64      // of the newest slip that is no longer kept
	fleet    []slo.Count
	silent   []string
	changed  chan struct{} // closed and replaced at every change
}

// keptSlip is a slip's newest state. Its message is never changed.
type keptSlip struct {
	number   int64
	revision int64
	message  *routerv1.Slip
}

// slipChange is one that began, changed or ended.
type slipChange struct {
	slip    slo.Slip
	message *routerv1.Slip
	began   bool
}

func newSlipFeed(life string) *slipFeed { return &slipFeed{life: life, changed: make(chan struct{})} }

// take takes in a judgement and wakes the watchers.
func (f *slipFeed) take(slips []slo.Slip, fleet []slo.Count, silent []string, message func(id string, s slo.Slip) *routerv1.Slip) []slipChange {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fleet, f.silent = fleet, silent
	var changes []slipChange
	for _, s := range slips {
		f.revision++
		at := slices.IndexFunc(f.slips, func(k keptSlip) bool { return k.number == s.Number })
		began := at < 0
		id := ""
		if began {
			at = len(f.slips)
			f.slips = append(f.slips, keptSlip{number: s.Number})
		} else {
			id = f.slips[at].message.GetSlipId()
		}
		k := &f.slips[at]
		k.revision, k.message = f.revision, message(id, s)
		changes = append(changes, slipChange{slip: s, message: k.message, began: began})
	}
	for len(f.slips) > keptSlips {
		oldest := max(0, slices.IndexFunc(f.slips, func(k keptSlip) bool { return k.message.GetEndTime() != nil }))
		f.gone = max(f.gone, f.slips[oldest].revision)
		f.slips = slices.Delete(f.slips, oldest, oldest+1)
	}
	if len(changes) > 0 {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	return changes
}

// refresh has lists tell how the slips that last are now. That is no news: it wakes no watcher.
func (f *slipFeed) refresh(active []slo.Slip) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range active {
		at := slices.IndexFunc(f.slips, func(k keptSlip) bool { return k.number == s.Number })
		if at >= 0 && f.slips[at].message.GetShareAfter() != s.After {
			message := proto.CloneOf(f.slips[at].message)
			message.ShareAfter, f.slips[at].message = s.After, message
		}
	}
}

// id names a slip; empty when it is not kept any more.
func (f *slipFeed) id(number int64) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.slips {
		if k.number == number {
			return k.message.GetSlipId()
		}
	}
	return ""
}

// list is all kept slips, newest first.
func (f *slipFeed) list() []*routerv1.Slip {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newestFirst()
}

func (f *slipFeed) newestFirst() []*routerv1.Slip {
	list := make([]*routerv1.Slip, 0, len(f.slips))
	for _, k := range slices.Backward(f.slips) {
		list = append(list, k.message)
	}
	return list
}

// now is the fleet's windows and the routers that are missing in them.
func (f *slipFeed) now() ([]slo.Count, []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fleet, f.silent
}

// since gives the slips that changed after a revision, oldest change first, the revision that they lead to, and what
// closes at the next change. Several changes of a slip are one.
func (f *slipFeed) since(revision int64) (changed []*routerv1.Slip, reached int64, next <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	news := slices.DeleteFunc(slices.Clone(f.slips), func(k keptSlip) bool { return k.revision <= revision })
	slices.SortFunc(news, func(a, b keptSlip) int { return cmp.Compare(a.revision, b.revision) })
	for _, k := range news {
		changed = append(changed, k.message)
	}
	return changed, f.revision, f.changed
}

// snapshot is list with its revision.
func (f *slipFeed) snapshot() ([]*routerv1.Slip, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newestFirst(), f.revision
}

// token names a revision to a client, resume reads it; errResume when the way from there is not known.
func (f *slipFeed) token(revision int64) string {
	return f.life + ":" + strconv.FormatInt(revision, 10)
}

func (f *slipFeed) resume(token string) (int64, error) {
	life, number, _ := strings.Cut(token, ":")
	revision, err := strconv.ParseInt(number, 10, 64)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || life != f.life || revision < f.gone || revision > f.revision {
		return 0, errResume
	}
	return revision, nil
}

// slipProto is a slip as operators see it. An empty id makes a new one.
func (r *Router) slipProto(id string, s slo.Slip) *routerv1.Slip {
	if id == "" {
		id = r.config.Name + "/" + ids.NewV7(s.Start, r.deps.Random)
	}
	objective := r.slo.config.Objective
	if s.Key.Scope == slo.Flow {
		objective = r.slo.config.Of(s.Key.Name)
	}
	p := &routerv1.Slip{
		SlipId: id, Scope: scopeProto(s.Key.Scope), Rule: ruleProto(s.Rule),
		Cause: causeProto(s.Cause), StartTime: timestamppb.New(s.Start), ShareBefore: s.Before, WorstShare: s.Worst, ShareAfter: s.After,
		Calls: s.Calls, LateCalls: s.Late, DecisionIds: s.Examples, Explanation: s.Sentence(objective), SilentRouters: s.Silent,
	}
	switch s.Key.Scope {
	case slo.Flow:
		p.Flow = s.Key.Name
	case slo.Region:
		p.Region = s.Key.Name
	case slo.Drop:
		p.DropId, p.TimeLost = s.Key.Name, durationpb.New(r.slo.lost.Of(s.Key.Name))
	}
	if s.Ended() {
		p.EndTime = timestamppb.New(s.End)
	}
	return p
}

// windowsProto is the fleet's windows that hold calls.
func (r *Router) windowsProto(fleet []slo.Count) []*routerv1.SlipWindow {
	var list []*routerv1.SlipWindow
	for _, c := range fleet {
		if c.Sliding.Calls == 0 {
			continue
		}
		w := &routerv1.SlipWindow{
			Scope: scopeProto(c.Key.Scope), Name: c.Key.Name, Calls: c.Sliding.Calls, LateCalls: c.Sliding.Late(), LateShare: c.Sliding.Share(),
		}
		if c.Key.Scope == slo.Flow {
			w.Objective = durationpb.New(r.slo.config.Of(c.Key.Name))
		}
		list = append(list, w)
	}
	return list
}

// countsProto tells this router's windows to a peer, countsOf reads them there.
func countsProto(list []slo.Count) []*routerv1.WindowCounts {
	windows := make([]*routerv1.WindowCounts, 0, len(list))
	for _, c := range list {
		w := &routerv1.WindowCounts{
			Scope: scopeProto(c.Key.Scope), Name: c.Key.Name, Sliding: callCounts(c.Sliding), DecisionIds: c.Examples,
			CountedFor: durationpb.New(c.Seen),
		}
		switch c.Key.Scope {
		case slo.Drop:
			w.Whole = callCounts(c.Whole)
		case slo.Flow:
			for _, past := range c.Past {
				w.Past = append(w.Past, callCounts(past))
			}
		}
		windows = append(windows, w)
	}
	return windows
}

func countsOf(windows []*routerv1.WindowCounts) []slo.Count {
	list := make([]slo.Count, 0, len(windows))
	for _, w := range windows {
		c := slo.Count{
			Key: slo.Key{Scope: slo.Scope(w.GetScope()), Name: w.GetName()}, Seen: w.GetCountedFor().AsDuration(),
			Sliding: readCounts(w.GetSliding()), Whole: readCounts(w.GetWhole()),
			Examples: w.GetDecisionIds(),
		}
		if c.Key.Scope < slo.Flow || c.Key.Scope > slo.Drop {
			continue // a newer router's
		}
		for i, past := range w.GetPast()[:min(len(w.GetPast()), len(c.Past))] {
			c.Past[i] = readCounts(past)
		}
		list = append(list, c)
	}
	return list
}

func callCounts(c slo.Counts) *routerv1.CallCounts {
	return &routerv1.CallCounts{Calls: c.Calls, LateCalls: c.Late(), Causes: c.Causes[:]}
}

func readCounts(p *routerv1.CallCounts) slo.Counts {
	c := slo.Counts{Calls: p.GetCalls()}
	copy(c.Causes[:], p.GetCauses())
	return c
}

// The protocol's scopes and rules have the numbers of slo's; TestSlipEnums holds that.
func scopeProto(s slo.Scope) routerv1.SlipScope { return routerv1.SlipScope(s) }
func ruleProto(r slo.Rule) routerv1.SlipRule    { return routerv1.SlipRule(r) }

func causeProto(c slo.Cause) routerv1.SlipCause {
	if c == slo.Unknown {
		return routerv1.SlipCause_SLIP_CAUSE_UNSPECIFIED
	}
	return routerv1.SlipCause(c + 1)
}

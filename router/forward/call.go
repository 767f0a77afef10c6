package forward

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

// call is one arbitrated call on its way.
type call struct {
	f         *Forwarder
	name      string // full method name
	label     string // for metrics
	arrived   time.Time
	request   arbiter.Request // Tried grows
	awaited   bool            // the answer is due within a predictable time
	foreign   bool            // of somebody else's service
	retriable bool            // another node may be asked
	asked     int             // nodes so far
	repeats   string          // why the next choice is another attempt; empty: it is none
	paid      bool            // for that attempt
	decision  *Decision
	recorded  bool
}

// node is where an attempt goes.
type node struct {
	region *arbiter.Region
	conn   grpc.ClientConnInterface
	start  time.Duration // since the call's arrival
	sent   time.Duration // by the clock of the measurements
	others int

	attempt  int           // its place in the decision
	expected time.Duration // when it was chosen
	regime   arbiter.Regime
	hedge    bool
}

// newCall starts a decision.
func (f *Forwarder) newCall(ctx context.Context, name, label string, kind arbiter.Kind, h Hints) *call {
	now := f.deps.Now()
	c := &call{
		f: f, name: name, label: label, arrived: time.Now(),
		request: arbiter.Request{Kind: kind, Drop: h.Drop, Zones: h.Zones, Preferred: h.Preferred},
		decision: &Decision{
			ID: f.config.Router + "/" + ids.NewV7(now, f.deps.Random), Time: now, Method: name, Flow: label, Drop: h.Drop, Zones: h.Zones,
		},
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.decision.Budget = time.Until(deadline)
	}
	return c
}

// choose picks the next node. A node whose connection is gone counts as tried. Nil: nobody is left.
func (c *call) choose(ctx context.Context) *node {
	for {
		if deadline, ok := ctx.Deadline(); ok {
			c.request.Budget = max(1, time.Until(deadline)) // 0 would mean unlimited
		}
		s := c.f.deps.Measured.Snapshot()
		a := Attempt{
			Snapshot: s, SnapshotAge: time.Since(s.Time), Request: c.request, Draw: c.f.deps.Draw(), Start: time.Since(c.arrived),
		}
		a.Choice = c.f.deps.Policy.Pick(s, a.Request, a.Draw)
		c.f.chosen(a.Choice.Regime)
		c.decision.Attempts = append(c.decision.Attempts, a)
		g := a.Choice.Region
		if g == nil {
			c.repeated(false)
			return nil
		}
		// A fresh slice: the last attempt's request keeps its own.
		c.request.Tried = append(c.request.Tried[:len(c.request.Tried):len(c.request.Tried)], g.Key)
		if conn := c.f.deps.Conn(g.Key); conn != nil {
			sent := c.f.deps.Measured.Begin(g.Key, c.awaited)
			c.f.deps.Policy.Sent(g.Key)
			c.asked++
			c.repeated(true)
			return &node{
				region: g, conn: conn, start: a.Start, sent: sent, others: a.Choice.Others,
				attempt: len(c.decision.Attempts) - 1, expected: a.Choice.Expected, regime: a.Choice.Regime, hedge: a.Request.Hedging != "",
			}
		}
		c.attempt().Code = codes.Unavailable
		c.attempt().Reason = errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE
		c.attempt().Verdict = measure.Broken
	}
}

// attempt is the one that runs.
func (c *call) attempt() *Attempt { return &c.decision.Attempts[len(c.decision.Attempts)-1] }

// note keeps how an attempt went and tells the measurements. timed: the duration is the node's doing.
func (c *call) note(n *node, r result, timed bool) {
	c.tell(n, r, timed)
	c.keep(n, r)
}

// tell lets the measurements know how an attempt went. It leaves the decision alone: another attempt may be running.
func (c *call) tell(n *node, r result, timed bool) {
	reason := rpcerr.Reason(r.err)
	o := measure.Outcome{
		Verdict: r.verdict, Sent: n.sent, Load: loadIn(r.trailer), Draining: reason == errorsv1.Reason_REASON_DRAINING,
		JournalFull: reason == errorsv1.Reason_REASON_JOURNAL_FULL,
	}
	if timed && r.verdict == measure.Good {
		o.Total = r.took
	}
	if reason == errorsv1.Reason_REASON_NO_UNIT_HERE {
		o.OutOfStock = c.request.Drop
	}
	c.f.observe(n, o)
}

// keep puts how an attempt went into the decision.
func (c *call) keep(n *node, r result) {
	a := &c.decision.Attempts[n.attempt]
	a.Duration = r.took
	a.Code, a.Reason, a.Verdict = status.Code(r.err), rpcerr.Reason(r.err), r.verdict
	a.GivenUp = r.givenUp
	load := loadIn(r.trailer)
	a.Residence, a.Service = load.GetResidence().AsDuration(), load.GetServiceTime().AsDuration()
}

// patience is how long an answer may take before it is no answer: four times what is predicted, with its spread.
func (c *call) patience(n *node) time.Duration {
	return max(4*(n.expected+4*n.region.Deviation), c.f.config.AttemptFloor)
}

// attemptTimeout is when to give an attempt up for another node: after the patience, but early enough to leave half
// of the remaining time to the next one, unless this one is not even expected by then. 0: never.
func (c *call) attemptTimeout(ctx context.Context, n *node) time.Duration {
	if n.others == 0 || !c.retriable || c.asked == maxAttempts {
		return 0
	}
	timeout := c.patience(n)
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline)/2, n.expected+4*n.region.Deviation))
	}
	return timeout
}

// maxAttempts is how many nodes a call may ask: one, another, and a third when nothing was heard of either. Two regions
// that die in the same second ended one call in 500 of those under way with two.
const maxAttempts = 3

// again tells whether the call goes to another node after what failed before and this result. A healthy node's refusal
// costs nothing; whatever else is repeated must be in the budget.
func (c *call) again(ctx context.Context, failed, r result) bool {
	if r.err == nil || !r.retry || !c.retriable || ctx.Err() != nil || c.asked >= maxAttempts {
		return false
	}
	if c.asked > 1 && heavier(failed, r).weight != silent {
		return false
	}
	reason := rpcerr.Reason(r.err).String()
	paid := r.verdict != measure.Good
	if paid && !c.f.retries.take() {
		c.f.metrics.withheld.WithLabelValues(reason).Inc()
		return false
	}
	c.repeats, c.paid = reason, paid
	c.f.deps.Log.Debug("trying another region", slog.String("decision", c.decision.ID), slog.String("method", c.name),
		slog.String("reason", reason))
	return true
}

// repeated counts an attempt that again allowed, once somebody was found to make it.
func (c *call) repeated(found bool) {
	switch {
	case c.repeats == "":
	case found:
		c.f.metrics.retries.WithLabelValues(c.repeats).Inc()
	case c.paid:
		c.f.retries.add(1)
	}
	c.repeats = ""
}

// record hands the decision over, once, with what the caller is answered.
func (c *call) record(answered error) {
	if c.recorded {
		return
	}
	c.decision.Code, c.decision.Reason = status.Code(answered), rpcerr.Reason(answered)
	c.recorded = true
	c.decision.Total = time.Since(c.arrived)
	if !c.foreign {
		c.decision.Ours = c.decision.Total
	}
	c.f.answered(c.label, c.decision.Total)
	c.f.deps.Record(c.decision)
}

// prepare sets what surrounds the answer of a node: its own headers and trailers, and who decided what.
func (c *call) prepare(stream grpc.ServerStream, n *node, r result) error {
	stream.SetTrailer(endToEnd(r.trailer))
	if err := stream.SetHeader(c.header(r.header, n)); err != nil {
		return ended(stream.Context()) // only once the caller is gone
	}
	return nil
}

func (c *call) header(md metadata.MD, n *node) metadata.MD {
	h := endToEnd(md)
	h.Set(HeaderDecision, c.decision.ID)
	if n != nil {
		h.Set(HeaderRegion, n.region.Name)
	}
	return h
}

// nobody ends a call that nobody is left for: with what the first attempt said, if there was one.
func (c *call) nobody(stream grpc.ServerStream, failed result) error {
	none := c.noRegion()
	if failed.err != nil {
		none = failed.err
	}
	c.record(none)
	return cmp.Or(c.prepare(stream, nil, failed), none)
}

// maxNamed bounds how many regions a NO_REGION status names: statuses travel in headers.
const maxNamed = 32

// noRegion is the status when nobody could be asked: for want of time if any other region had time.
func (c *call) noRegion() error {
	a := c.attempt()
	e := arbiter.Explain(a.Snapshot, a.Request, a.Draw)
	var options []rpcerr.Option
	code, reason := codes.Unavailable, errorsv1.Reason_REASON_NO_REGION
	for i, candidate := range e.Candidates {
		if candidate.Reason == arbiter.TooFar {
			code, reason = codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR
		}
		if i < maxNamed {
			options = append(options, rpcerr.Meta(candidate.Region.Name, candidate.Reason.String()))
		}
	}
	a.Code, a.Reason = code, reason
	if reason == errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR {
		return rpcerr.New(code, reason, "No region that can serve the call is near enough for the time left.", options...)
	}
	return rpcerr.New(code, reason, fmt.Sprintf("No region can serve the call now (%d known).", len(e.Candidates)), options...)
}

// heavier keeps the result that tells the caller more; of equals, the newer one.
func heavier(old, new result) result {
	if old.err != nil && old.weight > new.weight {
		return old
	}
	return new
}

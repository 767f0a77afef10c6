package router

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/checkup"
)

// checkTimeout is how long the members may take for what they measure: half of it is lost pings' time.
const checkTimeout = 8 * time.Second

// checked is one member and what it said.
type checked struct {
	member checkup.Member
	role   Role
	ring   string // its name in the ring; empty without
	shown  *routerv1.CheckedMember
	paths  []*regionv1.Path
}

// Check implements rimlight.router.v1.RouterAdminService.
func (r *Router) Check(ctx context.Context, q *routerv1.CheckRequest) (*routerv1.CheckResponse, error) {
	answer := &routerv1.CheckResponse{Version: r.deps.Version, ReceiveTime: timestamppb.New(r.deps.Now())}
	ctx, cancel := context.WithTimeout(onBehalf(ctx), checkTimeout)
	defer cancel()
	if q.GetLocalOnly() {
		answer.OwnPaths = r.paths(ctx)
		answer.AnswerTime = timestamppb.New(r.deps.Now())
		return answer, nil
	}
	all := r.checkAll(ctx)
	if errors.Is(ctx.Err(), context.Canceled) { // of those who were late by then we know that
		return nil, toStatus(ctx.Err())
	}
	return r.judged(all, q.GetSlowDisk().AsDuration()), nil
}

func (r *Router) paths(ctx context.Context) []*regionv1.Path {
	if r.deps.Paths == nil {
		return nil
	}
	return r.deps.Paths(ctx)
}

// checkAll asks every member at once, this router too.
func (r *Router) checkAll(ctx context.Context) []*checked {
	var all []*checked
	var asking sync.WaitGroup
	ask := func(c *checked, question func() (account, error)) {
		all = append(all, c)
		asking.Go(func() {
			sent := r.deps.Now()
			t, err := question()
			c.take(sent, r.deps.Now(), t, err)
		})
	}
	rings, ringRouters := map[string]string{}, map[string]string{}
	for _, m := range r.members() {
		switch {
		case m.State == Dead: // nobody probes it any more
			c := newChecked(m.Role, m.Name, m.NodeID, m.ID, m.Version)
			c.member.Silence, c.shown.Address = "the ring has found it dead", m.Address
			all = append(all, c)
		case m.Role == RoleRouter:
			ringRouters[m.Name] = m.ID
		default:
			rings[m.target().Key()] = m.ID
		}
	}
	self := newChecked(RoleRouter, r.config.Name, "", ringRouters[r.config.Name], r.deps.Version)
	ask(self, func() (account, error) {
		now := timestamppb.New(r.deps.Now())
		return account{version: r.deps.Version, received: now, answered: now, paths: r.paths(ctx)}, nil
	})
	for _, p := range r.peerList() {
		ask(newChecked(RoleRouter, p.name, "", ringRouters[p.name], ""), func() (account, error) {
			a, err := p.client.Check(ctx, &routerv1.CheckRequest{LocalOnly: true})
			return account{a.GetVersion(), a.GetReceiveTime(), a.GetAnswerTime(), a.GetOwnPaths(), nil}, err
		})
	}
	for _, s := range r.table.States() {
		foreign := s.Answer == nil && s.Row.Reachable
		c := newChecked(RoleRegion, s.Target.Region, s.Row.NodeID, rings[s.Row.Key], cmp.Or(s.Answer.GetVersion(), s.Target.Version))
		c.shown.Address = s.Target.Address
		ask(c, func() (account, error) {
			conn := r.nodes.get(s.Row.Key)
			if foreign || conn == nil { // a backend that is not Rimlight's: that it is alive is all there is to know
				return account{}, nil
			}
			a, err := regionv1.NewRegionServiceClient(conn).Check(ctx, &regionv1.CheckRequest{})
			return account{a.GetVersion(), a.GetReceiveTime(), a.GetAnswerTime(), a.GetPaths(), a.GetDisk()}, err
		})
	}
	asking.Wait()
	nameApart(all)
	return all
}

// account is what a member answers.
type account struct {
	version            string
	received, answered *timestamppb.Timestamp
	paths              []*regionv1.Path
	disk               *regionv1.DiskHealth
}

func newChecked(role Role, name, node, ring, version string) *checked {
	kind := map[Role]string{RoleRouter: "router ", RoleRegion: "region "}[role]
	return &checked{
		role: role, ring: ring, member: checkup.Member{Name: kind + name, Version: version},
		shown: &routerv1.CheckedMember{Name: node},
	}
}

// take takes an answer in. The clock is compared as NTP does: what the member took itself is not the way's time.
func (c *checked) take(sent, back time.Time, t account, err error) {
	m := &c.member
	if err != nil {
		m.Silence = silence(err)
		return
	}
	m.Version, c.paths = cmp.Or(t.version, m.Version), t.paths
	if t.received != nil && t.answered != nil {
		received, answered := t.received.AsTime(), t.answered.AsTime()
		m.ClockOffset = (received.Sub(sent) + answered.Sub(back)) / 2
		m.ClockError = max(0, back.Sub(sent)-answered.Sub(received)) / 2
		c.shown.ClockOffset, c.shown.ClockError = durationpb.New(m.ClockOffset), durationpb.New(m.ClockError)
	}
	if d := t.disk; d != nil {
		c.shown.Disk = d
		m.SyncP99, m.Syncs, m.FreeBytes, m.AllBytes = d.GetSyncP99().AsDuration(), int(d.GetSyncs()), d.GetFreeBytes(), d.GetTotalBytes()
	}
}

// silence is why a member did not answer, in words for people.
func silence(err error) string {
	switch st := status.Convert(err); {
	case st.Code() == codes.DeadlineExceeded:
		return "no answer within " + checkTimeout.String()
	case st.Code() == codes.Unimplemented:
		return "its version does not know the question"
	case rpcerr.Info(err) != nil:
		return rpcerr.Info(err).GetReason() + ": " + st.Message()
	default:
		return st.Message()
	}
}

// nameApart gives nodes that share a region's name their ids.
func nameApart(all []*checked) {
	count := map[string]int{}
	for _, c := range all {
		count[c.member.Name]++
	}
	for _, c := range all {
		if node := c.shown.GetName(); count[c.member.Name] > 1 && node != "" {
			c.member.Name += " " + node
		}
		c.shown.Name = c.member.Name
	}
	slices.SortStableFunc(all, func(a, b *checked) int {
		return cmp.Or(cmp.Compare(a.role, b.role), strings.Compare(a.member.Name, b.member.Name))
	})
}

// judged is what was found, and what is wrong with it.
func (r *Router) judged(all []*checked, slowDisk time.Duration) *routerv1.CheckResponse {
	answer := &routerv1.CheckResponse{}
	names := map[string]string{} // by name in the ring
	for _, c := range all {
		if c.ring != "" {
			names[c.ring] = c.member.Name
		}
	}
	var members []checkup.Member
	var paths []checkup.Path
	for _, c := range all {
		c.shown.Version, c.shown.Silence = c.member.Version, c.member.Silence
		answer.Members = append(answer.Members, c.shown)
		members = append(members, c.member)
		for _, p := range c.paths {
			to := cmp.Or(names[p.GetMemberName()], p.GetMemberName()) // one that this router does not know
			answer.Paths = append(answer.Paths, &routerv1.CheckedPath{From: c.member.Name, To: to, Rtt: p.GetRtt(), Sent: p.GetSent(), Lost: p.GetLost()})
			paths = append(paths, checkup.Path{
				From: c.member.Name, To: to, RTT: p.GetRtt().AsDuration(), Sent: int(p.GetSent()), Lost: int(p.GetLost()),
			})
		}
	}
	for _, p := range checkup.Problems(members, paths, slowDisk) {
		answer.Problems = append(answer.Problems, &routerv1.CheckProblem{Subject: p.Subject, Sentence: p.Sentence, Fix: p.Fix})
	}
	return answer
}

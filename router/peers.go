package router

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router/measure"
)

// peerTimeout is how long a question to another router may take before that one counts as silent.
const peerTimeout = 500 * time.Millisecond

type peer struct {
	name   string
	client routerv1.RouterAdminServiceClient
}

// peerList is the other routers, by name.
func (r *Router) peerList() []peer {
	var peers []peer
	for key, conn := range r.peers.all() {
		name, _, _ := strings.Cut(key, "@")
		peers = append(peers, peer{name, routerv1.NewRouterAdminServiceClient(conn)})
	}
	slices.SortFunc(peers, func(a, b peer) int { return strings.Compare(a.name, b.name) })
	return peers
}

// askPeers asks all other routers at once. It gives the answers by router and names those that were silent.
func askPeers[T any](ctx context.Context, r *Router, ask func(context.Context, routerv1.RouterAdminServiceClient) (T, error)) (
	answers []T, silent []string,
) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	peers := r.peerList()
	all, errs := make([]T, len(peers)), make([]error, len(peers))
	var asked sync.WaitGroup
	for i, p := range peers {
		asked.Go(func() { all[i], errs[i] = ask(ctx, p.client) })
	}
	asked.Wait()
	for i, p := range peers {
		if errs[i] != nil {
			silent = append(silent, p.name)
		} else {
			answers = append(answers, all[i])
		}
	}
	return answers, silent
}

// memberList is the ring's members, then the regions that only the flags know: each as gossip, probes and calls see it.
func (r *Router) memberList() []*routerv1.Member {
	byKey := map[string]measure.State{}
	inRing := map[string]bool{}
	states := r.table.States()
	for _, s := range states {
		byKey[s.Row.Key] = s
	}
	_, silent := r.slips.now()
	shares := r.decisions.shares()
	var list []*routerv1.Member
	for _, m := range r.members() {
		key := m.target().Key()
		inRing[key] = m.Role == RoleRegion
		member := &routerv1.Member{
			MemberName: m.ID, Role: roleProto(m.Role), Name: m.Name, RpcAddress: m.Address, GossipState: string(m.State),
			Version: m.Version, Mode: m.Mode, NodeId: m.NodeID,
		}
		switch s, measured := byKey[key]; {
		case m.Role == RoleRegion && measured:
			seen(member, s, shares[s.Row.Key] > 0)
		case m.Role == RoleRouter && m.Name != r.config.Name && m.present():
			member.ProbeState = probeAnswers
			if slices.Contains(silent, m.Name) {
				member.ProbeState = probeSilent
			}
		}
		member.Disagreement = disagreement(member)
		list = append(list, member)
	}
	for _, s := range states {
		if !inRing[s.Row.Key] {
			member := &routerv1.Member{
				Role: routerv1.MemberRole_MEMBER_ROLE_REGION, Name: s.Target.Region, RpcAddress: s.Target.Address,
				Version: s.Answer.GetVersion(), Mode: modeProto(s.Row.Mode), NodeId: s.Row.NodeID,
			}
			seen(member, s, shares[s.Row.Key] > 0)
			member.Disagreement = disagreement(member)
			list = append(list, member)
		}
	}
	slices.SortStableFunc(list, func(a, b *routerv1.Member) int {
		return cmp.Or(cmp.Compare(a.GetRole(), b.GetRole()), strings.Compare(a.GetName(), b.GetName()),
			strings.Compare(a.GetMemberName(), b.GetMemberName()))
	})
	return list
}

// What probes and calls say of a member.
const (
	probeAnswers = "answers"
	probeSilent  = "silent"

	callsGood        = "good"
	callsUnused      = "unused"
	callsSuspect     = "suspect"
	callsEjected     = "ejected"
	callsUnreachable = "unreachable"
)

// seen fills in what the measurements say of a node; used: calls went there lately.
func seen(m *routerv1.Member, s measure.State, used bool) {
	m.Reachable, m.ProbeState, m.CallState = s.Row.Reachable, probeAnswers, callsGood
	if s.LastError != "" || s.LastAnswer.IsZero() {
		m.ProbeState = probeSilent
	}
	switch {
	case !s.Row.Reachable:
		m.CallState = callsUnreachable
	case s.Row.Ejected:
		m.CallState = callsEjected
	case s.Row.Suspect:
		m.CallState = callsSuspect
	case !used:
		m.CallState = callsUnused
	}
}

// disagreement tells in one sentence where gossip, probes and calls contradict each other.
func disagreement(m *routerv1.Member) string {
	gossip, known := State(m.GetGossipState()), m.GetGossipState() != ""
	present := !known || gossip == Alive
	troubled := m.GetCallState() == callsSuspect || m.GetCallState() == callsEjected
	switch {
	case known && gossip == Alive && m.GetProbeState() == probeSilent:
		return "Gossip says alive, and it does not answer: a cut between this router and it, or its port is closed."
	case known && !present && m.GetProbeState() == probeAnswers:
		return "Gossip says " + string(gossip) + ", and it answers: the ring is cut, or its gossip port is closed."
	case m.GetProbeState() == probeAnswers && troubled:
		return "It answers probes, and calls there are " + map[string]string{callsSuspect: "overdue", callsEjected: "failing"}[m.GetCallState()] + "."
	}
	return ""
}

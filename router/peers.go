package router

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
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

// memberList is the ring's members, then the regions that only the flags know.
func (r *Router) memberList() []*routerv1.Member {
	reachable := map[string]bool{} // by key
	inRing := map[string]bool{}
	states := r.table.States()
	for _, s := range states {
		reachable[s.Row.Key] = s.Row.Reachable
	}
	var list []*routerv1.Member
	for _, m := range r.members() {
		key := m.target().Key()
		inRing[key] = m.Role == RoleRegion
		list = append(list, &routerv1.Member{
			MemberName: m.ID, Role: roleProto(m.Role), Name: m.Name, RpcAddress: m.Address, GossipState: string(m.State),
			Version: m.Version, Mode: m.Mode, NodeId: m.NodeID, Reachable: m.Role == RoleRegion && reachable[key],
		})
	}
	for _, s := range states {
		if !inRing[s.Row.Key] {
			list = append(list, &routerv1.Member{
				Role: routerv1.MemberRole_MEMBER_ROLE_REGION, Name: s.Target.Region, RpcAddress: s.Target.Address,
				Version: s.Answer.GetVersion(), Mode: modeProto(s.Row.Mode), NodeId: s.Row.NodeID, Reachable: s.Row.Reachable,
			})
		}
	}
	slices.SortStableFunc(list, func(a, b *routerv1.Member) int {
		return cmp.Or(cmp.Compare(a.GetRole(), b.GetRole()), strings.Compare(a.GetName(), b.GetName()),
			strings.Compare(a.GetMemberName(), b.GetMemberName()))
	})
	return list
}

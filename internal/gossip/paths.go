package gossip

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

const (
	// pathPings is how often each other member is pinged: enough to tell a lossy way from a lost packet.
	pathPings = 5
	// pathsAtOnce bounds the pings under way, so that a check of a large ring is no flood.
	pathsAtOnce = 32
)

// Paths pings every other member that is not known to be gone, over the ring's own UDP, and tells how that went, by name. It
// takes a few round trips, and up to 3 s where nobody answers; when ctx ends, what was measured by then.
func (r *Ring) Paths(ctx context.Context) []*regionv1.Path {
	others := slices.DeleteFunc(r.list.Members(), func(n *memberlist.Node) bool { return n.Name == r.self })
	slices.SortFunc(others, func(a, b *memberlist.Node) int { return strings.Compare(a.Name, b.Name) })
	paths := make([]*regionv1.Path, len(others))
	slots := make(chan struct{}, pathsAtOnce)
	var measuring sync.WaitGroup
	for i, other := range others {
		measuring.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			paths[i] = r.path(ctx, other)
		})
	}
	measuring.Wait()
	return paths
}

func (r *Ring) path(ctx context.Context, other *memberlist.Node) *regionv1.Path {
	p := &regionv1.Path{MemberName: other.Name}
	var took []time.Duration
	for range pathPings {
		if ctx.Err() != nil {
			break
		}
		p.Sent++
		rtt, err := r.list.Ping(other.Name, &net.UDPAddr{IP: other.Addr, Port: int(other.Port)})
		if err != nil { // no answer in time, or no way to send
			p.Lost++
			continue
		}
		took = append(took, rtt)
	}
	if len(took) > 0 {
		slices.Sort(took)
		p.Rtt = durationpb.New(max(0, took[len(took)/2])) // memberlist notes when it has sent: on one machine, perhaps after the answer
	}
	return p
}

//rimlight:bubble every fleet runs in a synctest bubble

package router_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router"
)

// health is what a node's Check finds.
type health struct {
	version string
	skew    time.Duration
	free    uint64
	down    error
	bearer  string // of the last Check
}

// Check implements rimlight.region.v1.RegionService. Its pings take three seconds.
func (r *regionNode) Check(ctx context.Context, _ *regionv1.CheckRequest) (*regionv1.CheckResponse, error) {
	r.mu.Lock()
	h := r.health
	r.health.bearer = strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ",")
	r.mu.Unlock()
	if h.down != nil {
		return nil, h.down
	}
	received := time.Now().Add(h.skew)
	time.Sleep(3 * time.Second)
	return &regionv1.CheckResponse{
		Version: h.version, ReceiveTime: timestamppb.New(received), AnswerTime: timestamppb.New(time.Now().Add(h.skew)),
		Disk:  &regionv1.DiskHealth{SyncP99: durationpb.New(5 * ms), Syncs: 100, FreeBytes: h.free, TotalBytes: 1 << 40},
		Paths: []*regionv1.Path{{MemberName: "router/r1/1", Rtt: durationpb.New(20 * ms), Sent: 5}},
	}, nil
}

func (r *regionNode) suffer(change func(*health)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.health)
}

func TestCheck(t *testing.T) {
	healthy := func(f *fleet) {
		for _, n := range f.regions {
			n.suffer(func(h *health) { h.version, h.free = "v9", 1<<39 })
		}
	}
	for _, tt := range []struct {
		name   string
		change func(f *fleet)
		want   []string // beginnings, besides r3, which never answers
	}{
		{"nothing is wrong", func(*fleet) {}, nil},
		{"a region is down", func(f *fleet) {
			f.regions["far"].suffer(func(h *health) { h.down = status.Error(codes.Unavailable, "refused") })
		},
			[]string{"region far: It does not answer: refused."}},
		{"a region is gone for the ring, too", func(f *fleet) {
			dead := regionMember("far")
			dead.State = router.Dead
			f.ring.set(routerMember("r1"), routerMember("r2"), routerMember("r3"), regionMember("near"), dead)
			time.Sleep(time.Second)
		}, []string{"region far: It does not answer: the ring has found it dead."}},
		{"a node does not know the question", func(f *fleet) {
			f.regions["far"].suffer(func(h *health) { h.down = status.Error(codes.Unimplemented, "unknown method") })
		}, []string{"region far: It does not answer: its version does not know the question."}},
		{"a clock is off", func(f *fleet) { f.regions["near"].suffer(func(h *health) { h.skew = 3 * time.Second }) },
			[]string{"region near: Its clock is 3s ahead of the asked router's"}},
		{"a disk is nearly full", func(f *fleet) { f.regions["near"].suffer(func(h *health) { h.free = 1 << 20 }) },
			[]string{"region near: Its disk is nearly full"}},
		{"a version differs", func(f *fleet) { f.regions["near"].suffer(func(h *health) { h.version = "v8" }) },
			[]string{"fleet: It runs 2 versions: v9 on 3; v8 on region near."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			paths := func(config *router.Config, deps *router.Deps) {
				deps.Paths = func(context.Context) []*regionv1.Path {
					if config.Name != "r2" {
						return nil
					}
					return []*regionv1.Path{{MemberName: "region/near/1", Sent: 5, Lost: 2, Rtt: durationpb.New(ms)}}
				}
			}
			inFleetWith(t, paths, func(t *testing.T, f *fleet) {
				healthy(f)
				tt.change(f)
				got, err := f.admin.Check(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret"), &routerv1.CheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				var problems []string
				for _, p := range got.GetProblems() {
					problems = append(problems, p.GetSubject()+": "+p.GetSentence())
				}
				want := append([]string{"router r3: It does not answer: no answer within 8s", "router r2: 2 of 5 pings from it to region near were lost"}, tt.want...)
				for _, w := range want {
					i := slices.IndexFunc(problems, func(p string) bool { return strings.HasPrefix(p, w) })
					if i < 0 {
						t.Fatalf("got %q, want one that begins with %q", got.GetProblems(), w)
					}
					problems = slices.Delete(problems, i, i+1)
				}
				if len(problems) > 0 {
					t.Errorf("got %q, too", problems)
				}
				var names []string
				for _, m := range got.GetMembers() {
					names = append(names, m.GetName())
				}
				if strings.Join(names, ", ") != "router r1, router r2, router r3, region far, region near" {
					t.Errorf("members %q", names)
				}
				if n := f.regions["near"]; n.health.bearer != "Bearer secret" {
					t.Errorf("the node was asked on behalf of %q", n.health.bearer)
				}
			})
		})
	}
}

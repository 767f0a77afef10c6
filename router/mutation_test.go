package router_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router"
)

// SetFault implements rimlight.region.v1.RegionService.
func (r *regionNode) SetFault(_ context.Context, q *regionv1.SetFaultRequest) (*regionv1.SetFaultResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = []*regionv1.Fault{{
		Kind: q.GetKind(), AddedTime: q.GetAddedTime(), ErrorShare: q.GetErrorShare(), ExpireTime: timestamppb.New(time.Now().Add(q.GetDuration().AsDuration())),
	}}
	return &regionv1.SetFaultResponse{Faults: r.faults}, nil
}

// breakDown lets reads fail.
func (r *regionNode) breakDown(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = err
}

// drained asks r1 to drain near.
func (f *fleet) drained(t *testing.T, change func(*routerv1.SetRegionModeRequest)) (*routerv1.SetRegionModeResponse, error) {
	q := &routerv1.SetRegionModeRequest{
		RequestId: "x", Region: "near", Mode: regionv1.RegionMode_REGION_MODE_DRAINED, Reason: "new disks",
	}
	change(q)
	return f.admin.SetRegionMode(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret"), q)
}

func TestADryRunPredictsAndChangesNothing(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.reads(t, 2*time.Second)
		got, err := f.drained(t, func(q *routerv1.SetRegionModeRequest) { q.DryRun = true })
		if err != nil {
			t.Fatal(err)
		}
		far, near := got.GetPredictions()[0], got.GetPredictions()[1]
		if got.GetPredictedFromCalls() != 40 || got.GetUnservedCalls() != 0 || near.GetShare() != 1 || near.GetPredictedShare() != 0 ||
			far.GetShare() != 0 || far.GetPredictedShare() != 1 || far.GetPredictedUtilisation() <= far.GetUtilisation() {
			t.Errorf("got %v", got)
		}
		if s := got.GetSilentRouters(); len(s) != 1 || s[0] != "r3" || got.GetLastRegion() {
			t.Errorf("got silent %v, last region %v", s, got.GetLastRegion())
		}
		if got.GetRegions()[0].GetMode() != regionv1.RegionMode_REGION_MODE_SERVING || f.regions["near"].mode != regionv1.RegionMode_REGION_MODE_SERVING {
			t.Error("it changed the region")
		}
		if entries := f.audit(t, "r1"); len(entries) != 0 {
			t.Errorf("it was audited: %v", entries)
		}
	})
}

func (f *fleet) audit(t *testing.T, name string) []*routerv1.AuditEntry {
	got, err := f.routers[name].ListAuditEntries(t.Context(), &routerv1.ListAuditEntriesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return got.GetEntries()
}

func TestEveryChangeIsAudited(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		if _, err := f.drained(t, func(q *routerv1.SetRegionModeRequest) { q.ExpireAfter = durationpb.New(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		if got := f.regions["near"].expire; got != time.Minute {
			t.Errorf("the node was told %v", got)
		}
		time.Sleep(time.Second)
		f.regions["near"].refuse = rpcerr.New(codes.PermissionDenied, errorsv1.Reason_REASON_ROLE_NOT_ALLOWED, "No.")
		if _, err := f.drained(t, func(q *routerv1.SetRegionModeRequest) { q.Mode = regionv1.RegionMode_REGION_MODE_SERVING }); err == nil {
			t.Fatal("the node's refusal was lost")
		}
		for _, asked := range []string{"r1", "r2"} { // the changes were made through r1
			got := f.audit(t, asked)
			if len(got) != 2 {
				t.Fatalf("%s tells %v", asked, got)
			}
			failed, made := got[0], got[1]
			if made.GetBefore() != "serving" || made.GetAfter() != "drained" || made.GetAsked() != "drained for 1m0s" || made.GetReason() != "new disks" ||
				made.GetRouter() != "r1" || made.GetRole() != "viewer" || made.GetTarget() != "near" || made.GetProblem() != "" {
				t.Errorf("%s tells %v", asked, made)
			}
			if failed.GetProblem() != "ROLE_NOT_ALLOWED" || failed.GetAfter() != "drained" {
				t.Errorf("%s tells %v", asked, failed)
			}
		}
	})
}

func inject(t *testing.T, f *fleet, kind regionv1.FaultKind, region string) ([]*regionv1.Fault, error) {
	got, err := f.admin.InjectFault(t.Context(), &routerv1.InjectFaultRequest{
		RequestId: "x", Region: region, Kind: kind, Duration: durationpb.New(10 * time.Second), Reason: "practice",
	})
	return got.GetFaults(), err
}

func TestFaultsNeedDrills(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		_, err := inject(t, f, regionv1.FaultKind_FAULT_KIND_BROWNOUT, "near")
		wantStatus(t, err, codes.FailedPrecondition, "DRILLS_OFF")
		if entries := f.audit(t, "r1"); len(entries) != 0 {
			t.Errorf("got %v", entries)
		}
	})
}

// links implements router.Saboteur without breaking anything.
type links struct{ router.Saboteur }

func (links) Partition(string, time.Duration) error { return nil }
func (links) Kill(string, time.Duration) error      { return router.ErrFaultNotPossible }
func (links) Active(region string) []*regionv1.Fault {
	if region != "near" {
		return nil
	}
	return []*regionv1.Fault{{Kind: regionv1.FaultKind_FAULT_KIND_PARTITION, ExpireTime: timestamppb.New(time.Now().Add(time.Minute))}}
}

func TestFaults(t *testing.T) {
	inFleetWith(t, func(c *router.Config, d *router.Deps) { c.Drills, d.Saboteur = true, links{} }, func(t *testing.T, f *fleet) {
		got, err := inject(t, f, regionv1.FaultKind_FAULT_KIND_BROWNOUT, "near")
		if err != nil || len(got) != 2 || got[0].GetAddedTime().AsDuration() != 500*ms || got[1].GetKind() != regionv1.FaultKind_FAULT_KIND_PARTITION {
			t.Errorf("a brownout: got %v and %v", got, err)
		}
		time.Sleep(ms)
		if got, err := inject(t, f, regionv1.FaultKind_FAULT_KIND_PARTITION, "near"); err != nil || len(got) == 0 {
			t.Errorf("a partition: got %v and %v", got, err)
		}
		_, err = inject(t, f, regionv1.FaultKind_FAULT_KIND_KILL, "near")
		wantStatus(t, err, codes.FailedPrecondition, "FAULT_NOT_POSSIBLE")
		_, err = inject(t, f, regionv1.FaultKind_FAULT_KIND_KILL, "mars")
		wantStatus(t, err, codes.NotFound, "REGION_NOT_FOUND")
		if got, err := inject(t, f, regionv1.FaultKind_FAULT_KIND_ERRORS, "far"); err != nil || got[0].GetErrorShare() != 1 {
			t.Errorf("errors: got %v and %v", got, err)
		}
		time.Sleep(2 * time.Second) // the next probe tells
		regions, err := f.admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{LocalOnly: true})
		if err != nil || len(regions.GetRegions()[0].GetFaults()) != 1 || len(regions.GetRegions()[1].GetFaults()) != 2 {
			t.Errorf("regions tell %v and %v", regions, err)
		}
		time.Sleep(10 * time.Second) // healed, whatever the last probe said
		regions, err = f.admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{LocalOnly: true})
		if err != nil || len(regions.GetRegions()[0].GetFaults()) != 0 {
			t.Errorf("regions tell %v and %v", regions, err)
		}
		if entries := f.audit(t, "r1"); len(entries) != 4 || entries[3].GetAsked() != "brownout for 10s" || entries[3].GetAfter() != "brownout, partition" {
			t.Errorf("the audit log tells %v", entries)
		}
	})
}

func TestMembersAsGossipProbesAndCallsSeeThem(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.reads(t, 2*time.Second)
		lost := regionMember("lost") // gossip hears it, no call does
		f.ring.set(append(f.ring.members[:len(f.ring.members):len(f.ring.members)], lost)...)
		time.Sleep(3 * time.Second)
		f.regions["near"].breakDown(rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STORE_UNAVAILABLE, "No disk."))
		for range 3 {
			f.read(t, "r1")
		}
		got, err := f.admin.ListMembers(t.Context(), &routerv1.ListMembersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][4]string{
			"r1": {"alive", "", "", ""}, "r2": {"alive", "answers", "", ""}, "r3": {"alive", "silent", "", "disagree"},
			"far": {"alive", "answers", "good", ""}, "near": {"alive", "answers", "ejected", "disagree"}, "lost": {"alive", "silent", "unreachable", "disagree"},
		}
		for _, m := range got.GetMembers() {
			w, disagree := want[m.GetName()], ""
			if m.GetDisagreement() != "" {
				disagree = "disagree"
			}
			if got := [4]string{m.GetGossipState(), m.GetProbeState(), m.GetCallState(), disagree}; got != w {
				t.Errorf("%s: got %q (%s), want %q", m.GetName(), got, m.GetDisagreement(), w)
			}
		}
	})
}

package region_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func inWorld(t *testing.T, drills bool, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.drills = drills
		w.start()
		defer func() {
			if err := w.end(); err != nil {
				t.Error(err)
			}
		}()
		test(t, w)
	})
}

// viewerCall makes a call whose handler takes no time.
func (w *world) viewerCall(ctx context.Context, method string) (took time.Duration, err error) {
	start := time.Now()
	_, err = w.node.UnaryInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method},
		func(context.Context, any) (any, error) { return nil, nil })
	return time.Since(start), err
}

func TestDrills(t *testing.T) {
	const method = offerv1.OfferService_RequestOffer_FullMethodName
	inWorld(t, true, func(t *testing.T, w *world) {
		brownout := &regionv1.SetFaultRequest{
			Kind: regionv1.FaultKind_FAULT_KIND_BROWNOUT, Duration: durationpb.New(10 * time.Second), AddedTime: durationpb.New(300 * time.Millisecond),
		}
		if got, err := w.node.SetFault(t.Context(), brownout); err != nil || len(got.GetFaults()) != 1 {
			t.Fatalf("got %v and %v", got, err)
		}
		if took, err := w.viewerCall(t.Context(), method); took != 300*time.Millisecond || err != nil {
			t.Errorf("a viewer's call took %v and ended %v", took, err)
		}
		if took, _ := w.viewerCall(t.Context(), regionv1.RegionService_Probe_FullMethodName); took != 0 {
			t.Errorf("a probe took %v, and drills are for viewers' calls", took)
		}
		impatient, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		if took, err := w.viewerCall(impatient, method); took != time.Millisecond || status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("an impatient caller waited %v and was told %v", took, err)
		}
		probe, err := w.node.Probe(t.Context(), &regionv1.ProbeRequest{})
		if err != nil || len(probe.GetFaults()) != 1 || probe.GetFaults()[0].GetAddedTime().AsDuration() != 300*time.Millisecond {
			t.Errorf("a probe tells %v and %v", probe, err)
		}

		failing := &regionv1.SetFaultRequest{Kind: regionv1.FaultKind_FAULT_KIND_ERRORS, Duration: durationpb.New(time.Minute), ErrorShare: 1}
		if got, err := w.node.SetFault(t.Context(), failing); err != nil || len(got.GetFaults()) != 2 {
			t.Fatalf("got %v and %v", got, err)
		}
		if _, err := w.viewerCall(t.Context(), method); rpcerr.Reason(err) != errorsv1.Reason_REASON_STORE_UNAVAILABLE {
			t.Errorf("got %v, want a failure that routers try elsewhere", err)
		}
		failing.Duration = durationpb.New(0)
		if got, err := w.node.SetFault(t.Context(), failing); err != nil || len(got.GetFaults()) != 1 {
			t.Errorf("healed: got %v and %v", got, err)
		}
		time.Sleep(10 * time.Second)
		if took, err := w.viewerCall(t.Context(), method); took != 0 || err != nil {
			t.Errorf("after its time the brownout still takes %v, %v", took, err)
		}
	})
}

// Routers leave a slow node. If it went on telling how slow it was, they would never come back.
func TestABadMomentIsForgottenWithoutCalls(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		service := func() time.Duration {
			probe, err := w.node.Probe(t.Context(), &regionv1.ProbeRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return probe.GetLoad().GetServiceTime().AsDuration()
		}
		if _, err := w.node.SetFault(t.Context(), &regionv1.SetFaultRequest{
			Kind: regionv1.FaultKind_FAULT_KIND_BROWNOUT, Duration: durationpb.New(time.Minute), AddedTime: durationpb.New(400 * time.Millisecond),
		}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := w.viewerCall(t.Context(), offerv1.OfferService_RequestOffer_FullMethodName); err != nil {
				t.Fatal(err)
			}
		}
		for _, tt := range []struct {
			after    time.Duration
			from, to time.Duration
		}{{0, 400 * time.Millisecond, 400 * time.Millisecond}, {3 * time.Second, 199 * time.Millisecond, 201 * time.Millisecond}, {10 * time.Second, 0, 10 * time.Millisecond}} {
			time.Sleep(tt.after)
			if got := service(); got < tt.from || got > tt.to {
				t.Errorf("%v later the node tells %v, want %v to %v", tt.after, got, tt.from, tt.to)
			}
		}
	})
}

func TestDrillsAreRefusedWithoutTheFlag(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		_, err := w.node.SetFault(t.Context(), &regionv1.SetFaultRequest{
			Kind: regionv1.FaultKind_FAULT_KIND_ERRORS, Duration: durationpb.New(time.Minute), ErrorShare: 1,
		})
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_DRILLS_OFF || status.Code(err) != codes.FailedPrecondition {
			t.Errorf("got %v", err)
		}
	})
}

func TestAModeExpires(t *testing.T) {
	const (
		serving  = regionv1.RegionMode_REGION_MODE_SERVING
		cordoned = regionv1.RegionMode_REGION_MODE_CORDONED
		drained  = regionv1.RegionMode_REGION_MODE_DRAINED
	)
	type set struct {
		after  time.Duration // since the last
		mode   regionv1.RegionMode
		expire time.Duration
	}
	for _, tt := range []struct {
		name string
		sets []set
		// the mode so long after the last set, with a restart of the node in between or not
		after time.Duration
		want  regionv1.RegionMode
	}{
		{"not before its time", []set{{0, drained, time.Minute}}, 59 * time.Second, drained},
		{"the mode before comes back", []set{{0, drained, time.Minute}}, 61 * time.Second, serving},
		{"without an expiry it stays", []set{{0, drained, 0}}, time.Hour, drained},
		{"a later change stays", []set{{0, drained, time.Minute}, {time.Second, cordoned, 0}}, time.Hour, cordoned},
		{"the same mode again, to stay", []set{{0, drained, time.Minute}, {time.Second, drained, 0}}, time.Hour, drained},
		{"the same mode again, for longer", []set{{0, drained, time.Minute}, {time.Second, drained, time.Hour}}, 2 * time.Minute, drained},
		{"over two expiries the last that was to stay comes back", []set{{0, cordoned, 0}, {0, drained, time.Minute}, {time.Second, serving, time.Minute}}, time.Hour, cordoned},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				inWorld(t, false, func(t *testing.T, w *world) {
					for _, s := range tt.sets {
						time.Sleep(s.after)
						q := &regionv1.SetModeRequest{Mode: s.mode, RequestId: "r"}
						if s.expire > 0 {
							q.ExpireAfter = durationpb.New(s.expire)
						}
						if _, err := w.node.SetMode(t.Context(), q); err != nil {
							t.Fatal(err)
						}
					}
					if restart {
						if err := w.end(); err != nil {
							t.Fatal(err)
						}
						w.start()
					}
					time.Sleep(tt.after)
					if got := w.node.Mode(); got != tt.want {
						t.Errorf("restart %v: got %v, want %v", restart, got, tt.want)
					}
				})
			})
		}
	}
}

package forward_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

func wantStatus(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	got := strings.TrimPrefix(rpcerr.Reason(err).String(), "REASON_")
	if status.Code(err) != code || got != reason {
		t.Errorf("got %v, want %v with reason %s", err, code, reason)
	}
}

func typed(code codes.Code, reason string, options ...rpcerr.Option) error {
	return rpcerr.New(code, errorsv1.Reason(errorsv1.Reason_value["REASON_"+reason]), "A test.", options...)
}

func hints(t testing.TB, h *offerv1.RoutingHints) []byte {
	t.Helper()
	b, err := proto.Marshal(&offerv1.RequestOfferRequest{Hints: h})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counted counts a handler's calls.
func counted(n *atomic.Int32, handle grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		n.Add(1)
		return handle(srv, stream)
	}
}

func TestRetryRules(t *testing.T) {
	broken := status.Error(codes.Unavailable, "transport is closing")
	for _, tt := range []struct {
		rule    string
		method  string
		near    error
		far     error // nil: it answers
		asked   int32 // calls at far
		code    codes.Code
		reason  string
		verdict measure.Verdict // about near
	}{
		{"NO_UNIT_HERE is tried elsewhere", redeemOffer, typed(codes.ResourceExhausted, "NO_UNIT_HERE"), nil, 1, codes.OK, "UNSPECIFIED", measure.Good},
		{"KEY_UNKNOWN is tried elsewhere", redeemOffer, typed(codes.Unavailable, "KEY_UNKNOWN"), nil, 1, codes.OK, "UNSPECIFIED", measure.Good},
		{"DROP_NOT_HEARD_OF is tried elsewhere", redeemOffer, typed(codes.Unavailable, "DROP_NOT_HEARD_OF"), nil, 1, codes.OK, "UNSPECIFIED", measure.Good},
		{"JOURNAL_FULL is tried elsewhere", redeemOffer, typed(codes.ResourceExhausted, "JOURNAL_FULL"), nil, 1, codes.OK, "UNSPECIFIED", measure.Good},
		{"DRAINING is tried elsewhere", requestOffer, typed(codes.Unavailable, "DRAINING"), nil, 1, codes.OK, "UNSPECIFIED", measure.Good},
		{"STORE_UNAVAILABLE is tried elsewhere", redeemOffer, typed(codes.Unavailable, "STORE_UNAVAILABLE"), nil, 1, codes.OK, "UNSPECIFIED", measure.Failed},
		{"OVERLOADED is tried elsewhere", requestOffer, typed(codes.ResourceExhausted, "OVERLOADED"), nil, 1, codes.OK, "UNSPECIFIED", measure.Shed},
		{"a broken connection is tried elsewhere", requestOffer, broken, nil, 1, codes.OK, "UNSPECIFIED", measure.Broken},
		{"a stream that delivered nothing is tried elsewhere", watchDrops, broken, nil, 1, codes.OK, "UNSPECIFIED", measure.Broken},
		{"SOLD_OUT is final", redeemOffer, typed(codes.FailedPrecondition, "SOLD_OUT"), nil, 0, codes.FailedPrecondition, "SOLD_OUT", measure.Good},
		{"TOKEN_EXPIRED is final", redeemOffer, typed(codes.FailedPrecondition, "TOKEN_EXPIRED"), nil, 0, codes.FailedPrecondition, "TOKEN_EXPIRED", measure.Good},
		{"a bad request is final and nobody's fault", requestOffer, typed(codes.InvalidArgument, "INVALID_REQUEST"), nil, 0, codes.InvalidArgument, "INVALID_REQUEST", measure.Ignored},
		{"a message that the node finds too large is final and nobody's fault", requestOffer, typed(codes.ResourceExhausted, "MESSAGE_TOO_LARGE"),
			nil, 0, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", measure.Ignored},
		{"a word of grpc's about size is", requestOffer, status.Error(codes.ResourceExhausted, "grpc: received message larger than max (9 vs. 8)"),
			nil, 0, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", measure.Ignored},
		{"a shed without a reason is a shed", requestOffer, status.Error(codes.ResourceExhausted, "slow down"), nil, 1, codes.OK, "UNSPECIFIED", measure.Shed},
		{"INTERNAL is not repeated", requestOffer, typed(codes.Internal, "INTERNAL"), nil, 0, codes.Internal, "INTERNAL", measure.Failed},
		{"grpc's word for garbage is the caller's fault", requestOffer, status.Error(codes.Internal, "grpc: failed to unmarshal the received message: x"),
			nil, 0, codes.InvalidArgument, "MALFORMED", measure.Ignored},
		{"both without a unit", redeemOffer, typed(codes.ResourceExhausted, "NO_UNIT_HERE"), typed(codes.ResourceExhausted, "NO_UNIT_HERE"), 1,
			codes.ResourceExhausted, "NO_UNIT_HERE", measure.Good},
		{"a typed NO_UNIT_HERE beats silence", redeemOffer, typed(codes.ResourceExhausted, "NO_UNIT_HERE"), broken, 1,
			codes.ResourceExhausted, "NO_UNIT_HERE", measure.Good},
		{"and whichever comes first", redeemOffer, broken, typed(codes.ResourceExhausted, "NO_UNIT_HERE"), 1,
			codes.ResourceExhausted, "NO_UNIT_HERE", measure.Broken},
		{"a definite word beats NO_UNIT_HERE", redeemOffer, typed(codes.ResourceExhausted, "NO_UNIT_HERE"), typed(codes.FailedPrecondition, "SOLD_OUT"), 1,
			codes.FailedPrecondition, "SOLD_OUT", measure.Good},
		{"both silent, and a third", requestOffer, broken, broken, 2, codes.Unavailable, "UPSTREAM_UNREACHABLE", measure.Broken},
		{"a foreign service is never repeated once sent", foreign, broken, nil, 0, codes.Unavailable, "UNSPECIFIED", measure.Broken},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var near, far atomic.Int32
			farHandler := answers("from far")
			if tt.far != nil {
				farHandler = fails(tt.far)
			}
			w := newWorld(t, forward.Config{HedgeShare: -1}, node{"near", counted(&near, fails(tt.near))}, node{"far", counted(&far, farHandler)},
				node{"third", counted(&far, farHandler)})
			stream, err := w.viewer.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, tt.method)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.SendMsg(&frame.Frame{Payload: hints(t, &offerv1.RoutingHints{DropId: aDrop})}); err != nil {
				t.Fatal(err)
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			answer := new(frame.Frame)
			err = stream.RecvMsg(answer)
			wantStatus(t, err, tt.code, tt.reason)
			for err == nil {
				err = stream.RecvMsg(new(frame.Frame))
			}
			if near.Load() != 1 || far.Load() != tt.asked {
				t.Errorf("asked near %d times and the others %d times, want 1 and %d", near.Load(), far.Load(), tt.asked)
			}
			if tt.code == codes.OK && string(answer.Payload) != "from far" {
				t.Errorf("got %q", answer.Payload)
			}
			if got := w.regions.of("near"); len(got) != 1 || got[0].Verdict != tt.verdict {
				t.Errorf("near's outcomes: got %+v, want one that is %v", got, tt.verdict)
			}
			if d := w.last(t); len(d.Attempts) != 1+int(tt.asked) {
				t.Errorf("recorded %d attempts", len(d.Attempts))
			}
		})
	}
}

func TestOnlyWhatDeclaresItMayBeRetried(t *testing.T) {
	methods := offerv1.File_rimlight_offer_v1_offer_service_proto.Services().Get(0).Methods()
	for i := range methods.Len() {
		if !forward.Retriable(methods.Get(i)) {
			t.Errorf("%s declares an idempotency_level and may not be retried", methods.Get(i).Name())
		}
	}
	health := healthpb.File_grpc_health_v1_health_proto.Services().Get(0).Methods().Get(0)
	if forward.Retriable(health) {
		t.Errorf("%s declares none and may be retried", health.FullName())
	}
}

func TestWhatMayNotBeRetriedIsNot(t *testing.T) {
	var far atomic.Int32
	w := newWorld(t, forward.Config{}, node{"near", fails(status.Error(codes.Unavailable, "broken"))}, node{"far", counted(&far, answers("x"))})
	for _, method := range []string{redeemOffer, watchDrops} {
		w.Forbid(method)
		_, err := w.call(t.Context(), method, nil)
		wantStatus(t, err, codes.Unavailable, "UPSTREAM_UNREACHABLE")
	}
	if far.Load() != 0 {
		t.Errorf("far was asked %d times", far.Load())
	}
}

func TestAForeignCallGoesElsewhereWhileNothingWasSent(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", answers("near")}, node{"far", answers("far")})
	if err := w.nodes["near"].listener.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := w.call(t.Context(), foreign, nil); err != nil || string(got) != "far" {
		t.Errorf("got %q and %v, want far", got, err)
	}
}

func TestStatusDetailsPass(t *testing.T) {
	want := typed(codes.FailedPrecondition, "DROP_NOT_OPEN", rpcerr.Meta("drop_id", "d"), rpcerr.RetryAfter(3*time.Second),
		rpcerr.Violation("a.b", "is wrong"))
	w := newWorld(t, forward.Config{}, node{"near", fails(want)})
	for _, method := range []string{requestOffer, watchDrops, foreign} {
		_, err := w.call(t.Context(), method, nil)
		if !proto.Equal(status.Convert(err).Proto(), status.Convert(want).Proto()) {
			t.Errorf("%s: got %v, want %v", method, status.Convert(err).Proto(), status.Convert(want).Proto())
		}
	}
}

func TestOneNodeThatFailsIsAnsweredAsItIs(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", fails(typed(codes.ResourceExhausted, "NO_UNIT_HERE", rpcerr.RetryAfter(time.Second)))})
	_, err := w.call(t.Context(), redeemOffer, nil)
	wantStatus(t, err, codes.ResourceExhausted, "NO_UNIT_HERE")
	if d := w.last(t); len(d.Attempts) != 2 || d.Attempts[1].Choice.Regime != arbiter.None {
		t.Errorf("got %+v, want a second choice that found nobody", d.Attempts)
	}
}

func TestNoRegionNamesEveryReason(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", answers("x")}, node{"far", answers("x")})
	w.regions.change("near", func(r *arbiter.Region) { r.Mode = arbiter.Drained })
	w.regions.change("far", func(r *arbiter.Region) { r.Zones = []string{"us"} })
	for _, method := range []string{requestOffer, watchDrops} {
		var header metadata.MD
		_, err := w.call(t.Context(), method, hints(t, &offerv1.RoutingHints{ResidencyZones: []string{"eu"}}), grpc.Header(&header))
		wantStatus(t, err, codes.Unavailable, "NO_REGION")
		if m := rpcerr.Info(err).GetMetadata(); m["near"] != "residency" || m["far"] != "residency" {
			t.Errorf("got %v", m)
		}
	}
	_, err := w.call(t.Context(), foreign, nil)
	if err != nil { // far serves it: zones are OfferService's
		t.Errorf("got %v", err)
	}
}

func TestASilentNodeIsGivenUpInTime(t *testing.T) {
	hang := func(_ any, stream grpc.ServerStream) error {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	w := newWorld(t, forward.Config{AttemptFloor: 20 * ms, HedgeShare: -1}, node{"near", hang}, node{"far", answers("from far")})
	got, err := w.call(t.Context(), requestOffer, nil)
	if err != nil || string(got) != "from far" {
		t.Fatalf("got %q and %v", got, err)
	}
	if o := w.regions.of("near"); len(o) != 1 || o[0].Verdict != measure.Broken {
		t.Errorf("got %+v, want one that is broken", o)
	}
	if a := w.last(t).Attempts; len(a) != 2 || !a[0].GivenUp || a[1].GivenUp {
		t.Errorf("recorded %+v, want the first one given up", a)
	}
	w = newWorld(t, forward.Config{HedgeShare: -1}, node{"near", fails(status.Error(codes.Unavailable, "broken"))}, node{"far", answers("from far")})
	if _, err := w.call(t.Context(), requestOffer, nil); err != nil {
		t.Fatal(err)
	}
	if a := w.last(t).Attempts; len(a) != 2 || a[0].GivenUp {
		t.Errorf("recorded %+v: a connection that breaks is not given up", a)
	}
}

func TestAStreamIsGivenUpOnceItsNodeIsUnreachable(t *testing.T) {
	var w *world
	w = newWorld(t, forward.Config{AttemptFloor: 5 * ms}, node{"near", func(_ any, stream grpc.ServerStream) error {
		w.regions.change("near", func(r *arbiter.Region) { r.Reachable = false })
		<-stream.Context().Done()
		return stream.Context().Err()
	}}, node{"far", answers("from far")})
	got, err := w.call(t.Context(), watchDrops, nil)
	if err != nil || string(got) != "from far" {
		t.Fatalf("got %q and %v", got, err)
	}
}

func TestTheOnlyNodeGetsTheWholeDeadline(t *testing.T) {
	slow := func(srv any, stream grpc.ServerStream) error {
		select {
		case <-time.After(100 * ms):
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		return answers("late")(srv, stream)
	}
	w := newWorld(t, forward.Config{AttemptFloor: ms}, node{"near", slow})
	if got, err := w.call(t.Context(), requestOffer, nil); err != nil || string(got) != "late" {
		t.Errorf("got %q and %v", got, err)
	}
}

func TestABrokenStreamEndsUnreachable(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", func(_ any, stream grpc.ServerStream) error {
		if err := stream.SendMsg(&frame.Frame{Payload: []byte("one")}); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "connection reset")
	}}, node{"far", answers("x")})
	stream, err := w.viewer.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, watchDrops)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&frame.Frame{}); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(frame.Frame)); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, stream.RecvMsg(new(frame.Frame)), codes.Unavailable, "UPSTREAM_UNREACHABLE")
	verdicts := []measure.Verdict{}
	for _, o := range w.regions.of("near") {
		verdicts = append(verdicts, o.Verdict)
	}
	if !slices.Equal(verdicts, []measure.Verdict{measure.Good, measure.Broken}) {
		t.Errorf("got %v", verdicts)
	}
}

// deadlined is a call whose deadline the router knows of and its client does not enforce, as browsers' fetch does not.
type deadlined struct {
	grpc.ServerStream
	ctx context.Context
}

func (d deadlined) Context() context.Context { return d.ctx }

// Every client may set a deadline for a stream. If its end counted against the node, one viewer could move all others.
func TestADeadlineThatEndsAStreamSaysNothingOfTheNode(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", func(_ any, stream grpc.ServerStream) error {
		if err := stream.SendMsg(&frame.Frame{Payload: []byte("one")}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}})
	viewer := serve(t, func(srv any, stream grpc.ServerStream) error {
		ctx, cancel := context.WithTimeout(stream.Context(), 500*ms) // longer than anybody waits for a first message
		defer cancel()
		return w.Handle(srv, deadlined{stream, ctx})
	}).conn
	stream, err := viewer.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, watchDrops)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&frame.Frame{}); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(frame.Frame)); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, stream.RecvMsg(new(frame.Frame)), codes.DeadlineExceeded, "DEADLINE_EXCEEDED")
	if got := w.regions.of("near"); len(got) != 2 || got[0].Verdict != measure.Good || got[1].Verdict != measure.Ignored {
		t.Errorf("got %+v, want a good one and one that is ignored", got)
	}
}

func TestDeadlines(t *testing.T) {
	for _, tt := range []struct {
		rule, method string
		timeout      time.Duration // 0: none
		want         time.Duration // at the node; -1: none
	}{
		{"a unary call without deadline gets 2 s", requestOffer, 0, 2 * time.Second},
		{"a unary call's deadline is shaved", requestOffer, 10 * time.Second, 9950 * ms},
		{"a stream without deadline has none", watchDrops, 0, -1},
		{"a foreign call without deadline has none", foreign, 0, -1},
		{"a foreign call's deadline passes", foreign, 10 * time.Second, 10 * time.Second},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := time.Duration(-1)
				w := newWorld(t, forward.Config{ReturnTrip: 50 * ms, Floor: 100 * ms}, node{"near", func(srv any, stream grpc.ServerStream) error {
					if deadline, ok := stream.Context().Deadline(); ok {
						left = time.Until(deadline)
					}
					return answers("x")(srv, stream)
				}})
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				if _, err := w.call(ctx, tt.method, nil); err != nil {
					t.Fatal(err)
				}
				if left != tt.want {
					t.Errorf("got %v, want %v", left, tt.want)
				}
			})
		})
	}
}

func TestADeadlineBelowTheFloorIsRefused(t *testing.T) {
	var asked atomic.Int32
	w := newWorld(t, forward.Config{Floor: time.Hour}, node{"near", counted(&asked, answers("x"))})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := w.call(ctx, requestOffer, nil)
	wantStatus(t, err, codes.DeadlineExceeded, "DEADLINE_BELOW_FLOOR")
	if m := rpcerr.Info(err).GetMetadata(); m["floor_ms"] != "3600005" || m["remaining_ms"] == "" || asked.Load() != 0 {
		t.Errorf("got %v, asked %d", m, asked.Load())
	}
}

func TestACancelReachesTheNodeAndBlamesNobody(t *testing.T) {
	for _, method := range []string{requestOffer, watchDrops, foreign} {
		t.Run(method, func(t *testing.T) {
			arrived, left := make(chan struct{}), make(chan struct{})
			hang := func(_ any, stream grpc.ServerStream) error {
				close(arrived)
				<-stream.Context().Done()
				close(left)
				return stream.Context().Err()
			}
			w := newWorld(t, forward.Config{AttemptFloor: time.Hour}, node{"near", hang})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-arrived
				cancel()
			}()
			if _, err := w.call(ctx, method, nil); status.Code(err) != codes.Canceled {
				t.Errorf("got %v", err)
			}
			<-left
			for _, o := range w.regions.of("near") {
				if o.Verdict != measure.Ignored {
					t.Errorf("near was blamed: %+v", o)
				}
			}
		})
	}
}

func TestReadsGoToThePreferredRegion(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", answers("near")}, node{"far", answers("far")})
	preferFar := hints(t, &offerv1.RoutingHints{PreferredRegion: "far"})
	for method, want := range map[string]string{getPurchase: "far", redeemOffer: "near"} {
		if got, err := w.call(t.Context(), method, preferFar); err != nil || string(got) != want {
			t.Errorf("%s: got %q and %v, want %q", method, got, err, want)
		}
	}
}

func TestTheLoadReportIsTakenInAndKeptFromViewers(t *testing.T) {
	report, err := proto.Marshal(&regionv1.LoadReport{Residence: durationpb.New(3 * ms), Parallelism: 7})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, forward.Config{}, node{"near", func(srv any, stream grpc.ServerStream) error {
		stream.SetTrailer(metadata.Pairs(forward.TrailerLoad, string(report), "own", "trailer"))
		return answers("x")(srv, stream)
	}})
	var trailer metadata.MD
	if _, err := w.call(t.Context(), requestOffer, nil, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if len(trailer[forward.TrailerLoad]) != 0 || len(trailer["own"]) != 1 {
		t.Errorf("got trailer %v", trailer)
	}
	o := w.regions.of("near")
	if len(o) != 1 || o[0].Load.GetParallelism() != 7 || o[0].Total <= 0 {
		t.Errorf("got %+v", o)
	}
	if a := w.last(t).Attempts[0]; a.Residence != 3*ms {
		t.Errorf("got residence %v", a.Residence)
	}
}

func TestWithoutUnitTheDropIsNoted(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", fails(typed(codes.ResourceExhausted, "NO_UNIT_HERE"))}, node{"far", answers("x")})
	if _, err := w.call(t.Context(), redeemOffer, hints(t, &offerv1.RoutingHints{DropId: aDrop})); err != nil {
		t.Fatal(err)
	}
	if o := w.regions.of("near"); len(o) != 1 || o[0].OutOfStock != aDrop {
		t.Errorf("got %+v", o)
	}
}

func TestStopEndsStreamsAndLetsUnaryCallsThrough(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", func(srv any, stream grpc.ServerStream) error {
		if method, _ := grpc.MethodFromServerStream(stream); method == requestOffer {
			return answers("x")(srv, stream)
		}
		if err := stream.SendMsg(&frame.Frame{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}})
	for _, method := range []string{watchDrops, foreign} {
		stream, err := w.viewer.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(&frame.Frame{}); err != nil && !errors.Is(err, io.EOF) { // the second one may have ended: RecvMsg knows
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(frame.Frame)); err != nil {
			t.Fatal(err)
		}
		w.Stop()
		wantStatus(t, stream.RecvMsg(new(frame.Frame)), codes.Unavailable, "DRAINING")
	}
	if _, err := w.call(t.Context(), requestOffer, nil); err != nil {
		t.Errorf("a unary call after Stop: %v", err)
	}
	if o := w.regions.of("near"); slices.ContainsFunc(o, func(o measure.Outcome) bool { return o.Verdict == measure.Broken }) {
		t.Errorf("near was blamed: %+v", o)
	}
}

func TestAnEmptyCallIsMalformed(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", answers("x")})
	stream, err := w.viewer.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, requestOffer)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	err = stream.RecvMsg(new(frame.Frame))
	if errors.Is(err, io.EOF) {
		t.Fatal("it was answered")
	}
	wantStatus(t, err, codes.InvalidArgument, "MALFORMED")
}

func TestAnAnswerThatIsTooLargeIsTyped(t *testing.T) {
	w := newWorld(t, forward.Config{MaxMessageBytes: 10}, node{"near", answers("more than ten bytes")})
	_, err := w.call(t.Context(), requestOffer, nil)
	wantStatus(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE")
	if got := rpcerr.Info(err).GetMetadata()["limit_bytes"]; got != "10" {
		t.Errorf("got limit_bytes %q", got)
	}
}

// What is too large for the router says nothing about the node, in the words of either kind of service.
func TestARoutersOwnLimitBlamesNobody(t *testing.T) {
	for _, method := range []string{requestOffer, watchDrops, foreign} {
		w := newWorld(t, forward.Config{MaxMessageBytes: 10}, node{"near", answers("more than ten bytes")})
		_, err := w.call(t.Context(), method, nil)
		wantStatus(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE")
		if o := w.regions.of("near"); len(o) != 1 || o[0].Verdict != measure.Ignored {
			t.Errorf("%s: got %+v, want one that is ignored", method, o)
		}
	}
}

// unreadable is a caller's stream whose request cannot be read.
type unreadable struct {
	grpc.ServerStream
	ctx context.Context
	err error
}

func (u unreadable) Context() context.Context { return u.ctx }
func (u unreadable) RecvMsg(any) error        { return u.err }

// called is what names a stream's method.
type called struct{ grpc.ServerTransportStream }

func (called) Method() string { return requestOffer }

func TestARequestThatIsTooLargeNamesTheLimit(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near", answers("x")})
	err := w.Handle(nil, unreadable{
		ctx: grpc.NewContextWithServerTransportStream(t.Context(), called{}),
		err: status.Error(codes.ResourceExhausted, "grpc: received message larger than max (11 vs. 10)"),
	})
	wantStatus(t, err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE")
	if got := rpcerr.Info(err).GetMetadata()["limit_bytes"]; got != "10" {
		t.Errorf("got limit_bytes %q", got)
	}
}

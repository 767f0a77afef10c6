package forward_test

import (
	"cmp"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

// after answers so much later, or fails then; it counts the calls that were cancelled first.
func after(delay time.Duration, cancelled *atomic.Int32, handle grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		select {
		case <-time.After(delay):
			return handle(srv, stream)
		case <-stream.Context().Done():
			cancelled.Add(1)
			return stream.Context().Err()
		}
	}
}

// hedging is near, late by so much, and far 30 ms further; both 1 ms away by the measurements but for that.
func hedging(t *testing.T, config forward.Config, near, far grpc.StreamHandler) *world {
	config.HedgeShare = cmp.Or(config.HedgeShare, 0.02) // the default, which newWorld switches off
	w := newWorld(t, config, node{"near", near}, node{"far", far})
	w.regions.change("far", func(r *arbiter.Region) { r.Network = 30 * ms })
	return w
}

func TestHedging(t *testing.T) {
	noUnit := typed(codes.ResourceExhausted, "NO_UNIT_HERE")
	for _, tt := range []struct {
		rule      string
		near, far time.Duration // until they answer
		nearErr   error
		farErr    error
		method    string
		change    func(*world)
		config    forward.Config
		want      string // who answers
		took      time.Duration
		verdicts  [2]measure.Verdict // near's and far's, where far was asked
		asked     bool
	}{
		{rule: "an answer in time is waited for", near: 9 * ms, want: "near", took: 9 * ms},
		{rule: "a late one is asked for elsewhere, and the first answer wins", near: time.Second, far: 5 * ms,
			want: "far", took: 15 * ms, asked: true, verdicts: [2]measure.Verdict{measure.Outrun, measure.Good}},
		{rule: "also if it is the late one", near: 20 * ms, far: 50 * ms,
			want: "near", took: 20 * ms, asked: true, verdicts: [2]measure.Verdict{measure.Good, measure.Ignored}},
		{rule: "late means later than the predicted 99th percentile", near: 50 * ms, want: "near", took: 50 * ms,
			change: func(w *world) {
				w.regions.change("near", func(r *arbiter.Region) { r.Network, r.Deviation, r.Service = 20*ms, 5*ms, 5*ms }) // 20 + 2*5 + 4.5*5
			}},
		{rule: "an error of the second one does not end the first", near: 20 * ms, far: ms, farErr: noUnit,
			want: "near", took: 20 * ms, asked: true, verdicts: [2]measure.Verdict{measure.Good, measure.Good}},
		{rule: "the second one is the retry", near: 20 * ms, nearErr: noUnit, far: 50 * ms,
			want: "far", took: 60 * ms, asked: true, verdicts: [2]measure.Verdict{measure.Good, measure.Good}},
		{rule: "redemptions hedge, too: the token makes them once", method: redeemOffer, near: time.Second, far: 5 * ms,
			want: "far", took: 15 * ms, asked: true, verdicts: [2]measure.Verdict{measure.Outrun, measure.Good}},
		{rule: "what may not be sent twice is not", near: 50 * ms, want: "near", took: 50 * ms,
			change: func(w *world) { w.Forbid(requestOffer) }},
		{rule: "streams do not hedge", method: watchDrops, near: 50 * ms, want: "near", took: 50 * ms},
		{rule: "services of others do not", method: foreign, near: 50 * ms, want: "near", took: 50 * ms},
		{rule: "a busy region gets no second copies", near: 50 * ms, want: "near", took: 50 * ms,
			change: func(w *world) {
				w.regions.change("far", func(r *arbiter.Region) { r.Service, r.Arrivals = ms, 8*800 })
			}},
		{rule: "a full platform hedges nothing", near: 50 * ms, want: "near", took: 50 * ms,
			change: func(w *world) {
				w.regions.change("far", func(r *arbiter.Region) { r.Service, r.Arrivals = ms, 8*700 })
				w.regions.change("near", func(r *arbiter.Region) { r.Service, r.Arrivals = ms, 8*1050 })
			}},
		{rule: "another node of the same region does not help", near: 50 * ms, want: "near", took: 50 * ms,
			change: func(w *world) { w.regions.change("far", func(r *arbiter.Region) { r.Name = "near" }) }},
		{rule: "who cannot answer in time either is not asked", near: 50 * ms, want: "near", took: 50 * ms,
			change: func(w *world) { w.regions.change("far", func(r *arbiter.Region) { r.Network = 3 * time.Second }) }},
		{rule: "none at all where the configuration says so", near: 50 * ms, want: "near", took: 50 * ms,
			config: forward.Config{HedgeShare: -1}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := func(name string, err error) grpc.StreamHandler {
					if err != nil {
						return fails(err)
					}
					return answers(name)
				}
				var asked, cancelled atomic.Int32
				w := hedging(t, tt.config, after(tt.near, &cancelled, handler("near", tt.nearErr)),
					counted(&asked, after(tt.far, &cancelled, handler("far", tt.farErr))))
				if tt.change != nil {
					tt.change(w)
				}
				if tt.method == "" {
					tt.method = requestOffer
				}
				start := time.Now()
				got, err := w.call(t.Context(), tt.method, nil)
				if err != nil || string(got) != tt.want || time.Since(start) != tt.took {
					t.Errorf("got %q and %v after %v, want %q after %v", got, err, time.Since(start), tt.want, tt.took)
				}
				synctest.Wait()
				if (asked.Load() > 0) != tt.asked {
					t.Fatalf("far was asked %d times", asked.Load())
				}
				d := w.last(t)
				if !tt.asked {
					if len(d.Attempts) != 1 {
						t.Errorf("recorded %d attempts, want one", len(d.Attempts))
					}
					return
				}
				if len(d.Attempts) != 2 || d.Attempts[1].Choice.Regime != arbiter.Hedge {
					t.Errorf("recorded %+v", d.Attempts)
				}
				if near, far := w.regions.of("near"), w.regions.of("far"); len(near) != 1 || near[0].Verdict != tt.verdicts[0] ||
					len(far) != 1 || far[0].Verdict != tt.verdicts[1] {
					t.Errorf("got %+v of near and %+v of far, want %v", near, far, tt.verdicts)
				}
				losers := int32(0)
				for i, v := range tt.verdicts {
					lost := v == measure.Outrun || v == measure.Ignored
					if lost {
						losers++
					}
					if d.Attempts[i].GivenUp != lost {
						t.Errorf("attempt %d: given up is %v, want %v", i+1, d.Attempts[i].GivenUp, lost)
					}
				}
				if cancelled.Load() != losers {
					t.Errorf("%d calls were cancelled, want %d", cancelled.Load(), losers)
				}
			})
		})
	}
}

func TestHedgesAreOneInFiftyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far, cancelled atomic.Int32
		w := hedging(t, forward.Config{}, after(20*ms, &cancelled, answers("near")), counted(&far, after(50*ms, &cancelled, answers("far"))))
		for range 1000 { // all of them late
			if _, err := w.call(t.Context(), requestOffer, nil); err != nil {
				t.Fatal(err)
			}
		}
		if n := far.Load(); n < 58 || n > 60 {
			t.Errorf("%d hedges of 1,000 late calls, want the 40 that were saved up and 20", n)
		}
	})
}

func TestACallThatNobodyCanAnswerInTimeFailsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		w := newWorld(t, forward.Config{DefaultTimeout: 60 * ms}, node{"near", counted(&asked, answers("x"))}, node{"far", counted(&asked, answers("x"))})
		for _, name := range []string{"near", "far"} {
			w.regions.change(name, func(r *arbiter.Region) { r.Floor, r.Network = 80*ms, 80*ms })
		}
		start := time.Now()
		_, err := w.call(t.Context(), requestOffer, nil)
		wantStatus(t, err, codes.DeadlineExceeded, "DEADLINE_BELOW_FLOOR")
		if asked.Load() != 0 || time.Since(start) > 0 {
			t.Errorf("asked %d times, failed after %v", asked.Load(), time.Since(start))
		}
	})
}

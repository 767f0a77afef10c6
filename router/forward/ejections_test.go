package forward_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
)

func TestEjectionsThatEverythingContradictsAreCounted(t *testing.T) {
	idle := &regionv1.ProbeResponse{Load: &regionv1.LoadReport{InFlight: 1, Parallelism: 8}}
	busy := &regionv1.ProbeResponse{Load: &regionv1.LoadReport{InFlight: 9, Parallelism: 8}}
	type probe struct {
		answer *regionv1.ProbeResponse
		err    error
	}
	target := measure.Target{Region: "near"}
	for _, tt := range []struct {
		rule   string
		out    func(*arbiter.Region) // how it is out
		probes []probe
		first  error // of the first call afterwards
		wrong  float64
	}{
		{"good probes and a good call say that it was wrong", ejected, []probe{{idle, nil}, {idle, nil}}, nil, 1},
		{"a call that fails says that it was right", ejected, []probe{{idle, nil}}, typed(codes.Unavailable, "STORE_UNAVAILABLE"), 0},
		{"so does one lost probe", ejected, []probe{{idle, nil}, {nil, errors.New("lost")}, {idle, nil}}, nil, 0},
		{"so does a queue", ejected, []probe{{busy, nil}, {idle, nil}}, nil, 0},
		{"a silent node was not ejected", func(r *arbiter.Region) { r.Reachable = false }, []probe{{idle, nil}}, nil, 0},
		{"one that nobody probed is not judged", ejected, nil, nil, 0},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			handle := answers("x")
			if tt.first != nil {
				handle = fails(tt.first)
			}
			w := newWorld(t, forward.Config{}, node{target.Key(), handle})
			w.regions.change(target.Key(), tt.out)
			for _, p := range tt.probes {
				w.Probed(target, &regionv1.ProbeRequest{Router: "r1"}, p.answer, p.err)
			}
			w.regions.change(target.Key(), func(r *arbiter.Region) { r.Ejected, r.Reachable, r.Held = false, true, 0.75 })
			for range 2 { // the second call says nothing more
				if _, err := w.call(t.Context(), requestOffer, nil); (err == nil) != (tt.first == nil) {
					t.Error(err)
				}
			}
			if got := value(t, w.metrics, "rimlight_router_wrong_ejections_total", ""); got != tt.wrong {
				t.Errorf("counted %v, want %v", got, tt.wrong)
			}
		})
	}
}

func ejected(r *arbiter.Region) { r.Ejected = true }

func TestBytesOfProbesAreCounted(t *testing.T) {
	w := newWorld(t, forward.Config{}, node{"near@", answers("x")})
	w.Probed(measure.Target{Region: "near"}, &regionv1.ProbeRequest{Router: "r1"}, &regionv1.ProbeResponse{Region: "near"}, nil)
	w.Probed(measure.Target{Region: "near"}, &regionv1.ProbeRequest{Router: "r1"}, nil, errors.New("lost"))
	for direction, want := range map[string]float64{"sent": 8, "received": 6} { // a tag and a length beside each name
		if got := value(t, w.metrics, "rimlight_router_probe_bytes_total", direction); got != want {
			t.Errorf("%s: got %v, want %v", direction, got, want)
		}
	}
}

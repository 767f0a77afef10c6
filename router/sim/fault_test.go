package sim

import (
	"math"
	"testing"
	"time"
)

// played is a run over two regions, 40 ms apart, that sends everything to region 0 while one fault is on, from 2 s to 6 s.
func played(t *testing.T, spec Spec, f Fault) (*run, *outcome) {
	t.Helper()
	p := Part{Name: "fault", Load: 0.3, Seconds: 8, Measure: 0.001}
	if f.To == 0 {
		f.From, f.To = 2, 6
	}
	p.Faults = []Fault{f}
	w := place(t, p)
	var kept *run
	watched := Spec{spec.Name, func(e Env) Policy { return spec.Make(e) }}
	r := newRun(w, watched, 5)
	kept = r
	return kept, r.play()
}

// during gives the calls' first attempts that were sent in a span: how they ended and how long they took.
func (r *run) during(from, to float64, of func(a *attempt) bool) (ends map[Verdict]int, meanWork float64) {
	ends = map[Verdict]int{}
	n := 0.0
	for i := range r.attempts {
		a := &r.attempts[i]
		if a.probe || a.sent < seconds(from) || a.sent >= seconds(to) || of != nil && !of(a) {
			continue
		}
		ends[a.ended]++
		meanWork += a.work
		n++
	}
	return ends, meanWork / max(n, 1)
}

func total(ends map[Verdict]int) (n int) {
	for _, k := range ends {
		n += k
	}
	return n
}

func share(ends map[Verdict]int, v Verdict) float64 { return float64(ends[v]) / float64(total(ends)) }

func near(r *run) func(*attempt) bool {
	return func(a *attempt) bool { return a.region == 0 && r.w.rtt[a.router][0] == 0 }
}

func TestFaultsDoWhatTheySay(t *testing.T) {
	t.Run("slow multiplies the work, and ends", func(t *testing.T) {
		r, _ := played(t, fixed(0), Fault{Kind: "slow", Region: "r0", Factor: 1.5})
		_, before := r.during(0, 1.9, nil)
		_, while := r.during(2.1, 5.5, nil)
		if math.Abs(before-8) > 1.5 || math.Abs(while-12) > 1.5 {
			t.Errorf("work of %.1f ms before and %.1f ms while, want 8 and 12", before, while)
		}
	})
	t.Run("gray slows that share", func(t *testing.T) {
		r, _ := played(t, fixed(0), Fault{Kind: "gray", Region: "r0", Factor: 50, Share: 0.02})
		if _, while := r.during(2.1, 5.5, nil); math.Abs(while-8*1.98) > 4 {
			t.Errorf("mean work of %.1f ms, want 15.8", while)
		}
	})
	t.Run("errors fail at once, probes do not", func(t *testing.T) {
		r, _ := played(t, fixed(0), Fault{Kind: "errors", Region: "r0", Share: 0.7})
		ends, _ := r.during(2.1, 5.9, nil)
		if s := share(ends, Failed); math.Abs(s-0.7) > 0.05 {
			t.Errorf("%.2f fail, want 0.70", s)
		}
		for i := range r.attempts {
			if a := &r.attempts[i]; a.probe && a.ended != Answered && a.sent < seconds(7) {
				t.Fatalf("a probe at %v ended %v", a.sent, a.ended)
			}
		}
	})
	t.Run("exhausted sheds", func(t *testing.T) {
		r, o := played(t, fixed(0), Fault{Kind: "exhausted", Region: "r0", Share: 1})
		if ends, _ := r.during(2.1, 5.9, nil); share(ends, Exhausted) != 1 {
			t.Errorf("ends %v", ends)
		}
		if o.sheds == 0 || o.errors != 0 {
			t.Errorf("%d sheds, %d errors", o.sheds, o.errors)
		}
	})
	t.Run("a reset is heard one way later, also by those inside", func(t *testing.T) {
		r, o := played(t, fixed(0), Fault{Kind: "kill_reset", Region: "r0"})
		if ends, _ := r.during(2.1, 5.9, nil); share(ends, Broken) != 1 {
			t.Errorf("ends %v", ends)
		}
		inside, _ := r.during(1.95, 2, near(r))
		if inside[Broken] == 0 || inside[TimedOut] != 0 {
			t.Errorf("just before: %v", inside)
		}
		if after, _ := r.during(6.1, 7.9, nil); share(after, Answered) != 1 {
			t.Errorf("afterwards: %v", after)
		}
		if o.errors == 0 {
			t.Error("no call failed")
		}
	})
	t.Run("a black hole is silent", func(t *testing.T) {
		r, _ := played(t, fixed(0), Fault{Kind: "kill_hole", Region: "r0"})
		if ends, _ := r.during(2.1, 5.9, nil); share(ends, TimedOut) != 1 {
			t.Errorf("ends %v", ends)
		}
	})
	t.Run("a cut is one router's, not another's", func(t *testing.T) {
		for _, kind := range []string{"cut", "cut_to", "cut_from"} {
			r, _ := played(t, fixed(0), Fault{Kind: kind, Region: "r0", Routers: "r0"})
			cut, _ := r.during(2.1, 5.9, near(r))
			fine, _ := r.during(2.1, 5.9, func(a *attempt) bool { return r.w.rtt[a.router][0] > 0 })
			if share(cut, TimedOut) != 1 || share(fine, Answered) != 1 {
				t.Errorf("%s: cut off %v, others %v", kind, cut, fine)
			}
		}
	})
	t.Run("requests reach a region whose answers are lost", func(t *testing.T) {
		from, _ := played(t, fixed(0), Fault{Kind: "cut_from", Region: "r0"})
		to, _ := played(t, fixed(0), Fault{Kind: "cut_to", Region: "r0"})
		if _, work := from.during(2.1, 5.4, nil); work < 6 {
			t.Errorf("mean work of %.1f ms although requests arrive", work)
		}
		if _, work := to.during(2.1, 5.4, nil); work != 0 {
			t.Errorf("mean work of %.1f ms although no request arrives", work)
		}
	})
	t.Run("loss costs a retransmission", func(t *testing.T) {
		for _, kind := range []string{"loss_to", "loss_from"} {
			_, clean := played(t, fixed(0), Fault{Kind: "delay", Region: "r1", DelayMS: 1})
			_, lossy := played(t, fixed(0), Fault{Kind: kind, Region: "r0", Share: 0.1})
			got := float64(lossy.over200-clean.over200) / float64(lossy.calls)
			if math.Abs(got-0.05) > 0.015 { // a tenth, half of the time
				t.Errorf("%s: %.3f are over 200 ms, want 0.05", kind, got)
			}
		}
	})
	t.Run("distances", func(t *testing.T) {
		w := func(f Fault) func(at float64) float64 {
			f.Region, f.From, f.To = "r0", 2, 6
			world := place(t, Part{Load: 0.3, Seconds: 8, Faults: []Fault{f}})
			return func(at float64) float64 { return world.roundTrip(1, 0, seconds(at)) }
		}
		delay := w(Fault{Kind: "delay", DelayMS: 100})
		flap := w(Fault{Kind: "flap_delay", DelayMS: 100, Period: 1})
		drift := w(Fault{Kind: "drift", DelayMS: 100})
		for _, c := range []struct {
			name      string
			got, want float64
		}{
			{"before a delay", delay(1.9), 40}, {"in it", delay(3), 140}, {"after it", delay(6.1), 40},
			{"flap on", flap(2.5), 140}, {"flap off", flap(3.5), 40}, {"flap on again", flap(4.5), 140},
			{"drift half way", drift(4), 90}, {"drift stays", drift(7.9), 140},
		} {
			if math.Abs(c.got-c.want) > 1e-9 {
				t.Errorf("%s: %v ms, want %v", c.name, c.got, c.want)
			}
		}
	})
	t.Run("a link that flaps is cut every other time", func(t *testing.T) {
		r, _ := played(t, fixed(0), Fault{Kind: "flap_cut", Region: "r0", Period: 1})
		on, _ := r.during(2.1, 2.9, nil)
		off, _ := r.during(3.1, 3.9, nil)
		if share(on, TimedOut) != 1 || share(off, Answered) != 1 {
			t.Errorf("cut %v, not cut %v", on, off)
		}
	})
	t.Run("no stock is said by the answer and by probes", func(t *testing.T) {
		r, _ := played(t, fixed(0), Fault{Kind: "no_stock", Region: "r0"})
		if ends, _ := r.during(2.1, 5.9, nil); share(ends, NoUnit) != 1 {
			t.Errorf("ends %v", ends)
		}
	})
	t.Run("a drain is announced, then refuses", func(t *testing.T) {
		r, o := played(t, fixed(0), Fault{Kind: "drain", Region: "r0"})
		early, _ := r.during(2.1, 2.4, nil)
		late, _ := r.during(2.6, 6.4, nil)
		if share(early, Answered) != 1 || total(late) != 0 || o.errors == 0 {
			t.Errorf("before everybody knows %v, then %v, %d errors", early, late, o.errors)
		}
	})
	t.Run("an absent region is not offered", func(t *testing.T) {
		r, o := played(t, fixed(0), Fault{Kind: "absent", Region: "r0", From: 0, To: 4})
		if ends, _ := r.during(0, 3.9, nil); total(ends) != 0 || o.errors == 0 {
			t.Errorf("ends %v, %d errors", ends, o.errors)
		}
		if ends, _ := r.during(4.1, 7, nil); total(ends) == 0 || share(ends, Answered) != 1 {
			t.Errorf("once built: %v", ends)
		}
	})
	t.Run("a started router forgets, and probes before it serves", func(t *testing.T) {
		made := 0
		var probed []time.Duration
		spec := Spec{"counting", func(Env) Policy {
			made++
			return &counting{always: always{region: 0}, fresh: made > 24, probed: &probed}
		}}
		_, o := played(t, spec, Fault{Kind: "router_start", From: 3, To: 4})
		if made != 48 || len(probed) == 0 || probed[0] < seconds(3)-readyIn || probed[0] > seconds(3) || o.errors > 0 {
			t.Errorf("%d policies made, first probe at %v, %d errors", made, probed, o.errors)
		}
	})
}

type counting struct {
	always
	fresh  bool
	probed *[]time.Duration
}

func (c *counting) Probed(now time.Duration, _ int, _ time.Duration, _ *Report) {
	if c.fresh && len(*c.probed) < 3 {
		*c.probed = append(*c.probed, now)
	}
}

// A viewer bound to the zone is never served outside of it, and a full queue sheds.
func TestZonesAndQueuesHaveWalls(t *testing.T) {
	w := place(t, Part{Load: 0.4, Seconds: 4, Regions: 5, Restricted: 1})
	spec, err := Lookup("round_robin")
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(w, spec, 5)
	r.play()
	outside := 0
	for i := range r.attempts {
		if a := &r.attempts[i]; !a.probe && !w.zone.has(int(a.region)) {
			if outside++; r.calls[a.call].restricted {
				t.Fatal("a bound viewer was served outside of the zone")
			}
		}
	}
	if outside == 0 {
		t.Error("nobody was served outside of the zone")
	}
	if o := play(place(t, Part{Load: 3, Seconds: 3}), fixed(0), 5); o.sheds == 0 {
		t.Error("an overloaded region sheds nothing")
	}
}

package sim

import "time"

// retransmitFloor is Linux's TCP_RTO_MIN: what a lost message of a thin stream costs on top of a round trip.
const retransmitFloor = 200 * time.Millisecond

// active tells whether a fault acts now.
func (f *fault) active(now time.Duration) bool {
	if now < f.from || now >= f.to && f.Kind != "drift" {
		return false
	}
	if f.Period > 0 {
		return int64((now-f.from)/seconds(f.Period))%2 == 0
	}
	return true
}

// extra is what a fault adds to the round trip, ms.
func (f *fault) extra(now time.Duration) float64 {
	if f.Kind == "drift" {
		return f.DelayMS * min(1, float64(now-f.from)/float64(f.to-f.from))
	}
	return f.DelayMS
}

// roundTrip is what a path takes there and back without jitter and loss, ms.
func (w *world) roundTrip(router, region int, now time.Duration) float64 {
	ms := w.rtt[router][region]
	for i := range w.faults {
		f := &w.faults[i]
		if f.region == region && f.routers[router] && f.DelayMS > 0 && f.active(now) {
			ms += f.extra(now)
		}
	}
	return ms
}

// path is how one message fares: how long it takes, and whether it is swallowed for good. The draws depend on who sends
// and how many it sent, not on what else happens.
func (r *run) path(router, region int, toRegion bool, message uint64) (took time.Duration, swallowed bool) {
	w := r.w
	ms := w.roundTrip(router, region, r.now)
	lost := false
	for i := range w.faults {
		f := &w.faults[i]
		if f.region != region || !f.routers[router] || !f.active(r.now) {
			continue
		}
		switch f.Kind {
		case "cut", "flap_cut":
			return 0, true
		case "cut_to", "cut_from":
			if toRegion == (f.Kind == "cut_to") {
				return 0, true
			}
		case "loss_to", "loss_from":
			if toRegion == (f.Kind == "loss_to") {
				lost = lost || r.draw(drawLoss, message, uint64(region)) < f.Share
			}
		}
	}
	// Jitter: 1 % of the way and a fifth of a millisecond, about the matrix's own deviations.
	u := r.draw(drawJitter, message, uint64(region))
	took = millis(ms/2*(1+0.02*u) + 0.2*exponential(u))
	if lost {
		took += retransmitFloor + millis(ms)
	}
	return took, false
}

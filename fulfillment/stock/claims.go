package stock

import "time"

// ClaimsEnd is until when receipts for a quarantined lease are waited for: window after the latest moment at which
// somebody may still have sold from it. A fenced node does not know that it is, and sells until the drop is over by its
// own clock, which may be off by skew; so the window does not begin with the quarantine (docs/settlement.md 2.7).
func ClaimsEnd(quarantine, dropOver time.Time, skew, window time.Duration) time.Time {
	from := dropOver.Add(skew)
	if quarantine.After(from) {
		from = quarantine
	}
	return from.Add(window)
}

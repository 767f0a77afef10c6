package forward

// Retriable lets tests ask it of any descriptor.
var Retriable = retriable

// Forbid makes a method one that may not be sent twice: OfferService has none.
func (f *Forwarder) Forbid(name string) {
	m := f.offers[name]
	m.retriable = false
	f.offers[name] = m
}

// Refused is the status for hints that break a rule.
func Refused(h Hints) error { return h.refused() }

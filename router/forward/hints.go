package forward

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Hints is what the router reads of a request: rimlight.offer.v1.RoutingHints without its request_id.
type Hints struct {
	Drop      string
	Preferred string
	Zones     []string
}

// Fields of RoutingHints, and its own field number in every OfferService request.
const (
	fieldHints     = 1
	fieldDrop      = 1
	fieldPreferred = 2
	fieldZones     = 3

	maxZones = 8 // as the proto's rule; more are for the node to refuse
)

// ReadHints reads field 1 of a request and skips the rest. What cannot be read is left out: the node judges the
// message, the router only wants to know where to send it. As in every proto decoder, the last of a repeated singular
// field wins and split messages merge.
func ReadHints(message []byte) Hints {
	var h Hints
	eachField(message, fieldHints, func(hints []byte) {
		eachField(hints, fieldDrop, func(v []byte) { h.Drop = string(v) })
		eachField(hints, fieldPreferred, func(v []byte) { h.Preferred = string(v) })
		eachField(hints, fieldZones, func(v []byte) {
			if len(h.Zones) < maxZones {
				h.Zones = append(h.Zones, string(v))
			}
		})
	})
	return h
}

// eachField calls f with every length-delimited value of one field, until the bytes stop making sense.
func eachField(b []byte, wanted protowire.Number, f func([]byte)) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if number == wanted && kind == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return
			}
			f(v)
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return
		}
		b = b[n:]
	}
}

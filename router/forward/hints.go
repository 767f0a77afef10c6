package forward

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
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

	// The rules of RoutingHints in its proto.
	maxZones       = 8
	maxZoneBytes   = 32
	maxRegionRunes = 63
)

// ReadHints reads field 1 of a request and skips the rest. What cannot be read is left out: the node judges the
// message, the router only wants to know where to send it. Of too many zones it keeps one more than there may be. As in every proto decoder, the last of a repeated singular
// field wins and split messages merge.
func ReadHints(message []byte) Hints {
	var h Hints
	eachField(message, fieldHints, func(hints []byte) {
		eachField(hints, fieldDrop, func(v []byte) { h.Drop = string(v) })
		eachField(hints, fieldPreferred, func(v []byte) { h.Preferred = string(v) })
		eachField(hints, fieldZones, func(v []byte) {
			if len(h.Zones) <= maxZones {
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

// refused is the status for hints that break a rule of their proto; nil when they do not. The router acts on them, so it
// cannot leave that to the node: no region is in a zone that cannot exist, and NO_REGION would tell the caller to try again.
func (h Hints) refused() error {
	field, rule := h.broken()
	if field == "" {
		return nil
	}
	return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, field+": "+rule+".", rpcerr.Violation(field, rule))
}

// broken is the first field that breaks a rule, with the rule; empty when none does.
func (h Hints) broken() (field, rule string) {
	if h.Drop != "" && !isUUID(h.Drop) {
		return "hints.drop_id", "must be a UUID"
	}
	if utf8.RuneCountInString(h.Preferred) > maxRegionRunes {
		return "hints.preferred_region", fmt.Sprintf("must have at most %d characters", maxRegionRunes)
	}
	if len(h.Zones) > maxZones {
		return "hints.residency_zones", fmt.Sprintf("must have at most %d items", maxZones)
	}
	for i, zone := range h.Zones {
		if !isZone(zone) {
			return fmt.Sprintf("hints.residency_zones[%d]", i), "must match ^[a-z0-9-]{1,32}$"
		}
	}
	return "", ""
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'):
			return false
		}
	}
	return true
}

func isZone(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= maxZoneBytes
}

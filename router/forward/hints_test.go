package forward_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
)

func TestReadHints(t *testing.T) {
	full := hints(t, &offerv1.RoutingHints{DropId: "d", PreferredRegion: "r", ResidencyZones: []string{"eu", "uk"}, RequestId: "x"})
	dropOnly := hints(t, &offerv1.RoutingHints{DropId: "other"})
	want := forward.Hints{Drop: "d", Preferred: "r", Zones: []string{"eu", "uk"}}
	for _, tt := range []struct {
		rule    string
		message []byte
		want    forward.Hints
	}{
		{"all that is there is read", full, want},
		{"no message, no hints", nil, forward.Hints{}},
		{"other fields are skipped", append([]byte{0x12, 0x02, 'a', 'b', 0x18, 0x05}, full...), want},
		{"split hints merge and the last drop wins", append(bytes.Clone(full), dropOnly...),
			forward.Hints{Drop: "other", Preferred: "r", Zones: []string{"eu", "uk"}}},
		{"garbage after the hints does not matter", append(bytes.Clone(full), 0xff, 0xff), want},
		{"garbage is no hints", []byte("\xff\xfe not a message"), forward.Hints{}},
		{"a hints field of another type is skipped", []byte{0x08, 0x01}, forward.Hints{}},
		{"truncated hints are not read", full[:len(full)-1], forward.Hints{}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, forward.ReadHints(tt.message)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Who breaks a rule of the hints hears which, whatever region might be chosen by them.
func TestHintsThatBreakTheirRulesAreRefused(t *testing.T) {
	nine := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}
	for _, tt := range []struct {
		rule  string
		hints *offerv1.RoutingHints
		field string // empty: none
	}{
		{"no hints are fine", &offerv1.RoutingHints{}, ""},
		{"good hints are fine", &offerv1.RoutingHints{DropId: aDrop, PreferredRegion: "near", ResidencyZones: []string{"eu"}}, ""},
		{"a drop is a UUID", &offerv1.RoutingHints{DropId: "the one with the record"}, "hints.drop_id"},
		{"a zone is a short name", &offerv1.RoutingHints{ResidencyZones: []string{"eu", "EU!"}}, "hints.residency_zones[1]"},
		{"an empty zone is none", &offerv1.RoutingHints{ResidencyZones: []string{""}}, "hints.residency_zones[0]"},
		{"there are eight zones at most", &offerv1.RoutingHints{ResidencyZones: nine}, "hints.residency_zones"},
		{"a region's name is short", &offerv1.RoutingHints{PreferredRegion: strings.Repeat("x", 64)}, "hints.preferred_region"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			w := newWorld(t, forward.Config{}, node{"near", answers("x")})
			w.regions.change("near", func(r *arbiter.Region) { r.Zones = []string{"eu"} })
			for _, method := range []string{requestOffer, watchDrops} {
				_, err := w.call(t.Context(), method, hints(t, tt.hints))
				if tt.field == "" {
					if err != nil {
						t.Errorf("%s: %v", method, err)
					}
					continue
				}
				wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST")
				if got := violations(err); !slices.Equal(got, []string{tt.field}) {
					t.Errorf("%s: got violations of %q, want %s", method, got, tt.field)
				}
				if got := w.regions.of("near"); len(got) != 0 {
					t.Errorf("near was asked: %+v", got)
				}
			}
		})
	}
}

func violations(err error) (fields []string) {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	return fields
}

// FuzzReadHints: whatever proto can decode, the router reads as proto does, and refuses what the proto's rules refuse;
// nothing makes it fail.
func FuzzReadHints(f *testing.F) {
	f.Add(hints(f, &offerv1.RoutingHints{DropId: "d", PreferredRegion: "r", ResidencyZones: []string{"eu"}}))
	f.Add(hints(f, &offerv1.RoutingHints{DropId: aDrop, ResidencyZones: []string{"eu", "EU", ""}}))
	f.Add([]byte{0x0a, 0x80, 0x80, 0x80, 0x80, 0x01})
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		got := forward.ReadHints(message)
		var decoded offerv1.WatchDropsRequest // the method with the fewest fields beside the hints
		if proto.Unmarshal(message, &decoded) != nil {
			return
		}
		h := decoded.GetHints()
		zones := h.GetResidencyZones()
		want := forward.Hints{Drop: h.GetDropId(), Preferred: h.GetPreferredRegion(), Zones: zones[:min(len(zones), 9)]}
		if got.Drop != want.Drop || got.Preferred != want.Preferred || len(got.Zones) != len(want.Zones) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		h = proto.CloneOf(h)
		if h != nil {
			h.RequestId = "" // the node's to judge
		}
		refusal, rules := forward.Refused(got), validator.Validate(h)
		if (refusal == nil) != (h == nil || rules == nil) {
			t.Errorf("got %v, and the rules of the proto say %v", refusal, rules)
		}
	})
}

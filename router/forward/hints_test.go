package forward_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
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

// FuzzReadHints: whatever proto can decode, the router reads as proto does; nothing makes it fail.
func FuzzReadHints(f *testing.F) {
	f.Add(hints(f, &offerv1.RoutingHints{DropId: "d", PreferredRegion: "r", ResidencyZones: []string{"eu"}}))
	f.Add([]byte{0x0a, 0x80, 0x80, 0x80, 0x80, 0x01})
	f.Fuzz(func(t *testing.T, message []byte) {
		got := forward.ReadHints(message)
		var decoded offerv1.WatchDropsRequest // the method with the fewest fields beside the hints
		if proto.Unmarshal(message, &decoded) != nil {
			return
		}
		h := decoded.GetHints()
		zones := h.GetResidencyZones()
		want := forward.Hints{Drop: h.GetDropId(), Preferred: h.GetPreferredRegion(), Zones: zones[:min(len(zones), 8)]}
		if got.Drop != want.Drop || got.Preferred != want.Preferred || len(got.Zones) != len(want.Zones) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

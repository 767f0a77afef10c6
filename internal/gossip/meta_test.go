package gossip_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"

	"github.com/rimlight/rimlight/internal/gossip"
)

func TestMetadataTooLongIsRefusedAtTheStart(t *testing.T) {
	cfg := region("a")
	cfg.BindAddr = "10.0.0.1:1"
	for range 3 {
		cfg.Zones = append(cfg.Zones, strings.Repeat("z", 128))
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("what fits is refused: %v", err)
	}
	cfg.Zones = append(cfg.Zones, strings.Repeat("z", 80))
	if err := cfg.Validate(); err == nil {
		t.Error("more than 512 bytes are accepted")
	}
}

func TestMetadataDecoding(t *testing.T) {
	good, err := gossip.MetaOf(region("a"), 7)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		meta []byte
		ok   bool
	}{
		"what was encoded decodes":              {good, true},
		"fields of the future are ignored":      {append(bytes.Clone(good), 1, 2, 3), true},
		"another version is refused":            {append([]byte{gossip.MetaVersion + 1}, good[1:]...), false},
		"nothing is refused":                    {nil, false},
		"a cut text is refused":                 {good[:len(good)-1], false},
		"a control character is refused":        {bytes.Replace(good, []byte("node-a"), []byte("node\x1ba"), 1), false},
		"more than memberlist's limit":          {append(bytes.Clone(good), make([]byte, memberlist.MetaMaxSize)...), false},
		"a length past the end is refused":      {[]byte{gossip.MetaVersion, 1, 0, 0, 127, 'x'}, false},
		"a count of zones past the limit":       {[]byte{gossip.MetaVersion, 1, 0, 0, 0, 0, 0, 255, 1}, false},
		"a revision beyond 63 bits is refused":  {append([]byte{gossip.MetaVersion, 1, 0}, bytes.Repeat([]byte{0xff}, 11)...), false},
		"an endless number is refused at once.": {append([]byte{gossip.MetaVersion, 1, 0}, bytes.Repeat([]byte{0x80}, 400)...), false},
	} {
		if _, err := gossip.DecodeMeta(c.meta); (err == nil) != c.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	good, err := gossip.MetaOf(region("a"), 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{gossip.MetaVersion, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := gossip.DecodeMeta(b)
		if err != nil {
			return // refused, or decoded and too long to encode: both are fine, a panic is not
		}
		twice, err := gossip.DecodeMeta(again)
		if err != nil || !bytes.Equal(again, twice) {
			t.Errorf("%x became %x, then %x (%v)", b, again, twice, err)
		}
	})
}

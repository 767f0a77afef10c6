package region_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/region"
)

func keyOf(n uint32) (key [16]byte) {
	binary.BigEndian.PutUint32(key[12:], n)
	return key
}

func TestATableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got, want := region.NewTable(), map[uint32]uint32{}
		keys := rapid.SampledFrom([]uint32{3, 50, 5000}).Draw(t, "keys")
		key := rapid.Uint32Range(0, keys-1)
		for range rapid.IntRange(0, 2000).Draw(t, "changes") {
			k, value := key.Draw(t, "key"), rapid.SampledFrom([]uint32{0, 0, 1, 2, 7, 1<<32 - 2}).Draw(t, "value")
			got.Set(keyOf(k), value)
			want[k] = value
			if k := key.Draw(t, "other key"); got.Get(keyOf(k)) != want[k] {
				t.Fatalf("key %d: got %d, want %d", k, got.Get(keyOf(k)), want[k])
			}
		}
		for k := range keys {
			if got.Get(keyOf(k)) != want[k] {
				t.Fatalf("key %d: got %d, want %d", k, got.Get(keyOf(k)), want[k])
			}
		}
	})
}

func TestATableDoesNotGrowByWhatCameAndWent(t *testing.T) {
	table := region.NewTable()
	for n := range uint32(100_000) {
		table.Set(keyOf(n), 1)
		if n >= 100 {
			table.Set(keyOf(n-100), 0)
		}
	}
	if got := table.Slots(); got > 512 {
		t.Errorf("%d slots for 100 numbers", got)
	}
}

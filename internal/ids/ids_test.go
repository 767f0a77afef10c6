package ids_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rimlight/rimlight/internal/ids"
)

func TestNewV7(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	id, err := uuid.Parse(ids.NewV7(at, rand.Reader))
	if err != nil {
		t.Fatal(err)
	}
	if id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		t.Errorf("got version %d variant %v, want 7 and RFC 4122", id.Version(), id.Variant())
	}
	if sec, nsec := id.Time().UnixTime(); time.Unix(sec, nsec).UnixMilli() != at.UnixMilli() {
		t.Errorf("the id's time is %v, want %v", time.Unix(sec, nsec), at)
	}
}

func TestNewV7SortsByTimeAndRepeatsFromTheSameRandomness(t *testing.T) {
	seed := bytes.Repeat([]byte{0xff}, 10)
	early := ids.NewV7(time.UnixMilli(1), bytes.NewReader(seed))
	late := ids.NewV7(time.UnixMilli(2), bytes.NewReader(make([]byte, 10)))
	if early >= late {
		t.Errorf("%s is not before %s", early, late)
	}
	if again := ids.NewV7(time.UnixMilli(1), bytes.NewReader(seed)); again != early {
		t.Errorf("got %s and %s from one seed", early, again)
	}
}

func TestBytesTakesOnlyTheCanonicalForm(t *testing.T) {
	const canonical = "0190a3c4-5b6c-7d8e-9f00-112233445566"
	b, err := ids.Bytes(canonical)
	if err != nil || ids.Text(b) != canonical {
		t.Fatalf("got %q, %v, want %q", ids.Text(b), err, canonical)
	}
	for _, bad := range []string{"", "x", "{" + canonical + "}", "urn:uuid:" + canonical, "0190A3C4-5B6C-7D8E-9F00-112233445566"} {
		if _, err := ids.Bytes(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if got := ids.Text(b[:15]); got != "" {
		t.Errorf("15 bytes gave %q, want nothing", got)
	}
}

func TestMadeAt(t *testing.T) {
	at := time.UnixMilli(1_767_225_600_123)
	if got, ok := ids.MadeAt(ids.NewV7(at, rand.Reader)); !ok || !got.Equal(at) {
		t.Errorf("got %v, %v, want %v", got, ok, at)
	}
	for _, other := range []string{"", "x", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"} {
		if _, ok := ids.MadeAt(other); ok {
			t.Errorf("%q is no UUIDv7", other)
		}
	}
}

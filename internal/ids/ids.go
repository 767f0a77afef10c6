// Package ids makes and reads the platform's identifiers.
//
// Ids are UUIDv7 (RFC 9562, section 5.7): they sort by the time of their making. The clock and the randomness are the
// caller's, so that a run in virtual time makes the same ids from the same seed; that, and the process-wide state of
// the usual library's generator, is why there are fifteen lines of code here at all.
package ids

import (
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
)

// NewV7 makes a UUIDv7 at millisecond now from 74 bits of random.
func NewV7(now time.Time, random io.Reader) string {
	var id uuid.UUID
	if _, err := io.ReadFull(random, id[6:]); err != nil {
		panic(fmt.Sprintf("ids: the random source failed: %v", err)) // crypto/rand never does; nothing sane can follow
	}
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = 0x70 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id.String()
}

// MadeAt is when a UUIDv7 was made, by its maker's clock; false for other texts.
func MadeAt(text string) (time.Time, bool) {
	id, err := uuid.Parse(text)
	if err != nil || id.Version() != 7 {
		return time.Time{}, false
	}
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms), true
}

// Bytes gives the 16 bytes of a UUID in its canonical lower-case text form.
func Bytes(text string) ([]byte, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading a UUID: %w", err)
	}
	if id.String() != text {
		return nil, fmt.Errorf("reading a UUID: %q is not in canonical form", text)
	}
	return id[:], nil
}

// Text gives the canonical text form of a UUID's 16 bytes, and "" for any other length.
func Text(b []byte) string {
	id, err := uuid.FromBytes(b)
	if err != nil {
		return ""
	}
	return id.String()
}

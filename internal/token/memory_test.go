package token

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// However many texts come, the memory stays within its bound, and it has the newest ones.
func TestMemoryIsBounded(t *testing.T) {
	var m memory
	name := func(i int) [sha256.Size]byte {
		return sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	const texts = 3 * mostRemembered
	for i := range texts {
		m.learn(name(i))
		if kept := len(m.now) + len(m.old); kept > 2*mostRemembered {
			t.Fatalf("after %d texts it keeps %d, want at most %d", i+1, kept, 2*mostRemembered)
		}
	}
	for i := range texts {
		switch known := m.knows(name(i)); {
		case i >= texts-mostRemembered && !known:
			t.Fatalf("text %d of %d is forgotten", i, texts)
		case i < texts-2*mostRemembered && known:
			t.Fatalf("text %d of %d is still known", i, texts)
		}
	}
}

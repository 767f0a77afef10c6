package token

import (
	"crypto/sha256"
	"sync"
)

// mostRemembered bounds each of a memory's two halves: together some 10 MB, and a few seconds of a node's busiest offers.
// With less a token would be forgotten while its viewer thinks.
const mostRemembered = 1 << 16

// memory is which signatures were verified, so that a token which comes back (its viewer retries, another call carries the
// same receipt) is not verified again: that is most of what a refusal costs. It forgets the older half when it is full. Only
// what verified is in it, by a hash of all that the signature depends on; so a forger fills nothing and finds nothing.
type memory struct {
	mu       sync.Mutex // guards what is below
	now, old map[[sha256.Size]byte]struct{}
}

// signatureHash names a signature by the domain, the key, the signature and what is signed. Domains end with a zero byte
// and keys and signatures have one length each, so no two inputs run together.
func signatureHash(domain string, public, signature, payload []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(public)
	h.Write(signature)
	h.Write(payload)
	return [sha256.Size]byte(h.Sum(nil))
}

func (m *memory) knows(hash [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.now[hash]; ok {
		return true
	}
	_, ok := m.old[hash]
	return ok
}

func (m *memory) learn(hash [sha256.Size]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.now) >= mostRemembered {
		m.old, m.now = m.now, nil
	}
	if m.now == nil {
		m.now = map[[sha256.Size]byte]struct{}{}
	}
	m.now[hash] = struct{}{}
}

package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

// metaVersion is the first byte. A reader ignores members of another version; fields may be added at the end of this
// one, since a reader ignores what follows the fields that it knows.
const metaVersion = 1

const flagLeaving = 1 // unknown flags are ignored

const (
	fixed    = 3 // bytes before the first number
	maxField = 128
	maxZones = 16
)

var (
	errMetaVersion = errors.New("unknown metadata version")
	errMeta        = errors.New("malformed metadata")
)

// meta is what a member says of itself:
//
//	version (1) | mode (1) | flags (1) | catalogue revision | node id | rpc address | program version | zone count | zones ...
//
// Numbers are uvarints, texts are their length and UTF-8 bytes.
type meta struct {
	mode       regionv1.RegionMode
	leaving    bool // flag 1: the member is about to leave
	revision   int64
	nodeID     string
	rpcAddress string
	version    string
	zones      []string
}

// encode fails when a text is too long or unprintable, or when the whole would pass memberlist's 512 bytes with any
// revision: the size must not depend on how far the catalogue has come.
func (m meta) encode() ([]byte, error) {
	if m.mode < 0 || m.mode > math.MaxUint8 || m.revision < 0 {
		return nil, fmt.Errorf("mode %d, revision %d: out of range", m.mode, m.revision)
	}
	if len(m.zones) > maxZones {
		return nil, fmt.Errorf("%d zones: at most %d", len(m.zones), maxZones)
	}
	b := []byte{metaVersion, byte(m.mode), 0}
	if m.leaving {
		b[2] |= flagLeaving
	}
	b = binary.AppendUvarint(b, uint64(m.revision))
	revisionSize := len(b) - fixed
	texts := append([]string{m.nodeID, m.rpcAddress, m.version}, m.zones...)
	for i, text := range texts {
		if !validText(text) {
			return nil, fmt.Errorf("%q: must be printable and at most %d bytes", text, maxField)
		}
		if i == 3 {
			b = binary.AppendUvarint(b, uint64(len(m.zones)))
		}
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	if len(m.zones) == 0 {
		b = append(b, 0)
	}
	if size := len(b) - revisionSize + binary.MaxVarintLen64; size > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("up to %d bytes: at most %d", size, memberlist.MetaMaxSize)
	}
	return b, nil
}

// decodeMeta reads what a peer sent, and trusts none of it.
func decodeMeta(b []byte) (meta, error) {
	if len(b) < fixed || len(b) > memberlist.MetaMaxSize {
		return meta{}, fmt.Errorf("%w: %d bytes", errMeta, len(b))
	}
	if b[0] != metaVersion {
		return meta{}, fmt.Errorf("%w: %d", errMetaVersion, b[0])
	}
	r := reader{rest: b[fixed:]}
	m := meta{mode: regionv1.RegionMode(b[1]), leaving: b[2]&flagLeaving != 0}
	m.revision = int64(r.number(math.MaxInt64))
	m.nodeID, m.rpcAddress, m.version = r.text(), r.text(), r.text()
	for range r.number(maxZones) {
		m.zones = append(m.zones, r.text())
	}
	if r.failed {
		return meta{}, errMeta
	}
	return m, nil
}

// reader takes fields off the front; after the first bad one it gives zero values.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) number(limit uint64) uint64 {
	n, size := binary.Uvarint(r.rest)
	if r.failed || size <= 0 || n > limit {
		r.failed = true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() string {
	n := r.number(maxField)
	if r.failed || n > uint64(len(r.rest)) || !validText(string(r.rest[:n])) {
		r.failed = true
		return ""
	}
	text := string(r.rest[:n])
	r.rest = r.rest[n:]
	return text
}

// validText keeps control characters out of consoles and logs.
func validText(s string) bool {
	if len(s) > maxField || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

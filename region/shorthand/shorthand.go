// Package shorthand writes a journal's records short: what a node needs in order to start, without the receipts' texts.
//
//	journal record          in shorthand                                        bytes
//	Redeemed (a receipt)    purchase, viewer session, serial; drop and lease    about 36
//	                        where they are not those of the sale before
//	OutcomeSeen             purchase, state, cursor                             about 20
//	any other               itself
//
// Invariants. Items are as many as the records, in their order, so an item's place is its record's sequence, by which
// the text is read when somebody asks for it. Writing needs nothing but the records: who reads items and then the records
// that follow knows what a reader of all records knows. A text that is not whole is refused with ErrMalformed.
//
// It does not verify signatures, and holds no payment reference and no delivery details.
package shorthand

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/lease"
)

// ErrMalformed is a text that no Writer wrote, or one of another version.
var ErrMalformed = errors.New("shorthand: malformed")

// version is the first byte of every text.
const version = 1

// PurchaseID is a purchase's id as bytes.
type PurchaseID [16]byte

// ParsePurchaseID reads the text form, which is hexadecimal.
func ParsePurchaseID(text string) (id PurchaseID, ok bool) {
	if len(text) != hex.EncodedLen(len(id)) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(text))
	return id, err == nil && id.String() == text
}

// String is the text form.
func (id PurchaseID) String() string { return hex.EncodeToString(id[:]) }

// Sale is a redemption.
type Sale struct {
	Purchase PurchaseID
	Session  [16]byte
	Drop     [16]byte
	Unit     lease.Unit
}

// Outcome is the verifier's word about a purchase.
type Outcome struct {
	Purchase PurchaseID
	State    offerv1.PurchaseState
	Cursor   int64
}

// ReadSale makes a sale of a receipt and its offer token.
func ReadSale(receipt *offerv1.Receipt, offer *offerv1.OfferToken) (s Sale, err error) {
	id, ok := ParsePurchaseID(token.PurchaseID(offer.GetTokenId()))
	if !ok || len(offer.GetTokenId()) != 16 || len(offer.GetViewerSessionId()) != 16 || len(offer.GetDropId()) != 16 {
		return s, errors.New("a receipt without a token id, a session or a drop")
	}
	return Sale{
		Purchase: id, Session: [16]byte(offer.GetViewerSessionId()), Drop: [16]byte(offer.GetDropId()),
		Unit: lease.Unit{Lease: receipt.GetLeaseId(), Serial: receipt.GetSerial()},
	}, nil
}

// Kinds of items.
const (
	asItself  byte = iota // length, record
	sale                  // purchase, session, serial
	firstSale             // purchase, session, serial, drop, length, lease
	outcome               // purchase, state, cursor
)

// Writer writes one text. The zero value is empty and ready.
type Writer struct {
	text  []byte
	items int
	last  Sale // drop and lease count
}

// Items is how many records the text has.
func (w *Writer) Items() int { return w.items }

// Text is what was written. It is valid until the next Add.
func (w *Writer) Text() []byte { return w.text }

// Add writes a journal record. After an error nothing is written of it.
func (w *Writer) Add(record []byte) error {
	var m regionv1.JournalRecord
	if err := proto.Unmarshal(record, &m); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if w.items == 0 {
		w.text = append(w.text[:0], version)
	}
	switch r := m.GetRecord().(type) {
	case *regionv1.JournalRecord_Redeemed:
		if err := w.addSale(r.Redeemed); err != nil {
			return err
		}
	case *regionv1.JournalRecord_Outcome:
		id, ok := ParsePurchaseID(r.Outcome.GetPurchase().GetPurchaseId())
		if !ok {
			w.addItself(record)
			break
		}
		w.text = append(append(w.text, outcome), id[:]...)
		w.text = binary.AppendUvarint(w.text, uint64(r.Outcome.GetPurchase().GetState()))
		w.text = binary.AppendVarint(w.text, r.Outcome.GetCursor())
	default:
		w.addItself(record)
	}
	w.items++
	return nil
}

func (w *Writer) addItself(record []byte) {
	w.text = append(binary.AppendUvarint(append(w.text, asItself), uint64(len(record))), record...)
}

func (w *Writer) addSale(text string) error {
	var receipt offerv1.Receipt
	var offer offerv1.OfferToken
	if err := token.DecodeTrusted(text, &receipt); err != nil {
		return fmt.Errorf("decoding a receipt: %w", err)
	}
	if err := token.DecodeTrusted(receipt.GetOfferToken(), &offer); err != nil {
		return fmt.Errorf("decoding a receipt's offer token: %w", err)
	}
	s, err := ReadSale(&receipt, &offer)
	if err != nil {
		return err
	}
	kind := sale
	if s.Drop != w.last.Drop || s.Unit.Lease != w.last.Unit.Lease {
		kind = firstSale
	}
	w.text = append(append(append(w.text, kind), s.Purchase[:]...), s.Session[:]...)
	w.text = binary.AppendUvarint(w.text, uint64(s.Unit.Serial))
	if kind == firstSale {
		w.text = append(w.text, s.Drop[:]...)
		w.text = append(binary.AppendUvarint(w.text, uint64(len(s.Unit.Lease))), s.Unit.Lease...)
		w.last = s
	}
	return nil
}

// Reader is told of each item, with its place from 1. An error ends the reading.
type Reader interface {
	Record(place int64, record []byte) error
	Sale(place int64, s Sale) error
	Outcome(place int64, o Outcome) error
}

// Read reads a text, and tells how many items it has.
func Read(text []byte, r Reader) (items int64, err error) {
	s := scanner{rest: text}
	if v := s.bytes(1); s.bad || v[0] != version {
		return 0, fmt.Errorf("%w: not version %d", ErrMalformed, version)
	}
	var last Sale
	for len(s.rest) > 0 {
		items++
		switch kind := s.bytes(1)[0]; kind {
		case asItself:
			if record := s.text(); !s.bad {
				err = r.Record(items, record)
			}
		case sale, firstSale:
			copy(last.Purchase[:], s.bytes(16))
			copy(last.Session[:], s.bytes(16))
			last.Unit.Serial = uint32(s.uvarint())
			if kind == firstSale {
				copy(last.Drop[:], s.bytes(16))
				last.Unit.Lease = string(s.text())
			}
			if !s.bad {
				err = r.Sale(items, last)
			}
		case outcome:
			var o Outcome
			copy(o.Purchase[:], s.bytes(16))
			o.State, o.Cursor = offerv1.PurchaseState(s.uvarint()), s.varint()
			if !s.bad {
				err = r.Outcome(items, o)
			}
		default:
			s.bad = true
		}
		if s.bad {
			return items, fmt.Errorf("%w: item %d", ErrMalformed, items)
		}
		if err != nil {
			return items, err
		}
	}
	return items, nil
}

// scanner cuts a text into its parts. Once bad it gives nothing.
type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) bytes(n int) []byte {
	if s.bad || n < 0 || n > len(s.rest) {
		s.bad = true
		return nil
	}
	part := s.rest[:n]
	s.rest = s.rest[n:]
	return part
}

func (s *scanner) text() []byte {
	n := s.uvarint()
	if n > uint64(len(s.rest)) {
		s.bad = true
		return nil
	}
	return s.bytes(int(n))
}

func (s *scanner) uvarint() uint64 {
	v, n := binary.Uvarint(s.rest)
	s.skip(n)
	return v
}

func (s *scanner) varint() int64 {
	v, n := binary.Varint(s.rest)
	s.skip(n)
	return v
}

func (s *scanner) skip(n int) {
	if n <= 0 {
		s.bad = true
		return
	}
	s.bytes(n)
}

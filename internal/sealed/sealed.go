// Package sealed keeps delivery details from everybody but the microfulfillment nodes (depots) that they are sealed to.
//
//	details ── pad ── AES-128-GCM(content key) ─────────> ciphertext ──┐
//	content key ── HPKE(public key of each depot) ──────> sealed keys ─┴─> rimlight.offer.v1.SealedDetails
//
// A client seals; routers, regions, the verifier and fulfillment carry what it made and see how many depots may open it,
// which, and the length of the details in steps of 256 bytes. The context, which is not in the envelope, names the drop
// and the purchase: moved to another purchase it does not open.
//
// Invariants: an envelope has one spelling. Whoever has none of the private keys learns nothing more; changed in any bit
// it does not open. Nothing here panics on what others sent.
//
// HPKE (RFC 9180) is the standard library's. It does not know whose a public key is: fulfillment vouches for that. It does
// not say who sealed: the receipt does. docs/decisions/0019-sealed-details.md.
package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/cardnumber"
	"github.com/rimlight/rimlight/internal/ids"
)

const (
	// MaxDetails is how many bytes details have at most.
	MaxDetails = 2048
	// MaxRecipients is how many depots details are sealed to at most.
	MaxRecipients = 8
	// MaxEnvelope bounds what Seal makes: MaxRecipients sealed keys and MaxDetails with their padding.
	MaxEnvelope = 3072
	// PublicKeySize is the length of a depot's public key.
	PublicKeySize = 32

	keyIDSize     = 8
	contentKey    = 16
	tag           = 16
	sealedKeySize = PublicKeySize + contentKey + tag
	padTo         = 256
	domain        = "delivery-details/v1\x00"
)

// Errors of sealing and opening.
var (
	// ErrSize: details are empty, or have more than MaxDetails bytes.
	ErrSize = fmt.Errorf("sealed: details have 1 to %d bytes", MaxDetails)
	// ErrCardNumber: the details hold what could be a payment card number. Nobody after the client can look.
	ErrCardNumber = errors.New("sealed: the details look like they hold a card number")
	// ErrNoRecipient: there is no key to seal to.
	ErrNoRecipient = errors.New("sealed: no microfulfillment node's key is known")
	// ErrMalformed: the bytes are no envelope, or not in the one spelling that it has.
	ErrMalformed = errors.New("sealed: no sealed details")
	// ErrNotForUs: none of the keys is a recipient's.
	ErrNotForUs = errors.New("sealed: sealed to others")
	// ErrForged: it was sealed for another purchase, or changed since.
	ErrForged = errors.New("sealed: does not open")
)

var kem, kdf, aead = hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.AES128GCM()

// Purchase is what details are sealed for.
type Purchase struct {
	DropID string // UUID
	ID     string // 32 hex digits
}

func (p Purchase) context() ([]byte, error) {
	drop, err := ids.Bytes(p.DropID)
	if err != nil {
		return nil, fmt.Errorf("sealed: the drop: %w", err)
	}
	id, err := hex.DecodeString(p.ID)
	if err != nil || len(id) != 16 {
		return nil, errors.New("sealed: a purchase id has 32 hex digits")
	}
	return append(append([]byte(domain), drop...), id...), nil
}

// KeyID is how an envelope names a public key: the first 8 bytes of its SHA-256.
func KeyID(public []byte) []byte {
	sum := sha256.Sum256(public)
	return sum[:keyIDSize]
}

// Key is a depot's. It is safe for concurrent use.
type Key struct {
	private hpke.PrivateKey
	public  []byte
}

// NewKey makes a key of 32 random bytes.
func NewKey(random io.Reader) (*Key, error) {
	seed := make([]byte, 32)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("sealed: making a key: %w", err)
	}
	private, err := kem.DeriveKeyPair(seed)
	if err != nil {
		return nil, fmt.Errorf("sealed: making a key: %w", err)
	}
	return &Key{private, private.PublicKey().Bytes()}, nil
}

// ParseKey reads what Private wrote.
func ParseKey(b []byte) (*Key, error) {
	private, err := kem.NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("sealed: reading a key: %w", err)
	}
	return &Key{private, private.PublicKey().Bytes()}, nil
}

// Private is the key's secret half, to be kept.
func (k *Key) Private() ([]byte, error) { return k.private.Bytes() }

// Public is the half to publish. Callers must not change it.
func (k *Key) Public() []byte { return k.public }

// Seal makes an envelope that the holder of each of the public keys can open for this purchase, and nobody else. Every call
// makes another one: whoever repeats a redemption repeats the envelope. Errors: ErrSize, ErrCardNumber, ErrNoRecipient, or
// what is wrong with a key.
func Seal(details []byte, publicKeys [][]byte, p Purchase) ([]byte, error) {
	switch {
	case len(details) == 0 || len(details) > MaxDetails:
		return nil, ErrSize
	case cardnumber.In(details):
		return nil, ErrCardNumber
	case len(publicKeys) == 0:
		return nil, ErrNoRecipient
	}
	context, err := p.context()
	if err != nil {
		return nil, err
	}
	content := make([]byte, contentKey)
	rand.Read(content) // never fails since Go 1.24
	m := &offerv1.SealedDetails{}
	for _, raw := range publicKeys[:min(len(publicKeys), MaxRecipients)] {
		public, err := kem.NewPublicKey(raw)
		if err != nil {
			return nil, fmt.Errorf("sealed: a public key: %w", err)
		}
		sealed, err := hpke.Seal(public, kdf, aead, context, content)
		if err != nil {
			return nil, fmt.Errorf("sealed: sealing to a public key: %w", err)
		}
		m.Keys = append(m.Keys, &offerv1.SealedKey{KeyId: KeyID(raw), SealedKey: sealed})
	}
	gcm, err := contentCipher(content)
	if err != nil {
		return nil, err
	}
	m.Ciphertext = gcm.Seal(nil, make([]byte, gcm.NonceSize()), pad(details), context)
	envelope, err := spell(m)
	if err != nil {
		return nil, fmt.Errorf("sealed: encoding: %w", err)
	}
	return envelope, nil
}

// Recipients are the ids of the keys that an envelope is sealed to. It looks at the form of all of it, and can see nothing of
// the content. Error: ErrMalformed.
func Recipients(envelope []byte) ([][]byte, error) {
	m, err := read(envelope)
	if err != nil {
		return nil, err
	}
	recipients := make([][]byte, len(m.GetKeys()))
	for i, k := range m.GetKeys() {
		recipients[i] = k.GetKeyId()
	}
	return recipients, nil
}

// Open reads the details with whichever of the keys is a recipient's. Errors: ErrMalformed, ErrNotForUs, ErrForged.
func Open(envelope []byte, keys []*Key, p Purchase) ([]byte, error) {
	m, err := read(envelope)
	if err != nil {
		return nil, err
	}
	context, err := p.context()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		for _, to := range m.GetKeys() {
			if bytes.Equal(to.GetKeyId(), KeyID(k.public)) {
				return k.open(m.GetCiphertext(), to.GetSealedKey(), context)
			}
		}
	}
	return nil, ErrNotForUs
}

func (k *Key) open(ciphertext, sealedKey, context []byte) ([]byte, error) {
	content, err := hpke.Open(k.private, kdf, aead, context, sealedKey)
	if err != nil {
		return nil, ErrForged
	}
	gcm, err := contentCipher(content)
	if err != nil {
		return nil, err
	}
	padded, err := gcm.Open(nil, make([]byte, gcm.NonceSize()), ciphertext, context)
	if err != nil {
		return nil, ErrForged
	}
	details, ok := unpad(padded)
	if !ok || len(details) == 0 || len(details) > MaxDetails {
		return nil, ErrMalformed
	}
	return details, nil
}

// contentCipher is used with a nonce of zeros: each content key seals one text.
func contentCipher(content []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(content)
	if err != nil {
		return nil, fmt.Errorf("sealed: the content key: %w", err)
	}
	return cipher.NewGCM(block)
}

func read(envelope []byte) (*offerv1.SealedDetails, error) {
	m := &offerv1.SealedDetails{}
	if len(envelope) > MaxEnvelope || proto.Unmarshal(envelope, m) != nil {
		return nil, ErrMalformed
	}
	// One spelling only: nothing can ride along in unknown fields.
	if again, err := spell(m); err != nil || !bytes.Equal(again, envelope) || len(m.ProtoReflect().GetUnknown()) > 0 {
		return nil, ErrMalformed
	}
	n := len(m.GetCiphertext()) - tag
	if len(m.GetKeys()) == 0 || len(m.GetKeys()) > MaxRecipients || n <= 0 || n%padTo != 0 || n > paddedSize(MaxDetails) {
		return nil, ErrMalformed
	}
	for _, k := range m.GetKeys() {
		if len(k.GetKeyId()) != keyIDSize || len(k.GetSealedKey()) != sealedKeySize || len(k.ProtoReflect().GetUnknown()) > 0 {
			return nil, ErrMalformed
		}
	}
	return m, nil
}

func spell(m *offerv1.SealedDetails) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// pad hides how long details are, up to padTo bytes: ISO/IEC 7816-4.
func pad(details []byte) []byte {
	padded := make([]byte, paddedSize(len(details)))
	padded[copy(padded, details)] = 0x80
	return padded
}

func paddedSize(n int) int { return (n/padTo + 1) * padTo }

func unpad(padded []byte) ([]byte, bool) {
	details := bytes.TrimRight(padded, "\x00")
	return bytes.CutSuffix(details, []byte{0x80})
}

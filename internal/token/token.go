// Package token signs and opens the five texts that carry promises: offer tokens, receipts, outcomes, vouchers, and what
// viewers get back of a drop's window.
//
//	text = base64url( key_id[8] || signature[64] || payload )
//	signature = Ed25519( domain || payload )                                   RFC 8032
//
// The payload is a protobuf message of rimlight.offer.v1; it is verified as the bytes it came in and only then decoded,
// so the encoding need not be canonical. The domain separates the kinds: a receipt never passes as an offer token
// although a node signs both with one key. A key may sign only what its owner is for.
//
// It does not check times, sessions or drops: whoever opens a text owns those rules.
package token

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// Errors of opening a text.
var (
	// ErrMalformed: not base64url without padding, too short, or no message inside.
	ErrMalformed = errors.New("token: malformed")
	// ErrUnknownKey: no key with this id is known here. It may be a forgery or a key that has not arrived yet.
	ErrUnknownKey = errors.New("token: unknown key")
	// ErrForged: the signature is wrong, or the key may not sign this kind of text.
	ErrForged = errors.New("token: forged")
)

const (
	keyIDSize  = 8
	headerSize = keyIDSize + ed25519.SignatureSize
)

// kind is a domain separator with the owner that may sign under it.
type kind struct {
	domain string
	owner  offerv1.KeyOwner
}

var (
	offerToken = kind{"offer-token/v1\x00", offerv1.KeyOwner_KEY_OWNER_NODE}
	receipt    = kind{"receipt/v1\x00", offerv1.KeyOwner_KEY_OWNER_NODE}
	outcome    = kind{"outcome/v1\x00", offerv1.KeyOwner_KEY_OWNER_VERIFIER}
	voucher    = kind{"voucher/v1\x00", offerv1.KeyOwner_KEY_OWNER_VERIFIER}
	timeBack   = kind{"time-back/v1\x00", offerv1.KeyOwner_KEY_OWNER_FULFILLMENT}
)

// encoding refuses the second spellings that base64 allows in its last character.
var encoding = base64.RawURLEncoding.Strict()

// Signer holds a private key. It is safe for concurrent use.
type Signer struct {
	private ed25519.PrivateKey
	public  *offerv1.SigningKey
}

// NewSigner derives a signer from a 32-byte seed (RFC 8032 calls it the private key). nodeID and region are empty for
// the verifier and fulfillment.
func NewSigner(seed []byte, owner offerv1.KeyOwner, nodeID, region string) (*Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("token: a seed has %d bytes, this one %d", ed25519.SeedSize, len(seed))
	}
	private := ed25519.NewKeyFromSeed(seed)
	public := private.Public().(ed25519.PublicKey)
	return &Signer{private, &offerv1.SigningKey{
		KeyId: keyID(public), PublicKey: public, Owner: owner, NodeId: nodeID, Region: region,
	}}, nil
}

// NewSeed makes a seed for NewSigner.
func NewSeed(random io.Reader) ([]byte, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("token: making a key: %w", err)
	}
	return seed, nil
}

// Public is the half to publish. Callers must not change it.
func (s *Signer) Public() *offerv1.SigningKey { return s.public }

// OfferToken signs an offer token.
func (s *Signer) OfferToken(m *offerv1.OfferToken) (string, error) { return s.text(offerToken, m) }

// Receipt signs a receipt.
func (s *Signer) Receipt(m *offerv1.Receipt) (string, error) { return s.text(receipt, m) }

// Outcome signs a final outcome.
func (s *Signer) Outcome(m *offerv1.Outcome) (string, error) { return s.text(outcome, m) }

// TimeBack signs what viewers get back of a drop's window.
func (s *Signer) TimeBack(m *offerv1.SignedTimeBack) (string, error) { return s.text(timeBack, m) }

// Voucher signs the text of a voucher. It is the same text each time, so it need not be kept.
func (s *Signer) Voucher(m *offerv1.SignedVoucher) (string, error) { return s.text(voucher, m) }

func (s *Signer) text(k kind, m proto.Message) (string, error) {
	raw, err := s.sign(k, m)
	if err != nil {
		return "", err
	}
	return encoding.EncodeToString(raw), nil
}

func (s *Signer) sign(k kind, m proto.Message) ([]byte, error) {
	if s.public.Owner != k.owner {
		return nil, fmt.Errorf("token: a key of %v may not sign %q", s.public.Owner, k.domain)
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("token: encoding %T: %w", m, err)
	}
	raw := make([]byte, 0, headerSize+len(payload))
	raw = append(raw, s.public.KeyId...)
	raw = append(raw, ed25519.Sign(s.private, append([]byte(k.domain), payload...))...)
	return append(raw, payload...), nil
}

// Keys is a growing set of public keys, with a bounded memory of what they verified. The zero value is empty and ready.
type Keys struct {
	mu       sync.Mutex // serialises Add
	snapshot atomic.Pointer[map[[keyIDSize]byte]*offerv1.SigningKey]
	verified memory
}

// Sign is s.OfferToken for a process that will open the token itself: most tokens are redeemed where they were made, and what
// was signed here with a key of the set needs no verifying here.
func (k *Keys) Sign(s *Signer, m *offerv1.OfferToken) (string, error) {
	raw, err := s.sign(offerToken, m)
	if err != nil {
		return "", err
	}
	if key := k.find(raw); key != nil && bytes.Equal(key.GetPublicKey(), s.public.GetPublicKey()) {
		k.verified.learn(signatureHash(offerToken.domain, key.GetPublicKey(), raw[keyIDSize:headerSize], raw[headerSize:]))
	}
	return encoding.EncodeToString(raw), nil
}

// find is the key that a decoded text names; nil: unknown.
func (k *Keys) find(raw []byte) *offerv1.SigningKey {
	snapshot := k.snapshot.Load()
	if snapshot == nil {
		return nil
	}
	return (*snapshot)[[keyIDSize]byte(raw)]
}

// Unknown are those of some keys that Add would take in.
func (k *Keys) Unknown(keys ...*offerv1.SigningKey) []*offerv1.SigningKey {
	var next map[[keyIDSize]byte]*offerv1.SigningKey
	if old := k.snapshot.Load(); old != nil {
		next = *old
	}
	return unknown(next, keys)
}

// unknown leaves out what is known, forged, or there twice.
func unknown(known map[[keyIDSize]byte]*offerv1.SigningKey, keys []*offerv1.SigningKey) []*offerv1.SigningKey {
	var fresh []*offerv1.SigningKey
	seen := map[[keyIDSize]byte]bool{}
	for _, key := range keys {
		if len(key.GetPublicKey()) != ed25519.PublicKeySize || !bytes.Equal(key.GetKeyId(), keyID(key.GetPublicKey())) {
			continue
		}
		id := [keyIDSize]byte(key.GetKeyId())
		if _, is := known[id]; !is && !seen[id] {
			seen[id] = true
			fresh = append(fresh, key)
		}
	}
	return fresh
}

// Add takes keys in and returns those that were new. A key whose id does not belong to its bytes, or that comes again
// with another owner, is left out: the first word about a key stands.
func (k *Keys) Add(keys ...*offerv1.SigningKey) []*offerv1.SigningKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := map[[keyIDSize]byte]*offerv1.SigningKey{}
	if old := k.snapshot.Load(); old != nil {
		next = maps.Clone(*old)
	}
	fresh := unknown(next, keys)
	for _, key := range fresh {
		next[[keyIDSize]byte(key.GetKeyId())] = key
	}
	if len(fresh) > 0 {
		k.snapshot.Store(&next)
	}
	return fresh
}

// All lists the keys by id.
func (k *Keys) All() []*offerv1.SigningKey {
	snapshot := k.snapshot.Load()
	if snapshot == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(*snapshot), func(a, b *offerv1.SigningKey) int {
		return bytes.Compare(a.GetKeyId(), b.GetKeyId())
	})
}

// Len is how many keys are known.
func (k *Keys) Len() int {
	if snapshot := k.snapshot.Load(); snapshot != nil {
		return len(*snapshot)
	}
	return 0
}

// OpenOfferToken verifies and decodes an offer token.
func (k *Keys) OpenOfferToken(text string) (*offerv1.OfferToken, error) {
	m := &offerv1.OfferToken{}
	if _, err := k.open(offerToken, text, m); err != nil {
		return nil, err
	}
	if len(m.GetTokenId()) != 16 || len(m.GetDropId()) != 16 || len(m.GetViewerSessionId()) != 16 || m.GetPrice() == nil {
		return nil, fmt.Errorf("%w: an offer token with fields missing", ErrMalformed)
	}
	return m, nil
}

// OpenReceipt verifies and decodes a receipt and the offer token inside it. The key that signed must be the key of the
// node that the receipt names.
func (k *Keys) OpenReceipt(text string) (*offerv1.Receipt, *offerv1.OfferToken, error) {
	m := &offerv1.Receipt{}
	key, err := k.open(receipt, text, m)
	if err != nil {
		return nil, nil, err
	}
	if key.GetNodeId() != m.GetNodeId() {
		return nil, nil, fmt.Errorf("%w: a receipt of node %s signed by node %s", ErrForged, m.GetNodeId(), key.GetNodeId())
	}
	offer, err := k.OpenOfferToken(m.GetOfferToken())
	if err != nil {
		return nil, nil, fmt.Errorf("opening the receipt's offer token: %w", err)
	}
	if m.GetPurchaseId() != PurchaseID(offer.GetTokenId()) {
		return nil, nil, fmt.Errorf("%w: the receipt's purchase id is not its token's", ErrMalformed)
	}
	return m, offer, nil
}

// OpenOutcome verifies and decodes a final outcome.
func (k *Keys) OpenOutcome(text string) (*offerv1.Outcome, error) {
	m := &offerv1.Outcome{}
	if _, err := k.open(outcome, text, m); err != nil {
		return nil, err
	}
	return m, nil
}

// OpenVoucher verifies and decodes the text of a voucher.
func (k *Keys) OpenVoucher(text string) (*offerv1.SignedVoucher, error) {
	m := &offerv1.SignedVoucher{}
	if _, err := k.open(voucher, text, m); err != nil {
		return nil, err
	}
	if len(m.GetVoucherId()) != 16 {
		return nil, fmt.Errorf("%w: a voucher without an id", ErrMalformed)
	}
	return m, nil
}

// OpenTimeBack verifies and decodes what viewers get back of a drop's window.
func (k *Keys) OpenTimeBack(text string) (*offerv1.SignedTimeBack, error) {
	m := &offerv1.SignedTimeBack{}
	if _, err := k.open(timeBack, text, m); err != nil {
		return nil, err
	}
	if len(m.GetDropId()) != 16 {
		return nil, fmt.Errorf("%w: time back without a drop", ErrMalformed)
	}
	return m, nil
}

func (k *Keys) open(kd kind, text string, m proto.Message) (*offerv1.SigningKey, error) {
	raw, err := encoding.DecodeString(text)
	if err != nil || len(raw) < headerSize || bytes.ContainsAny([]byte(text), "\r\n") {
		return nil, ErrMalformed
	}
	key := k.find(raw)
	if key == nil {
		return nil, ErrUnknownKey
	}
	if key.GetOwner() != kd.owner {
		return nil, fmt.Errorf("%w: a key of %v signed %q", ErrForged, key.GetOwner(), kd.domain)
	}
	signature, payload := raw[keyIDSize:headerSize], raw[headerSize:]
	if hash := signatureHash(kd.domain, key.GetPublicKey(), signature, payload); !k.verified.knows(hash) {
		if !ed25519.Verify(key.GetPublicKey(), append([]byte(kd.domain), payload...), signature) {
			return nil, ErrForged
		}
		k.verified.learn(hash)
	}
	if err := proto.Unmarshal(payload, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return key, nil
}

// DecodeTrusted decodes a text without verifying it: only for what this process signed itself and kept on its own disk,
// where verifying a million texts again would hold up a start by minutes.
func DecodeTrusted(text string, m proto.Message) error {
	raw, err := encoding.DecodeString(text)
	if err != nil || len(raw) < headerSize {
		return ErrMalformed
	}
	if err := proto.Unmarshal(raw[headerSize:], m); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// PurchaseID is the public name of the purchase that token id K may become.
func PurchaseID(tokenID []byte) string {
	sum := sha256.Sum256(append([]byte("purchase-id/v1\x00"), tokenID...))
	return hex.EncodeToString(sum[:16])
}

// DeriveTokenID makes K of an intention: the same viewer session, drop and request id give the same K at every node, so
// a request that is retried or hedged elsewhere can never become two purchases. K is as hard to guess as the session's
// 128 random bits. See docs/decisions/0002.
func DeriveTokenID(viewerSessionID, dropID []byte, requestID string) []byte {
	h := sha256.New()
	h.Write([]byte("token-id/v1\x00"))
	h.Write(viewerSessionID) // fixed lengths first, so no two inputs run together
	h.Write(dropID)
	h.Write([]byte(requestID))
	return h.Sum(nil)[:16]
}

func keyID(public []byte) []byte {
	sum := sha256.Sum256(public)
	return sum[:keyIDSize]
}

package sealed_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sealed"
)

func newKeys(t interface{ Fatal(...any) }, n int) (keys []*sealed.Key, public [][]byte) {
	for range n {
		k, err := sealed.NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys, public = append(keys, k), append(public, k.Public())
	}
	return keys, public
}

func newPurchase() sealed.Purchase {
	id := make([]byte, 16)
	rand.Read(id)
	return sealed.Purchase{DropID: ids.NewV7(time.Now(), rand.Reader), ID: hex.EncodeToString(id)}
}

// Sealed for n depots, each of them opens it; a stranger does not, nor anybody for another purchase or drop, nor when a bit
// was changed.
func TestWhoOpensAnEnvelope(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, sealed.MaxRecipients).Draw(t, "depots")
		keys, public := newKeys(t, n+1)
		stranger := keys[n]
		details := rapid.SliceOfN(rapid.Byte(), 1, sealed.MaxDetails).Draw(t, "details")
		p := newPurchase()
		envelope, err := sealed.Seal(details, public[:n], p)
		if errors.Is(err, sealed.ErrCardNumber) {
			t.Skip("digits by chance")
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(envelope) > sealed.MaxEnvelope || len(details) > 16 && bytes.Contains(envelope, details[:16]) {
			t.Errorf("%d bytes, or in the clear", len(envelope))
		}
		recipients, err := sealed.Recipients(envelope)
		if err != nil || len(recipients) != n {
			t.Fatalf("got %d recipients, %v", len(recipients), err)
		}
		for i, k := range keys[:n] {
			if got, err := sealed.Open(envelope, []*sealed.Key{stranger, k}, p); err != nil || !bytes.Equal(got, details) {
				t.Fatalf("depot %d: %v", i, err)
			}
			if !bytes.Equal(recipients[i], sealed.KeyID(k.Public())) {
				t.Error("the envelope names another key")
			}
		}
		if _, err := sealed.Open(envelope, []*sealed.Key{stranger}, p); !errors.Is(err, sealed.ErrNotForUs) {
			t.Errorf("a stranger: %v", err)
		}
		other := newPurchase()
		for _, q := range []sealed.Purchase{{DropID: other.DropID, ID: p.ID}, {DropID: p.DropID, ID: other.ID}} {
			if _, err := sealed.Open(envelope, keys[:1], q); !errors.Is(err, sealed.ErrForged) {
				t.Errorf("for another purchase: %v", err)
			}
		}
		bit := rapid.IntRange(0, len(envelope)*8-1).Draw(t, "bit")
		envelope[bit/8] ^= 1 << (bit % 8)
		if got, err := sealed.Open(envelope, keys[:1], p); err == nil && n == 1 {
			t.Errorf("changed, it opens to %x", got)
		} else if err == nil && !bytes.Equal(got, details) { // another depot's key was changed: not this one's concern
			t.Error("changed, it opens to something else")
		}
	})
}

func TestWhatIsNotSealed(t *testing.T) {
	_, public := newKeys(t, 1)
	for rule, c := range map[string]struct {
		details []byte
		to      [][]byte
		want    error
	}{
		"nothing":            {nil, public, sealed.ErrSize},
		"more than 2 KiB":    {make([]byte, sealed.MaxDetails+1), public, sealed.ErrSize},
		"a card number":      {[]byte("Rue de la Paix 1, 4111 1111 1111 1111"), public, sealed.ErrCardNumber},
		"to nobody":          {[]byte("Rue de la Paix 1"), nil, sealed.ErrNoRecipient},
		"to a key too short": {[]byte("Rue de la Paix 1"), [][]byte{make([]byte, 31)}, nil},
		"to a key of zeros":  {[]byte("Rue de la Paix 1"), [][]byte{make([]byte, 32)}, nil}, // of low order: everybody would know the secret
	} {
		envelope, err := sealed.Seal(c.details, c.to, newPurchase())
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %d bytes, %v", rule, len(envelope), err)
		}
	}
}

// Addresses of about the same length look the same.
func TestLengthIsHidden(t *testing.T) {
	_, public := newKeys(t, sealed.MaxRecipients)
	size := func(n int) int {
		envelope, err := sealed.Seal(bytes.Repeat([]byte("x"), n), public, newPurchase())
		if err != nil {
			t.Fatal(err)
		}
		return len(envelope)
	}
	if size(1) != size(255) || size(255) == size(256) || size(sealed.MaxDetails) > sealed.MaxEnvelope {
		t.Errorf("got %d, %d, %d and %d bytes", size(1), size(255), size(256), size(sealed.MaxDetails))
	}
}

func TestAnEnvelopeHasOneSpelling(t *testing.T) {
	keys, public := newKeys(t, 9)
	p := newPurchase()
	good, err := sealed.Seal([]byte("Rue de la Paix 1"), public[:1], p)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*offerv1.SealedDetails)) []byte {
		var m offerv1.SealedDetails
		if err := proto.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(&m)
		b, err := proto.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rider := []byte("\x1a\x04Main") // field 3
	for rule, envelope := range map[string][]byte{
		"an address":              []byte("Rue de la Paix 1, 75002 Paris"),
		"nothing":                 nil,
		"an unknown field":        append(bytes.Clone(good), rider...),
		"an unknown field inside": change(func(m *offerv1.SealedDetails) { m.Keys[0].ProtoReflect().SetUnknown(rider) }),
		"no recipient":            change(func(m *offerv1.SealedDetails) { m.Keys = nil }),
		"nine recipients": change(func(m *offerv1.SealedDetails) {
			for len(m.Keys) < 9 {
				m.Keys = append(m.Keys, m.Keys[0])
			}
		}),
		"a key id too short":     change(func(m *offerv1.SealedDetails) { m.Keys[0].KeyId = m.Keys[0].KeyId[1:] }),
		"a sealed key too long":  change(func(m *offerv1.SealedDetails) { m.Keys[0].SealedKey = append(m.Keys[0].SealedKey, 0) }),
		"no ciphertext":          change(func(m *offerv1.SealedDetails) { m.Ciphertext = nil }),
		"a ciphertext of no pad": change(func(m *offerv1.SealedDetails) { m.Ciphertext = m.Ciphertext[1:] }),
		"too long":               change(func(m *offerv1.SealedDetails) { m.Ciphertext = make([]byte, 10*256+16) }),
		"the fields turned":      append(bytes.Clone(good[len(good)-275:]), good[:len(good)-275]...),
	} {
		if _, err := sealed.Recipients(envelope); !errors.Is(err, sealed.ErrMalformed) {
			t.Errorf("%s: %v", rule, err)
		}
		if _, err := sealed.Open(envelope, keys, p); !errors.Is(err, sealed.ErrMalformed) {
			t.Errorf("%s: opening it: %v", rule, err)
		}
	}
}

func TestAKeyIsReadBack(t *testing.T) {
	k, err := sealed.NewKey(strings.NewReader(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	private, err := k.Private()
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealed.ParseKey(private)
	if err != nil || !bytes.Equal(again.Public(), k.Public()) {
		t.Errorf("another key: %v", err)
	}
	if _, err := sealed.ParseKey(private[1:]); err == nil {
		t.Error("half a key was read")
	}
}

// Whatever comes, opening it ends in an answer, and what does not open gives nothing.
func FuzzOpen(f *testing.F) {
	keys, public := newKeys(f, 2)
	p := newPurchase()
	good, err := sealed.Seal([]byte("Rue de la Paix 1"), public, p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("Rue de la Paix 1"))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		recipients, err := sealed.Recipients(envelope)
		details, openErr := sealed.Open(envelope, keys, p)
		if openErr != nil && details != nil || openErr == nil && !bytes.Equal(details, []byte("Rue de la Paix 1")) {
			t.Errorf("got %q, %v", details, openErr)
		}
		if (err == nil) != (len(recipients) > 0) || err == nil && len(envelope) > sealed.MaxEnvelope {
			t.Errorf("got %d recipients, %v", len(recipients), err)
		}
	})
}

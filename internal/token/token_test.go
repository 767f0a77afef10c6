package token_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/token"
)

const (
	nodeOwner     = offerv1.KeyOwner_KEY_OWNER_NODE
	verifierOwner = offerv1.KeyOwner_KEY_OWNER_VERIFIER
)

func signer(t testing.TB, fill byte, owner offerv1.KeyOwner, nodeID string) *token.Signer {
	t.Helper()
	s, err := token.NewSigner(bytes.Repeat([]byte{fill}, ed25519.SeedSize), owner, nodeID, "europe-west3")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keys(signers ...*token.Signer) *token.Keys {
	k := &token.Keys{}
	for _, s := range signers {
		k.Add(s.Public())
	}
	return k
}

func claims() *offerv1.OfferToken {
	return &offerv1.OfferToken{
		TokenId: bytes.Repeat([]byte{1}, 16), DropId: bytes.Repeat([]byte{2}, 16), ViewerSessionId: bytes.Repeat([]byte{3}, 16),
		OfferVersion: 7, Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}, Arm: "control",
		IssueTimeUs: 1_700_000_000_000_000, ExpireTimeUs: 1_700_000_060_000_000,
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestOfferTokenRoundTrip(t *testing.T) {
	node := signer(t, 1, nodeOwner, "n1")
	text := must[string](t)(node.OfferToken(claims()))
	got := must[*offerv1.OfferToken](t)(keys(node).OpenOfferToken(text))
	if diff := cmp.Diff(claims(), got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if len(text) > 300 {
		t.Errorf("the token has %d characters, want about 250", len(text))
	}
}

func TestOpeningRefuses(t *testing.T) {
	node, other, centre := signer(t, 1, nodeOwner, "n1"), signer(t, 2, nodeOwner, "n2"), signer(t, 3, verifierOwner, "")
	text := must[string](t)(node.OfferToken(claims()))
	receiptOf := func(s *token.Signer, r *offerv1.Receipt) string { return must[string](t)(s.Receipt(r)) }
	good := &offerv1.Receipt{OfferToken: text, NodeId: "n1", PurchaseId: token.PurchaseID(claims().GetTokenId()), Serial: 1}
	short := claims()
	short.TokenId = short.GetTokenId()[:15]

	all := keys(node, other, centre)
	openToken := func(k *token.Keys, text string) error { _, err := k.OpenOfferToken(text); return err }
	openReceipt := func(k *token.Keys, text string) error { _, _, err := k.OpenReceipt(text); return err }
	if err := openReceipt(all, receiptOf(node, good)); err != nil {
		t.Fatalf("the genuine receipt: %v", err)
	}
	for _, c := range []struct {
		rule string
		err  error
		want error
	}{
		{"an empty text", openToken(all, ""), token.ErrMalformed},
		{"text that is not base64url", openToken(all, "!!"+text), token.ErrMalformed},
		{"a line break inside", openToken(all, text[:40]+"\n"+text[40:]), token.ErrMalformed},
		{"padding", openToken(all, text+"="), token.ErrMalformed},
		{"a key that nobody told", openToken(keys(other), text), token.ErrUnknownKey},
		{"a truncated text", openToken(all, text[:len(text)-8]), token.ErrForged},
		{"a receipt in place of an offer token", openToken(all, receiptOf(node, good)), token.ErrForged},
		{"an offer token in place of a receipt", openReceipt(all, text), token.ErrForged},
		{"an offer token with a short id", openToken(all, must[string](t)(node.OfferToken(short))), token.ErrMalformed},
		{"a receipt that names another node", openReceipt(all, receiptOf(other, good)), token.ErrForged},
		{"a receipt with another token's purchase id", openReceipt(all, receiptOf(node,
			&offerv1.Receipt{OfferToken: text, NodeId: "n1", PurchaseId: strings.Repeat("0", 32)})), token.ErrMalformed},
		{"a receipt whose token is forged", openReceipt(all, receiptOf(node,
			&offerv1.Receipt{OfferToken: flip(t, text, 100), NodeId: "n1", PurchaseId: good.GetPurchaseId()})), token.ErrForged},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", c.rule, c.err, c.want)
		}
	}
	if _, err := all.OpenOutcome(text); !errors.Is(err, token.ErrForged) {
		t.Errorf("a node's text as an outcome: got %v, want %v", err, token.ErrForged)
	}
}

func TestDecodeTrustedReadsWithoutKeys(t *testing.T) {
	node := signer(t, 1, nodeOwner, "n1")
	text := must[string](t)(node.OfferToken(claims()))
	got := &offerv1.OfferToken{}
	if err := token.DecodeTrusted(text, got); err != nil || !proto.Equal(got, claims()) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "!!", text[:40], text[:len(text)-1]} {
		if err := token.DecodeTrusted(bad, got); !errors.Is(err, token.ErrMalformed) {
			t.Errorf("%q: got %v, want %v", bad, err, token.ErrMalformed)
		}
	}
}

func TestNobodySignsWhatIsNotTheirs(t *testing.T) {
	if _, err := signer(t, 1, nodeOwner, "n1").Outcome(&offerv1.Outcome{}); err == nil {
		t.Error("a node signed an outcome")
	}
	if _, err := signer(t, 1, verifierOwner, "").Receipt(&offerv1.Receipt{}); err == nil {
		t.Error("the verifier signed a receipt")
	}
}

// Every single flipped bit is noticed: in the key id, the signature and the payload, of a text that was opened before, too.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	node := signer(t, 1, nodeOwner, "n1")
	k := keys(node)
	text := must[string](t)(k.Sign(node, claims()))
	for range 2 {
		must[*offerv1.OfferToken](t)(k.OpenOfferToken(text))
	}
	raw := must[[]byte](t)(base64.RawURLEncoding.DecodeString(text))
	for bit := range len(raw) * 8 {
		if _, err := k.OpenOfferToken(flip(t, text, bit)); err == nil {
			t.Fatalf("bit %d flipped and nobody noticed", bit)
		}
	}
}

// A signature that verified once opens nothing else: no other kind of text, and nothing for those who do not know the key.
func TestWhatIsRememberedIsTheWholeText(t *testing.T) {
	node, other := signer(t, 1, nodeOwner, "n1"), signer(t, 2, nodeOwner, "n2")
	k := keys(node)
	text := must[string](t)(k.Sign(node, claims()))
	must[*offerv1.OfferToken](t)(k.OpenOfferToken(text))
	if _, _, err := k.OpenReceipt(text); !errors.Is(err, token.ErrForged) {
		t.Errorf("a remembered token as a receipt: got %v, want %v", err, token.ErrForged)
	}
	strange := must[string](t)(k.Sign(other, claims()))
	if _, err := k.OpenOfferToken(strange); !errors.Is(err, token.ErrUnknownKey) {
		t.Errorf("signed with a key that is not in the set: got %v, want %v", err, token.ErrUnknownKey)
	}
}

func flip(t testing.TB, text string, bit int) string {
	raw := must[[]byte](t)(base64.RawURLEncoding.DecodeString(text))
	raw[bit/8] ^= 1 << (bit % 8)
	return base64.RawURLEncoding.EncodeToString(raw)
}

func TestKeysKeepTheFirstWordAndRefuseLiars(t *testing.T) {
	node := signer(t, 1, nodeOwner, "n1")
	k := keys(node)
	liar := proto.CloneOf(node.Public())
	liar.Owner = verifierOwner
	wrongID := proto.CloneOf(signer(t, 2, nodeOwner, "n2").Public())
	wrongID.KeyId = node.Public().GetKeyId()
	if fresh := k.Add(liar, wrongID, node.Public(), &offerv1.SigningKey{}); len(fresh) != 0 {
		t.Errorf("took %d keys, want none", len(fresh))
	}
	if k.Len() != 1 || k.All()[0].GetOwner() != nodeOwner {
		t.Errorf("got %v", k.All())
	}
}

func TestDerivedTokenIDsDifferByEveryPart(t *testing.T) {
	session, drop := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 16)
	base := token.DeriveTokenID(session, drop, "r1")
	if !bytes.Equal(base, token.DeriveTokenID(session, drop, "r1")) || len(base) != 16 {
		t.Fatal("the same intention gave two ids")
	}
	for _, other := range [][]byte{
		token.DeriveTokenID(drop, session, "r1"), token.DeriveTokenID(session, session, "r1"), token.DeriveTokenID(session, drop, "r2"),
	} {
		if bytes.Equal(base, other) {
			t.Error("two intentions share an id")
		}
	}
}

func FuzzOpen(f *testing.F) {
	node := signer(f, 1, nodeOwner, "n1")
	text := must[string](f)(node.OfferToken(claims()))
	f.Add(text)
	f.Add("")
	f.Add(must[string](f)(node.Receipt(&offerv1.Receipt{OfferToken: text, NodeId: "n1"})))
	k := keys(node)
	f.Fuzz(func(t *testing.T, in string) {
		if got, err := k.OpenOfferToken(in); err == nil && in != text {
			t.Fatalf("opened %q as %v", in, got)
		}
		_, _, _ = k.OpenReceipt(in)
		_, _ = k.OpenOutcome(in)
	})
}

func BenchmarkOfferToken(b *testing.B) {
	node := signer(b, 1, nodeOwner, "n1")
	k := keys(node)
	c := claims()
	text := must[string](b)(node.OfferToken(c))
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			must[string](b)(node.OfferToken(c))
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			must[*offerv1.OfferToken](b)(keys(node).OpenOfferToken(text))
		}
	})
	b.Run("open again", func(b *testing.B) {
		for b.Loop() {
			must[*offerv1.OfferToken](b)(k.OpenOfferToken(text))
		}
	})
}

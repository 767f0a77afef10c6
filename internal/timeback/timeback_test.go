package timeback_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
)

var (
	drop = bytes.Repeat([]byte{7}, 16)
	open = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

func signer(t testing.TB, fill byte, owner offerv1.KeyOwner) *token.Signer {
	t.Helper()
	s, err := token.NewSigner(bytes.Repeat([]byte{fill}, 32), owner, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// window is open for so long, as planned, and so much longer.
func window(planned, extra time.Duration) timeback.Window {
	return timeback.Window{Open: open, Planned: open.Add(planned), Close: open.Add(planned + extra)}
}

func sign(t testing.TB, s *token.Signer, w timeback.Window) string {
	t.Helper()
	text, err := timeback.Sign(s, drop, w)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOnlyFulfillmentsWordWithinTheCapCounts(t *testing.T) {
	own, other := signer(t, 1, offerv1.KeyOwner_KEY_OWNER_FULFILLMENT), signer(t, 2, offerv1.KeyOwner_KEY_OWNER_FULFILLMENT)
	keys := &token.Keys{}
	keys.Add(own.Public())
	good := sign(t, own, window(time.Minute, 15*time.Second))
	if w, err := timeback.Open(keys, drop, good); err != nil || w != window(time.Minute, 15*time.Second) || w.Extra() != 15*time.Second {
		t.Fatalf("the genuine word: %+v, %v", w, err)
	}
	forged := []byte(good)
	forged[len(forged)-3] ^= 1
	for rule, c := range map[string]struct {
		text string
		drop []byte
		want error
	}{
		"a key that nobody knows":           {sign(t, other, window(time.Minute, time.Second)), drop, token.ErrUnknownKey},
		"a changed text":                    {string(forged), drop, token.ErrForged},
		"another drop":                      {good, bytes.Repeat([]byte{8}, 16), token.ErrForged},
		"more than a quarter of the window": {sign(t, own, window(time.Minute, 15*time.Second+time.Microsecond)), drop, token.ErrMalformed},
		"more than 30 s of a long one":      {sign(t, own, window(time.Hour, 31*time.Second)), drop, token.ErrMalformed},
		"nothing":                           {sign(t, own, window(time.Minute, 0)), drop, token.ErrMalformed},
		"less than nothing":                 {sign(t, own, window(time.Minute, -time.Second)), drop, token.ErrMalformed},
		"no text":                           {"", drop, token.ErrMalformed},
	} {
		if _, err := timeback.Open(keys, c.drop, c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", rule, err, c.want)
		}
	}
	if _, err := signer(t, 3, offerv1.KeyOwner_KEY_OWNER_NODE).TimeBack(&offerv1.SignedTimeBack{}); err == nil {
		t.Error("a node gave time back")
	}
}

func TestAnOfferInExtraTimeIsHeldToIt(t *testing.T) {
	own := signer(t, 1, offerv1.KeyOwner_KEY_OWNER_FULFILLMENT)
	keys := &token.Keys{}
	keys.Add(own.Public())
	w := window(time.Minute, 10*time.Second)
	text := sign(t, own, w)
	offer := func(at time.Time, text string) *offerv1.OfferToken {
		return &offerv1.OfferToken{DropId: drop, IssueTimeUs: at.UnixMicro(), TimeBack: text}
	}
	for rule, c := range map[string]struct {
		offer *offerv1.OfferToken
		want  error
	}{
		"in extra time it carries the word for it": {offer(w.Planned, text), nil},
		"until the last instant":                   {offer(w.Close.Add(-time.Microsecond), text), nil},
		"the later close is one":                   {offer(w.Close, text), token.ErrMalformed},
		"what is no word of fulfillment is none":   {offer(w.Planned, "AAAA"), token.ErrMalformed},
	} {
		if _, err := timeback.Check(keys, c.offer); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", rule, err, c.want)
		}
	}
}

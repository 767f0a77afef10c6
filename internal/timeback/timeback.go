// Package timeback is fulfillment's signed word that a drop closes later than planned, because answers to its viewers were
// late.
//
//	fulfillment ── Sign ──> text, in the catalogue ──> node: Open, then it serves the later close
//	                                                     └── in every offer made after the planned close ──> verifier: Check
//
// Invariant: whoever opens a text holds it to the same cap, dropclock.MostBack, whoever signed it: a fulfillment that goes
// wrong, or that is made to, cannot keep a drop open.
//
// How much is given back is fulfillment's decision (fulfillment/catalog), how much was lost the routers' (router/slo).
package timeback

import (
	"bytes"
	"fmt"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/token"
)

// Window is when a drop opens, was planned to close, and closes. Exact to the microsecond.
type Window struct {
	Open, Planned, Close time.Time
}

// Extra is how much was given back.
func (w Window) Extra() time.Duration { return w.Close.Sub(w.Planned) }

// Sign makes the text for a drop, of 16 bytes.
func Sign(s *token.Signer, drop []byte, w Window) (string, error) {
	return s.TimeBack(&offerv1.SignedTimeBack{
		DropId: drop, OpenTimeUs: w.Open.UnixMicro(), PlannedCloseTimeUs: w.Planned.UnixMicro(), CloseTimeUs: w.Close.UnixMicro(),
	})
}

// Open verifies a text: the signature is fulfillment's, it is about this drop, and gives back more than nothing and no
// more than the cap. Errors: package token's.
func Open(keys *token.Keys, drop []byte, text string) (Window, error) {
	m, err := keys.OpenTimeBack(text)
	if err != nil {
		return Window{}, fmt.Errorf("opening time back: %w", err)
	}
	w := Window{
		Open: time.UnixMicro(m.GetOpenTimeUs()).UTC(), Planned: time.UnixMicro(m.GetPlannedCloseTimeUs()).UTC(),
		Close: time.UnixMicro(m.GetCloseTimeUs()).UTC(),
	}
	most := dropclock.MostBack(w.Planned.Sub(w.Open))
	switch {
	case !bytes.Equal(m.GetDropId(), drop):
		return Window{}, fmt.Errorf("%w: time back of another drop", token.ErrForged)
	case w.Extra() <= 0 || w.Extra() > most:
		return Window{}, fmt.Errorf("%w: %v given back, where it is %v at most", token.ErrMalformed, w.Extra(), most)
	}
	return w, nil
}

// Check verifies the proof of an offer that was made in time given back. Errors: package token's.
func Check(keys *token.Keys, offer *offerv1.OfferToken) (Window, error) {
	w, err := Open(keys, offer.GetDropId(), offer.GetTimeBack())
	if err != nil {
		return Window{}, err
	}
	if issued := time.UnixMicro(offer.GetIssueTimeUs()); !issued.Before(w.Close) {
		return Window{}, fmt.Errorf("%w: an offer made at %v, of a drop that closed at %v", token.ErrMalformed, issued.UTC(), w.Close)
	}
	return w, nil
}

package verifier

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"

	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/store"
)

// instrumentKey is made of the verifier's seed, which never leaves its store: who has a copy of the provider's names, but
// not the seed, finds none of them here.
func instrumentKey(seed []byte) []byte {
	mac := hmac.New(sha256.New, seed)
	mac.Write([]byte("instrument-key/v1\x00"))
	return mac.Sum(nil)
}

// instrument is what the store knows of what pays: enough to count within one drop, and other bytes in the next, so that
// nobody can be followed from drop to drop.
func (s *Service) instrument(dropID store.ID, name string) store.ID {
	mac := hmac.New(sha256.New, s.instruments)
	mac.Write(dropID[:])
	mac.Write([]byte(name))
	return store.ID(mac.Sum(nil))
}

// instrumentOver decides, before money is taken, whether the instrument that would pay has paid its share of the drop:
// docs/settlement.md 3.6. The decision stands, whoever asks again and however often.
func (s *Service) instrumentOver(ctx context.Context, p *store.Purchase, in payment.Intent) (over bool, err error) {
	terms, err := s.dropTerms(ctx, p.DropID)
	if err != nil || terms.PerInstrument == 0 || in.Instrument == "" {
		return false, err
	}
	err = s.store.WriteShared(ctx, func(tx *store.Tx) (err error) {
		over, err = tx.CountInstrument(ctx, p, s.instrument(p.DropID, in.Instrument), terms.PerInstrument)
		return err
	})
	return over, err
}

// wasOver tells whether it was decided that what pays the purchase has paid its share.
func (s *Service) wasOver(ctx context.Context, p *store.Purchase) (bool, error) {
	terms, err := s.dropTerms(ctx, p.DropID)
	if err != nil || terms.PerInstrument == 0 {
		return false, err
	}
	return s.store.Read().InstrumentOver(ctx, p.TokenID)
}

// instrumentPaid counts money that was taken without our word: by the provider alone, or before the store was restored.
func (s *Service) instrumentPaid(ctx context.Context, p *store.Purchase, in payment.Intent) error {
	terms, err := s.dropTerms(ctx, p.DropID)
	if err != nil || terms.PerInstrument == 0 || in.Instrument == "" {
		return err
	}
	return s.store.WriteShared(ctx, func(tx *store.Tx) error {
		return tx.InstrumentPaid(ctx, p, s.instrument(p.DropID, in.Instrument))
	})
}

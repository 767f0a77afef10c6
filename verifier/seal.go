package verifier

import (
	"context"
	"errors"
	"fmt"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/store"
)

// errSealTooEarly: a seal that names an entry which is not here.
var errSealTooEarly = errors.New("verifier: the journal is sealed after an entry that has not come")

// seal takes a journal's end in: docs/settlement.md 2.7. It counts only when every entry before it is here, because a
// lease that is closed by its word is not waited for.
func (s *Service) seal(ctx context.Context, journal store.Journal, seal *verifierv1.Seal) (*verifierv1.Acknowledgement, error) {
	err := s.store.Write(ctx, func(tx *store.Tx) error {
		have, err := tx.Acknowledged(ctx, journal)
		if err != nil {
			return err
		}
		if have < seal.GetLastEntrySequence() {
			return errSealTooEarly
		}
		return tx.Seal(ctx, journal, seal.GetSequence(), seal.GetEpoch())
	})
	if err != nil {
		return nil, fmt.Errorf("taking a seal in: %w", err)
	}
	s.deps.Log.Info("a journal is sealed and read to its end", "node_id", journal.NodeID.UUID(), "epoch", seal.GetEpoch())
	return &verifierv1.Acknowledgement{Sequence: seal.GetSequence()}, nil
}

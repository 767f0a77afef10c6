package verifier

import (
	"context"
	"fmt"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/store"
)

// minKeyRefresh keeps texts under invented keys from turning into calls to fulfillment, one each.
const minKeyRefresh = time.Second

// loadKeys reads all public keys, and makes the verifier's own at the first start.
func (s *Service) loadKeys(ctx context.Context) error {
	fresh, err := token.NewSeed(s.random)
	if err != nil {
		return err
	}
	var seed []byte
	if err := s.store.Write(ctx, func(tx *store.Tx) (err error) {
		seed, err = tx.Seed(ctx, fresh)
		return err
	}); err != nil {
		return fmt.Errorf("reading the signing key: %w", err)
	}
	if s.signer, err = token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_VERIFIER, "", ""); err != nil {
		return err
	}
	s.instruments = instrumentKey(seed)
	s.keys.Add(s.signer.Public())
	keys, err := s.store.Read().Keys(ctx)
	if err != nil {
		return err
	}
	s.keys.Add(keys...)
	return nil
}

// runKeys fetches new nodes' keys now and then until ctx ends.
func (s *Service) runKeys(ctx context.Context) {
	for ctx.Err() == nil {
		pause := s.cfg.KeyPoll
		if err := s.refreshKeys(ctx); err != nil && ctx.Err() == nil {
			s.deps.Log.Warn("fetching keys failed", "error", err)
			pause = s.cfg.MaxBackoff
		}
		sleep(ctx, s.jitter(pause), nil)
	}
}

// keyRefresh is one question for keys, shared by all who ask at the same time.
type keyRefresh struct {
	done chan struct{}
	err  error // set before done is closed
}

// refreshKeys asks fulfillment for the keys of all nodes, at most once per minKeyRefresh: who comes too early waits,
// and who comes meanwhile shares the answer.
func (s *Service) refreshKeys(ctx context.Context) error {
	s.refreshMu.Lock()
	r, last := s.refresh, s.refreshed
	leads := r == nil
	if leads {
		r = &keyRefresh{done: make(chan struct{})}
		s.refresh = r
	}
	s.refreshMu.Unlock()
	if !leads {
		select {
		case <-r.done:
			return r.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !last.IsZero() {
		sleep(ctx, minKeyRefresh-time.Since(last), nil)
	}
	r.err = s.fetchKeys(ctx)
	s.refreshMu.Lock()
	s.refresh, s.refreshed = nil, time.Now()
	s.refreshMu.Unlock()
	close(r.done)
	return r.err
}

// fetchKeys lists all nodes' keys and fulfillment's, and stores new ones before it trusts them, so that whatever was verified once can be
// verified for ever.
func (s *Service) fetchKeys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	known := map[string]bool{}
	for _, k := range s.keys.All() {
		known[string(k.GetKeyId())] = true
	}
	var fresh []*offerv1.SigningKey
	for request := (&fulfillmentv1.ListNodeKeysRequest{}); ; {
		page, err := s.deps.Stock.ListNodeKeys(ctx, request)
		if err != nil {
			return fmt.Errorf("listing the nodes' keys: %w", err)
		}
		for _, k := range page.GetKeys() {
			if k.GetOwner() != offerv1.KeyOwner_KEY_OWNER_VERIFIER && !known[string(k.GetKeyId())] {
				fresh = append(fresh, k)
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := s.store.Write(ctx, func(tx *store.Tx) error { return tx.AddKeys(ctx, fresh...) }); err != nil {
		return err
	}
	s.keys.Add(fresh...)
	s.hub.committed(store.Changes{Keys: true}) // again: those woken by the commit may have looked too early
	return nil
}

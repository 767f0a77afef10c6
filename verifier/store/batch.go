package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// batcher lets small changes that come at the same time share a commit: a commit waits for the disk, and most of the
// cost of a payment's two short changes is that wait.
type batcher struct {
	leading chan struct{} // holds one token: its sender leads

	mu      sync.Mutex // guards waiting
	waiting []*change
}

type change struct {
	fn   func(*Tx) error
	tx   *Tx
	err  error
	done chan struct{} // closed when err is final
}

// WriteShared is Write for small changes: those that wait while another transaction runs become one transaction, each
// under its own savepoint, so that one that fails takes no other with it. It outlives its context, which may be another
// caller's.
func (s *Store) WriteShared(ctx context.Context, fn func(*Tx) error) error {
	c := &change{fn: fn, done: make(chan struct{})}
	s.batch.mu.Lock()
	s.batch.waiting = append(s.batch.waiting, c)
	s.batch.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case s.batch.leading <- struct{}{}:
	}
	s.batch.mu.Lock()
	all := s.batch.waiting
	s.batch.waiting = nil
	s.batch.mu.Unlock()
	if len(all) > 0 { // the last leader may have taken this one too
		s.lead(context.WithoutCancel(ctx), all)
	}
	<-s.batch.leading
	<-c.done
	return c.err
}

// lead runs changes in one transaction and tells each what became of it.
func (s *Store) lead(ctx context.Context, all []*change) {
	err := s.Write(ctx, func(tx *Tx) error {
		for _, c := range all {
			if err := c.run(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range all {
		if c.err == nil {
			c.err = err
		}
		close(c.done)
	}
}

// run is one change under its savepoint. The error is one that spoils the whole transaction.
func (c *change) run(ctx context.Context, tx *Tx) error {
	c.tx = &Tx{Queries: tx.Queries, tx: tx.tx, skip: tx.skip}
	if _, err := tx.tx.ExecContext(ctx, `SAVEPOINT change`); err != nil {
		return fmt.Errorf("setting a savepoint: %w", err)
	}
	if c.err = c.fn(c.tx); c.err != nil {
		if _, err := tx.tx.ExecContext(ctx, `ROLLBACK TO SAVEPOINT change`); err != nil {
			return errors.Join(c.err, fmt.Errorf("rolling back to a savepoint: %w", err))
		}
	} else {
		tx.events = append(tx.events, c.tx.events...)
		tx.changes.Purchases = append(tx.changes.Purchases, c.tx.changes.Purchases...)
		tx.changes.Keys = tx.changes.Keys || c.tx.changes.Keys
		tx.changes.Webhooks = tx.changes.Webhooks || c.tx.changes.Webhooks
		for _, kind := range c.tx.changes.Jobs {
			tx.added(kind)
		}
	}
	if _, err := tx.tx.ExecContext(ctx, `RELEASE SAVEPOINT change`); err != nil {
		return fmt.Errorf("releasing a savepoint: %w", err)
	}
	return nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// queue lets small changes that come at the same time share a commit: a commit waits for the disk, and most of the cost of
// a payment's two short changes is that wait.
type queue[T any] struct {
	leading chan struct{} // holds one token: its sender leads

	mu      sync.Mutex // guards waiting
	waiting []*waiter[T]
}

type waiter[T any] struct {
	item T
	err  error
	done chan struct{} // closed when err is final
}

func newQueue[T any]() queue[T] { return queue[T]{leading: make(chan struct{}, 1)} }

// do hands an item to lead, together with those that came while another lead was running, and returns the item's error,
// which lead has set. lead outlives the item's context, which may be another caller's.
func (q *queue[T]) do(ctx context.Context, item T, lead func(context.Context, []*waiter[T])) error {
	w := &waiter[T]{item: item, done: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case q.leading <- struct{}{}:
	}
	q.mu.Lock()
	all := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	if len(all) > 0 { // the last leader may have taken this one too
		lead(context.WithoutCancel(ctx), all)
		for _, w := range all {
			close(w.done)
		}
	}
	<-q.leading
	<-w.done
	return w.err
}

// WriteShared is Write for small changes: those that wait while another transaction runs become one transaction, each
// under its own savepoint, so that one that fails takes no other with it. It outlives its context, which may be another
// caller's.
func (s *Store) WriteShared(ctx context.Context, fn func(*Tx) error) error {
	return s.writes.do(ctx, fn, s.leadWrites)
}

// leadWrites runs changes in one transaction and tells each what became of it.
func (s *Store) leadWrites(ctx context.Context, all []*waiter[func(*Tx) error]) {
	if len(all) == 1 { // what fails takes nobody with it
		all[0].err = s.Write(ctx, all[0].item)
		return
	}
	err := s.Write(ctx, func(tx *Tx) error {
		for _, w := range all {
			if err := tx.nested(ctx, w); err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range all {
		if w.err == nil {
			w.err = err
		}
	}
}

// nested is one change under its savepoint. The error is one that spoils the whole transaction.
func (tx *Tx) nested(ctx context.Context, w *waiter[func(*Tx) error]) error {
	inner := newTx(tx.tx, tx.lock, tx.skip)
	if _, err := tx.exec(ctx, "setting a savepoint", `SAVEPOINT change`); err != nil {
		return err
	}
	if w.err = inner.do(ctx, w.item); w.err != nil {
		if _, err := tx.exec(ctx, "rolling back to a savepoint", `ROLLBACK TO SAVEPOINT change`); err != nil {
			return errors.Join(w.err, err)
		}
	} else {
		tx.events = append(tx.events, inner.events...)
		tx.changes.Purchases = append(tx.changes.Purchases, inner.changes.Purchases...)
		tx.changes.Keys = tx.changes.Keys || inner.changes.Keys
		tx.changes.Webhooks = tx.changes.Webhooks || inner.changes.Webhooks
		for _, kind := range inner.changes.Jobs {
			tx.added(kind)
		}
	}
	_, err := tx.exec(ctx, "releasing a savepoint", `RELEASE SAVEPOINT change`)
	return err
}

// purchaseChange is a change of one purchase, read and held in the same transaction.
type purchaseChange struct {
	tokenID ID
	fn      func(*Tx, *Purchase) error
}

// Change is Write for a change of one purchase that many make at the same time: those that wait while another one runs
// have their purchases read, and written, together. Where one fails, each has a transaction of its own. fn leaves in the
// purchase what it stored. It outlives its context, which may be another caller's. ErrNotFound.
func (s *Store) Change(ctx context.Context, tokenID ID, fn func(*Tx, *Purchase) error) error {
	return s.purchases.do(ctx, purchaseChange{tokenID, fn}, s.leadChanges)
}

func (s *Store) leadChanges(ctx context.Context, all []*waiter[purchaseChange]) {
	err := s.changeAll(ctx, all)
	for i, w := range all {
		if w.err = err; err != nil && len(all) > 1 {
			w.err = s.changeAll(ctx, all[i:i+1])
		}
	}
}

func (s *Store) changeAll(ctx context.Context, all []*waiter[purchaseChange]) error {
	return s.Write(ctx, func(tx *Tx) error {
		tokenIDs := make([]ID, len(all))
		for i, w := range all {
			tokenIDs[i] = w.item.tokenID
		}
		found, err := tx.Purchases(ctx, tokenIDs)
		if err != nil {
			return err
		}
		for _, w := range all {
			p, ok := found[w.item.tokenID]
			if !ok {
				return fmt.Errorf("changing a purchase: %w", ErrNotFound)
			}
			if err := w.item.fn(tx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

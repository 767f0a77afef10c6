package verifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// runEach drives jobs that call the provider, each in its own goroutine and at most PaymentParallelism at a time, until
// ctx ends and all of them did. Jobs are claimed that many at a time, since a claim is a commit; they wait here for
// their turn.
func (s *Service) runEach(ctx context.Context, kind store.Kind, work func(context.Context, store.Job) (later int64, err error)) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, s.cfg.PaymentParallelism)
	for failures := 0; ctx.Err() == nil; {
		jobs, next, err := s.claim(ctx, kind, s.cfg.PaymentParallelism)
		switch {
		case err != nil && ctx.Err() == nil:
			s.deps.Log.Error("claiming jobs failed", "kind", string(kind), "error", err)
			failures++
			sleep(ctx, s.backoff(failures-1), nil)
		case len(jobs) == 0:
			failures = 0
			sleep(ctx, next, s.hub.jobs[kind])
		}
		for _, j := range jobs {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return // due again at the next start
			}
			running.Go(func() {
				defer func() { <-slots }()
				s.runOne(ctx, j, work)
			})
		}
	}
}

// worryAfter is which failure of one job is worth a warning: providers answer late or not at all now and then, and what the
// second try mends needs nobody.
const worryAfter = 3

// runOne drives one job as far as it goes now, and puts it off where it must go on later.
func (s *Service) runOne(ctx context.Context, j store.Job, work func(context.Context, store.Job) (later int64, err error)) {
	within, end := s.jobSpans(ctx, j.Kind, []store.Job{j})
	later, err := work(within, j)
	end(err)
	s.metrics.countJobs(j.Kind, 1, err)
	if err != nil {
		if ctx.Err() != nil {
			return // due again at the next start
		}
		later = s.after(s.backoff(j.Attempts - 1))
		level := slog.LevelInfo
		if j.Attempts >= worryAfter {
			level = slog.LevelWarn
		}
		s.deps.Log.Log(ctx, level, "a job failed", "kind", string(j.Kind), "attempts", j.Attempts, "error", err)
	}
	if later == 0 {
		return // finished in its last transaction
	}
	s.giveBack(ctx, []store.Job{j}, func(store.Job) int64 { return later })
}

// pay moves one purchase's payment attempt along until it is over or has to wait; it answers when to go on, 0 for never.
//
// Every step acts on the one intent of the attempt, and what comes next is decided from the intent as it was last read.
// After an unknown outcome the job ends with an error: its next run begins by reading the intent.
func (s *Service) pay(ctx context.Context, j store.Job) (later int64, err error) {
	p, err := s.store.Read().Purchase(ctx, j.TokenID)
	if err != nil {
		return 0, err
	}
	if !p.State.AwaitsMoney() {
		return 0, s.store.WriteShared(ctx, func(tx *store.Tx) error { return tx.Finish(ctx, j) })
	}
	if p.MinorUnits == 0 { // providers refuse to take nothing, and a voucher would be spent for it
		return 0, s.paid(ctx, &j, &p, payment.Intent{}, saga.MoneyTaken)
	}
	if p.PresentedVoucher != (store.ID{}) && !p.VoucherHeld {
		over, err := s.holdVoucher(ctx, j, &p)
		if over || err != nil {
			return 0, err
		}
	}
	in, err := s.intent(ctx, &p)
	if err != nil {
		return 0, err
	}
	window := time.UnixMicro(p.AcceptTime).Add(s.cfg.ActionWindow)
	var attempt saga.Attempt
	if attempt.InstrumentOver, err = s.wasOver(ctx, &p); err != nil {
		return 0, err
	}
	counted := false
	for {
		attempt.WindowOver = !s.deps.Now().Before(window)
		move, event := saga.NextMove(in, attempt)
		switch move {
		case saga.Confirm:
			in, err = provider(ctx, s, "confirm", func(ctx context.Context) (payment.Intent, error) { return s.deps.Payment.Confirm(ctx, in.ID) })
		case saga.Capture:
			if !counted {
				if attempt.InstrumentOver, err = s.instrumentOver(ctx, &p, in); err != nil {
					return 0, err
				}
				counted = true
				continue
			}
			in, err = provider(ctx, s, "capture", func(ctx context.Context) (payment.Intent, error) { return s.deps.Payment.Capture(ctx, in.ID) })
		case saga.Cancel:
			if mutant.On(mutant.DeclineNotCancelled) {
				in.State = payment.Cancelled
				continue
			}
			in, err = provider(ctx, s, "cancel", func(ctx context.Context) (payment.Intent, error) { return s.deps.Payment.Cancel(ctx, in.ID) })
			if err == nil { // not the answer counts but what is read
				in, err = s.readIntent(ctx, in.ID)
			}
		case saga.Wait:
			if p.State != saga.ActionRequired {
				if err := s.paid(ctx, nil, &p, in, event); err != nil {
					return 0, err
				}
			}
			return min(s.after(s.cfg.ActionPoll), window.UnixMicro()), nil
		case saga.Done:
			if event == saga.MoneyTaken && !counted {
				if err := s.instrumentPaid(ctx, &p, in); err != nil {
					return 0, err
				}
			}
			return 0, s.paid(ctx, &j, &p, in, event)
		default:
			return 0, fmt.Errorf("an intent in state %v", in.State)
		}
		if err != nil {
			return 0, err
		}
	}
}

// paid applies a payment event, and finishes the job where the attempt is over. An attempt that is not the purchase's
// current one any more changes nothing.
func (s *Service) paid(ctx context.Context, over *store.Job, seen *store.Purchase, in payment.Intent, event saga.Event) error {
	ctx, span := telemetry.Start(ctx, "ledger.commit")
	defer span.End()
	return s.store.Change(ctx, seen.TokenID, func(tx *store.Tx, p *store.Purchase) error {
		if p.Attempt != seen.Attempt || !p.State.AwaitsMoney() {
			return nil
		}
		if over != nil {
			if err := tx.Finish(ctx, *over); err != nil { // first: the next attempt adds the same job again
				return err
			}
		}
		p.Fee = in.Fee
		if err := s.apply(ctx, tx, p, event); err != nil && !errors.Is(err, saga.ErrIllegal) {
			return err
		}
		return nil
	})
}

// intent finds the current attempt's intent, or makes it. The key is the purchase and the attempt, the same however
// often this runs, and the id is stored by compare-and-set before anything is done with it: an intent that nobody
// remembers is never confirmed. The key has the purchase id for K: the provider need not know K, and one follows from
// the other.
func (s *Service) intent(ctx context.Context, p *store.Purchase) (payment.Intent, error) {
	fresh := mutant.On(mutant.FreshProviderKey) && p.State == saga.UnitSettled
	if p.IntentID != "" && !fresh {
		return s.readIntent(ctx, p.IntentID)
	}
	in, found, err := s.madeBefore(ctx, p)
	if err != nil {
		return in, err
	}
	if found {
		return in, s.keepIntent(ctx, p, in.ID)
	}
	key := p.PurchaseID.Hex() + "/" + strconv.Itoa(p.Attempt)
	if fresh {
		key += s.deps.Now().String()
	}
	in, err = freshKeys(key, func(key string) (payment.Intent, error) {
		return provider(ctx, s, "create", func(ctx context.Context) (payment.Intent, error) {
			return s.deps.Payment.CreateIntent(ctx, key, payment.Request{
				PurchaseID: p.PurchaseID.Hex(), CurrencyCode: p.CurrencyCode, MinorUnits: p.Charged, Reference: p.PaymentReference,
			})
		})
	})
	if err != nil {
		return in, err
	}
	return in, s.keepIntent(ctx, p, in.ID)
}

// keepIntent stores the intent of an attempt, unless the attempt is over or has another one.
func (s *Service) keepIntent(ctx context.Context, seen *store.Purchase, id string) error {
	return s.store.Change(ctx, seen.TokenID, func(tx *store.Tx, p *store.Purchase) error { return tx.SetIntent(ctx, p, seen.Attempt, id) })
}

// maxKeys bounds the fresh keys of one run of a job.
const maxKeys = 5

// freshKeys calls with a key, and with the next one where an old error comes back under it. A call whose error is kept is
// over and had no effect, so another key cannot double it; the keys are the same for every run, so a restart asks again
// under keys that it used.
func freshKeys[T any](key string, call func(key string) (T, error)) (T, error) {
	answer, err := call(key)
	for n := 2; n <= maxKeys && errors.Is(err, payment.ErrReplayed); n++ {
		answer, err = call(key + "/" + strconv.Itoa(n))
	}
	return answer, err
}

func (s *Service) readIntent(ctx context.Context, id string) (payment.Intent, error) {
	return provider(ctx, s, "get", func(ctx context.Context) (payment.Intent, error) { return s.deps.Payment.GetIntent(ctx, id) })
}

// provider makes one call, in bounded time and counted.
func provider[T any](ctx context.Context, s *Service, name string, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	ctx, span := telemetry.Start(ctx, "payment."+name)
	defer span.End()
	in, err := call(ctx)
	result := "ok"
	switch {
	case errors.Is(err, payment.ErrUnknownOutcome):
		result = "unknown"
	case err != nil:
		result = "failed"
	}
	if err != nil {
		span.Fail(result)
	}
	s.metrics.payments.WithLabelValues(name, result).Inc()
	return in, err
}

// completeAction lets the test provider's customer answer, and hurries the payment that waits for it.
func (s *Service) completeAction(ctx context.Context, customer payment.TestCustomer, intentID string, decline bool) error {
	text, err := customer.CompleteAction(ctx, intentID, decline)
	if err != nil {
		return fmt.Errorf("completing an action: %w", err)
	}
	purchaseID, err := store.ParseHex(text)
	if err != nil {
		return fmt.Errorf("completing an action: %w", err)
	}
	p, err := s.store.Read().PurchaseByPublicID(ctx, purchaseID)
	if err != nil {
		return err
	}
	return s.store.WriteShared(ctx, func(tx *store.Tx) error {
		return tx.Hurry(ctx, store.PayJob, p.TokenID, s.deps.Now().UnixMicro())
	})
}

package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/rimlight/rimlight/internal/webhook"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

const (
	// webhookLease is how long a claim of a webhook's lane lasts without renewal: several attempts. When a process dies,
	// another goes on after at most this.
	webhookLease = 30 * time.Second
	// webhookPause is the shortest time between two looks for what to tell, since every commit wakes the lanes.
	webhookPause = 200 * time.Millisecond
	// webhookMinBackoff is the pause after the first failure.
	webhookMinBackoff = time.Second
)

// runWebhooks tells events to webhooks. Each is a lane of its own: a goroutine, a durable cursor and a lease in the store,
// so that one that hangs or fails holds nobody else up, and of several replicas one tells it.
//
//	due: active, events after its cursor, nobody's lease, not waiting
//	 '-> claim -> events in order, one POST at a time -+-> told up to the head: cursor stored, lease given back
//	                                                    '-> failed: cursor, backoff and since when stored, lease given back
//
// The cursor is stored at least every eventBatch events, so a crash repeats at most as many and skips none. A process that
// was stopped for longer than its lease may tell one event late; its cursor is refused then.
func (s *Service) runWebhooks(ctx context.Context) {
	transport := s.deps.WebhookTransport
	if transport == nil {
		own := webhook.NewTransport()
		defer own.CloseIdleConnections()
		transport = own
	}
	var lanes sync.WaitGroup
	defer lanes.Wait()
	wake, stop := s.hub.watchAll()
	defer stop()
	for ctx.Err() == nil {
		claimed, behind, err := s.claimWebhooks(ctx)
		if err != nil && ctx.Err() == nil {
			s.deps.Log.Error("looking for webhooks to tell failed", "error", err)
		}
		for _, w := range claimed {
			lanes.Go(func() { s.tellWebhook(ctx, transport, &w) })
		}
		sleep(ctx, webhookPause, nil)
		pause := s.lookAgain
		if behind || err != nil { // nobody says when a lease or a backoff ends
			pause = s.cfg.Poll
		}
		sleep(ctx, pause, wake)
	}
}

// claimWebhooks takes those that are due, and tells whether any has something to tell.
func (s *Service) claimWebhooks(ctx context.Context) (claimed []store.Webhook, behind bool, err error) {
	all, err := s.store.Read().BehindWebhooks(ctx)
	if err != nil {
		return nil, false, err
	}
	now := s.deps.Now()
	for _, b := range all {
		if max(b.LeaseUntil, b.RetryAt) > now.UnixMicro() {
			continue
		}
		var w store.Webhook
		err := s.store.Write(ctx, func(tx *store.Tx) (err error) {
			w, err = tx.ClaimWebhook(ctx, b.WebhookID, now.UnixMicro(), now.Add(webhookLease).UnixMicro())
			return err
		})
		if errors.Is(err, store.ErrNoWebhook) { // another replica was faster
			continue
		}
		if err != nil {
			return claimed, true, err
		}
		claimed = append(claimed, w)
	}
	return claimed, len(all) > 0, nil
}

// tellWebhook tells a claimed webhook what it has not heard, until it has heard all, its endpoint fails, or the lease is
// another's.
func (s *Service) tellWebhook(ctx context.Context, transport http.RoundTripper, w *store.Webhook) {
	lane := webhookLane{s: s, w: w, transport: transport, cursor: w.Cursor}
	failure, err := lane.run(ctx)
	// What was told is stored even when the process stops: the endpoint need not hear it again.
	storeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CallTimeout)
	defer cancel()
	switch {
	case err != nil:
	case failure == nil || ctx.Err() != nil:
		err = lane.told(storeCtx, 0)
	default:
		err = lane.failed(storeCtx, failure)
	}
	if err != nil && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil { // a conflict: restarted, rotated or removed
		s.deps.Log.Error("telling a webhook failed", "webhook_id", w.WebhookID.UUID(), "error", err)
	}
}

// webhookLane is one claim of a webhook.
type webhookLane struct {
	s         *Service
	w         *store.Webhook
	transport http.RoundTripper
	cursor    int64 // everything up to here was told
	success   bool  // the endpoint took something
}

// run tells until nothing is left; failure is the endpoint's, err the store's.
func (l *webhookLane) run(ctx context.Context) (failure, err error) {
	for {
		head, err := l.s.store.Read().EventHead(ctx)
		if err != nil || l.cursor >= head {
			return nil, err
		}
		events, err := l.s.store.Read().Events(ctx, l.cursor, head, eventBatch)
		if err != nil || len(events) == 0 { // no gaps: only a cursor of another store finds nothing
			return nil, err
		}
		for i := range events {
			if failure, err := l.tell(ctx, &events[i]); failure != nil || err != nil {
				return failure, err
			}
			l.cursor = events[i].Cursor
		}
		if err := l.told(ctx, l.s.deps.Now().Add(webhookLease).UnixMicro()); err != nil {
			return nil, err
		}
	}
}

// tell posts one event if the webhook hears of its state, well within the lease.
func (l *webhookLane) tell(ctx context.Context, e *store.Event) (failure, err error) {
	if l.w.States&(1<<e.State) == 0 {
		return nil, nil
	}
	now := l.s.deps.Now()
	if l.w.LeaseUntil-now.UnixMicro() < 2*webhook.Timeout.Microseconds() {
		if err := l.told(ctx, now.Add(webhookLease).UnixMicro()); err != nil {
			return nil, err
		}
	}
	body, err := eventBody(e)
	if err != nil {
		return nil, err
	}
	secrets := []webhook.Secret{l.w.Secret}
	if now.UnixMicro() < l.w.OldUntil {
		secrets = append(secrets, l.w.OldSecret)
	}
	failure = webhook.Post(ctx, l.transport, l.w.URL, webhook.Event{ID: "evt_" + strconv.FormatInt(e.Cursor, 10), Body: body}, now, secrets...)
	l.success = l.success || failure == nil
	if failure == nil {
		l.s.metrics.webhooks.WithLabelValues("delivered").Inc()
	}
	return failure, nil
}

// told stores the cursor and holds the lease until a time, 0 gives it back.
func (l *webhookLane) told(ctx context.Context, until int64) error {
	err := l.s.store.WriteShared(ctx, func(tx *store.Tx) error { return tx.WebhookTold(ctx, l.w, l.cursor, until, l.success) })
	if err != nil {
		return err
	}
	if l.w.LeaseUntil = until; l.success {
		l.w.Attempts, l.w.FailingSince = 0, 0
	}
	return nil
}

// failed stores a failure: when to try again, or that nothing is tried any more.
func (l *webhookLane) failed(ctx context.Context, failure error) error {
	now, w := l.s.deps.Now(), *l.w
	if l.success {
		w.Attempts, w.FailingSince = 0, 0
	}
	pause := l.s.cfg.WebhookMaxBackoff
	if w.Attempts < 30 { // beyond, the shift would overflow
		pause = min(pause, webhookMinBackoff<<w.Attempts)
	}
	if w.Attempts++; w.FailingSince == 0 {
		w.FailingSince = now.UnixMicro()
	}
	w.RetryAt, w.Problem = now.Add(pause/2+l.s.rand.upTo(pause/2)).UnixMicro(), failure.Error()
	result := "failed"
	if errors.Is(failure, webhook.ErrGone) || now.UnixMicro()-w.FailingSince >= l.s.cfg.WebhookGiveUp.Microseconds() {
		w.State, w.RetryAt, result = store.WebhookDisabled, 0, "disabled"
	}
	if err := l.s.store.Write(ctx, func(tx *store.Tx) error { return tx.WebhookFailed(ctx, &w, l.cursor) }); err != nil {
		return err
	}
	l.s.metrics.webhooks.WithLabelValues(result).Inc()
	l.s.deps.Log.Warn("a webhook's endpoint failed", "webhook_id", w.WebhookID.UUID(), "attempts", w.Attempts, "result", result, "error", failure)
	return nil
}

// purchaseEvent is what endpoints get: type, timestamp and data as Standard Webhooks proposes. Not in it: viewer session,
// receipt, outcome, payment reference and intent, licence key, a voucher's text.
type purchaseEvent struct {
	Type      string            `json:"type"` // "purchase." and the state
	Timestamp time.Time         `json:"timestamp"`
	Data      purchaseEventData `json:"data"`
}

type purchaseEventData struct {
	Cursor       int64  `json:"cursor"` // replay after it
	PurchaseID   string `json:"purchaseId"`
	DropID       string `json:"dropId"`
	State        string `json:"state"`
	Reason       string `json:"reason,omitempty"`
	CurrencyCode string `json:"currencyCode"`
	// In minor units: the price, what the provider is asked to take of it, and what the shop has given back by now.
	PriceMinorUnits    int64 `json:"priceMinorUnits"`
	ChargedMinorUnits  int64 `json:"chargedMinorUnits"`
	RefundedMinorUnits int64 `json:"refundedMinorUnits"`
}

func eventBody(e *store.Event) ([]byte, error) {
	p := &e.Now
	data := purchaseEventData{
		Cursor: e.Cursor, PurchaseID: p.PurchaseID.Hex(), DropID: p.DropID.UUID(), State: e.State.String(), CurrencyCode: p.CurrencyCode,
		PriceMinorUnits: p.MinorUnits, ChargedMinorUnits: p.Charged, RefundedMinorUnits: p.Refunded,
	}
	if e.Reason != saga.NoReason {
		data.Reason = reasonName(e.Reason)
	}
	body, err := json.Marshal(purchaseEvent{Type: "purchase." + data.State, Timestamp: time.UnixMicro(e.Time).UTC(), Data: data})
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return body, nil
}

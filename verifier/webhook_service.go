package verifier

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/webhook"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

const (
	// mostWebhooks bounds the lanes: each may be a goroutine that waits for its endpoint.
	mostWebhooks = 100
	// secretOverlap is how long an old secret signs beside the new one: receivers are changed within a day.
	secretOverlap = 24 * time.Hour
)

var (
	errURL             = errors.New("verifier: no URL to post to")
	errTooManyWebhooks = errors.New("verifier: too many webhooks")
	errStates          = errors.New("verifier: a state that purchases do not tell of")
)

func reasonName(r saga.Reason) string {
	return strings.ToLower(strings.TrimPrefix(errorsv1.Reason(r).String(), "REASON_"))
}

// CreateWebhook implements SupportService.
func (v *supportServer) CreateWebhook(ctx context.Context, r *verifierv1.CreateWebhookRequest) (*verifierv1.CreateWebhookResponse, error) {
	w, secret, err := v.createWebhook(ctx, r)
	m, err := v.answer(ctx, w, err)
	if err != nil {
		return nil, v.s.toStatus(ctx, "CreateWebhook", err)
	}
	return &verifierv1.CreateWebhookResponse{Webhook: m, Secret: secret}, nil
}

// createWebhook answers the secret's text with the webhook that it makes; of one that is there it has none.
func (v *supportServer) createWebhook(ctx context.Context, r *verifierv1.CreateWebhookRequest) (w store.Webhook, text string, err error) {
	if err := webhook.CheckURL(r.GetUrl()); err != nil {
		return w, "", errURL
	}
	states, err := stateBits(r.GetStates())
	if err != nil {
		return w, "", err
	}
	now := v.s.deps.Now()
	id, err := v.s.newID(now)
	if err != nil {
		return w, "", err
	}
	secret, err := webhook.NewSecret(v.s.random)
	if err != nil {
		return w, "", err
	}
	err = v.s.store.Write(ctx, func(tx *store.Tx) error {
		text = ""
		known, err := tx.WebhookByRequest(ctx, r.GetRequestId())
		if !errors.Is(err, store.ErrNoWebhook) {
			if w = known; err == nil && (known.URL != r.GetUrl() || known.States != states) {
				return errReplayed
			}
			return err
		}
		n, err := tx.CountWebhooks(ctx)
		if err != nil {
			return err
		}
		if n >= mostWebhooks {
			return errTooManyWebhooks
		}
		head, err := tx.EventHead(ctx)
		if err != nil {
			return err
		}
		w = store.Webhook{
			WebhookID: id, RequestID: r.GetRequestId(), URL: r.GetUrl(), States: states, Secret: secret, State: store.WebhookActive,
			Cursor: head, CreateTime: now.UnixMicro(),
		}
		text = secret.Text()
		return tx.InsertWebhook(ctx, &w)
	})
	return w, text, err
}

// stateBits reads which states to tell; none are the final ones.
func stateBits(list []offerv1.PurchaseState) (bits int64, err error) {
	for _, s := range saga.States() {
		if len(list) == 0 && s.Final() {
			bits |= 1 << s
		}
	}
	for _, s := range list {
		known := false
		for _, k := range saga.States() {
			known = known || k == saga.State(s)
		}
		if !known {
			return 0, errStates
		}
		bits |= 1 << s
	}
	return bits, nil
}

// ListWebhooks implements SupportService. The page token is the last webhook's id in hex.
func (v *supportServer) ListWebhooks(ctx context.Context, r *verifierv1.ListWebhooksRequest) (*verifierv1.ListWebhooksResponse, error) {
	response, err := v.listWebhooks(ctx, r)
	return response, v.s.toStatus(ctx, "ListWebhooks", err)
}

func (v *supportServer) listWebhooks(ctx context.Context, r *verifierv1.ListWebhooksRequest) (*verifierv1.ListWebhooksResponse, error) {
	var after store.ID
	if r.GetPageToken() != "" {
		var err error
		if after, err = store.ParseHex(r.GetPageToken()); err != nil {
			return nil, errPageToken
		}
	}
	size := int(r.GetPageSize())
	if size <= 0 {
		size = supportPage
	}
	head, err := v.s.store.Read().EventHead(ctx)
	if err != nil {
		return nil, err
	}
	list, err := v.s.store.Read().Webhooks(ctx, after, size+1)
	if err != nil {
		return nil, err
	}
	response := &verifierv1.ListWebhooksResponse{}
	if len(list) > size {
		list = list[:size]
		response.NextPageToken = list[size-1].WebhookID.Hex()
	}
	for i := range list {
		response.Webhooks = append(response.Webhooks, webhookProto(&list[i], head))
	}
	return response, nil
}

// DeleteWebhook implements SupportService.
func (v *supportServer) DeleteWebhook(ctx context.Context, r *verifierv1.DeleteWebhookRequest) (*verifierv1.DeleteWebhookResponse, error) {
	id, err := store.ParseUUID(r.GetWebhookId())
	if err != nil {
		return nil, v.s.toStatus(ctx, "DeleteWebhook", errWebhookID)
	}
	if err := v.s.store.Write(ctx, func(tx *store.Tx) error { return tx.DeleteWebhook(ctx, id) }); err != nil {
		return nil, v.s.toStatus(ctx, "DeleteWebhook", err)
	}
	return &verifierv1.DeleteWebhookResponse{}, nil
}

// ReplayWebhook implements SupportService.
func (v *supportServer) ReplayWebhook(ctx context.Context, r *verifierv1.ReplayWebhookRequest) (*verifierv1.ReplayWebhookResponse, error) {
	w, err := v.changeWebhook(ctx, r.GetWebhookId(), func(tx *store.Tx, w *store.Webhook) error {
		head, err := tx.EventHead(ctx)
		if err != nil {
			return err
		}
		if r.AfterCursor != nil {
			w.Cursor = min(r.GetAfterCursor(), head)
		}
		return tx.RestartWebhook(ctx, w)
	})
	m, err := v.answer(ctx, w, err)
	if err != nil {
		return nil, v.s.toStatus(ctx, "ReplayWebhook", err)
	}
	return &verifierv1.ReplayWebhookResponse{Webhook: m}, nil
}

// RotateWebhookSecret implements SupportService.
func (v *supportServer) RotateWebhookSecret(ctx context.Context, r *verifierv1.RotateWebhookSecretRequest) (*verifierv1.RotateWebhookSecretResponse, error) {
	secret, err := webhook.NewSecret(v.s.random)
	if err != nil {
		return nil, v.s.toStatus(ctx, "RotateWebhookSecret", err)
	}
	var text string
	w, err := v.changeWebhook(ctx, r.GetWebhookId(), func(tx *store.Tx, w *store.Webhook) error {
		if text = ""; w.RotateRequest == r.GetRequestId() {
			return nil
		}
		w.OldSecret, w.OldUntil = w.Secret, v.s.deps.Now().Add(secretOverlap).UnixMicro()
		w.Secret, w.RotateRequest, text = secret, r.GetRequestId(), secret.Text()
		return tx.RotateWebhook(ctx, w)
	})
	m, err := v.answer(ctx, w, err)
	if err != nil {
		return nil, v.s.toStatus(ctx, "RotateWebhookSecret", err)
	}
	return &verifierv1.RotateWebhookSecretResponse{Webhook: m, Secret: text}, nil
}

// changeWebhook changes one and answers it as it is afterwards.
func (v *supportServer) changeWebhook(ctx context.Context, webhookID string, change func(*store.Tx, *store.Webhook) error) (w store.Webhook, err error) {
	id, err := store.ParseUUID(webhookID)
	if err != nil {
		return w, errWebhookID
	}
	err = v.s.store.Write(ctx, func(tx *store.Tx) error {
		held, err := tx.WebhookByID(ctx, id)
		if err == nil {
			err = change(tx, &held)
		}
		if err == nil {
			w, err = tx.WebhookByID(ctx, id)
		}
		return err
	})
	return w, err
}

// answer renders a webhook, unless there is an error.
func (v *supportServer) answer(ctx context.Context, w store.Webhook, err error) (*verifierv1.Webhook, error) {
	if err != nil {
		return nil, err
	}
	head, err := v.s.store.Read().EventHead(ctx)
	if err != nil {
		return nil, err
	}
	return webhookProto(&w, head), nil
}

func webhookProto(w *store.Webhook, head int64) *verifierv1.Webhook {
	m := &verifierv1.Webhook{
		WebhookId: w.WebhookID.UUID(), Url: w.URL, State: verifierv1.WebhookState(w.State), Cursor: w.Cursor, Behind: max(0, head-w.Cursor),
		Problem: w.Problem, CreateTime: timestamppb.New(time.UnixMicro(w.CreateTime)),
		FailingSinceTime: optionalTime(w.FailingSince), RetryTime: optionalTime(w.RetryAt),
	}
	for _, s := range saga.States() {
		if w.States&(1<<s) != 0 {
			m.States = append(m.States, offerv1.PurchaseState(s))
		}
	}
	return m
}

func optionalTime(us int64) *timestamppb.Timestamp {
	if us == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMicro(us))
}

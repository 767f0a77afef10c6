package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type webhooksCmd struct {
	Add    webhooksAddCmd    `cmd:"" help:"Have changes of purchases posted to a URL, as Standard Webhooks. Prints the secret, once."`
	List   webhooksListCmd   `cmd:"" help:"List webhooks and how they do."`
	Remove webhooksRemoveCmd `cmd:"" help:"Forget a webhook."`
	Replay webhooksReplayCmd `cmd:"" help:"Tell events again from a cursor, or go on at once where a webhook stopped."`
	Rotate webhooksRotateCmd `cmd:"" help:"Make another secret and print it, once; the old one signs as well for a day."`
}

// webhookFlags are what all changes take.
type webhookFlags struct {
	clientFlags
	RequestID string `help:"Repeat a change safely with the same id; default: a fresh one."`
}

func (f *webhookFlags) request() string {
	return cmp.Or(f.RequestID, ids.NewV7(time.Now(), rand.Reader))
}

type webhooksAddCmd struct {
	webhookFlags
	URL    string   `arg:"" help:"http or https."`
	Events []string `help:"States of purchases to tell, separated by commas, for example received,delivered; default: the final ones." placeholder:"STATE"`
}

func (c *webhooksAddCmd) Run(ctx context.Context, s *streams) error {
	req := &verifierv1.CreateWebhookRequest{RequestId: c.request(), Url: c.URL}
	for _, text := range c.Events {
		state, err := purchaseState(text)
		if err != nil {
			return err
		}
		req.States = append(req.States, state)
	}
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).CreateWebhook(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			webhookRows(w, resp.GetWebhook())
			row(w, "secret", cmp.Or(resp.GetSecret(), "shown when the webhook was made; make another with: rimlight webhooks rotate "+resp.GetWebhook().GetWebhookId()))
		})
	})
}

type webhooksListCmd struct {
	clientFlags
	Limit int32  `help:"At most this many, oldest first." default:"100"`
	Page  string `help:"Go on after the last page." placeholder:"TOKEN"`
}

func (c *webhooksListCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).ListWebhooks(ctx, &verifierv1.ListWebhooksRequest{PageSize: c.Limit, PageToken: c.Page})
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "WEBHOOK", "STATE", "CURSOR", "BEHIND", "FAILING SINCE", "NEXT TRY", "PROBLEM", "EVENTS", "URL")
			for _, h := range resp.GetWebhooks() {
				row(w, h.GetWebhookId(), short(h.GetState(), "WEBHOOK_STATE_"), h.GetCursor(), h.GetBehind(), dateTime(h.GetFailingSinceTime()),
					clock(h.GetRetryTime()), dash(h.GetProblem()), events(h), h.GetUrl())
			}
			if resp.GetNextPageToken() != "" {
				fmt.Fprintf(w, "more: --page %s\n", resp.GetNextPageToken())
			}
		})
	})
}

type webhooksRemoveCmd struct {
	webhookFlags
	ID string `arg:"" help:"The webhook's id."`
}

func (c *webhooksRemoveCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).DeleteWebhook(ctx, &verifierv1.DeleteWebhookRequest{RequestId: c.request(), WebhookId: c.ID})
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) { row(w, "removed", c.ID) })
	})
}

type webhooksReplayCmd struct {
	webhookFlags
	ID   string `arg:"" help:"The webhook's id."`
	From *int64 `help:"Tell everything after this cursor again; 0 is the beginning. Default: where it stopped." placeholder:"CURSOR"`
}

func (c *webhooksReplayCmd) Run(ctx context.Context, s *streams) error {
	req := &verifierv1.ReplayWebhookRequest{RequestId: c.request(), WebhookId: c.ID, AfterCursor: c.From}
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).ReplayWebhook(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) { webhookRows(w, resp.GetWebhook()) })
	})
}

type webhooksRotateCmd struct {
	webhookFlags
	ID string `arg:"" help:"The webhook's id."`
}

func (c *webhooksRotateCmd) Run(ctx context.Context, s *streams) error {
	req := &verifierv1.RotateWebhookSecretRequest{RequestId: c.request(), WebhookId: c.ID}
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).RotateWebhookSecret(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			webhookRows(w, resp.GetWebhook())
			row(w, "secret", cmp.Or(resp.GetSecret(), "shown when this request came first; rotate again for another"))
		})
	})
}

func webhookRows(w io.Writer, h *verifierv1.Webhook) {
	row(w, "webhook", h.GetWebhookId())
	row(w, "url", h.GetUrl())
	row(w, "events", events(h))
	row(w, "state", short(h.GetState(), "WEBHOOK_STATE_"))
	row(w, "cursor", h.GetCursor(), fmt.Sprintf("%d behind", h.GetBehind()))
}

func events(h *verifierv1.Webhook) string {
	list := make([]string, len(h.GetStates()))
	for i, s := range h.GetStates() {
		list[i] = short(s, "PURCHASE_STATE_")
	}
	return strings.Join(list, ",")
}

func dateTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

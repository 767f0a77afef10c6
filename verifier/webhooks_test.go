package verifier_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/webhook"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// endpoints answer by host: "ok", "broken", "gone", "hangs", or as answer says.
type endpoints struct {
	mu     sync.Mutex
	got    map[string][]string // bodies' types and cursors, by host, of attempts that were taken
	bodies []string
	tried  map[string]int
	signed map[string]string // the last signature, by host
	answer func(host string, attempt int) (status int, err error)
}

func newEndpoints() *endpoints {
	return &endpoints{got: map[string][]string{}, tried: map[string]int{}, signed: map[string]string{}}
}

// RoundTrip implements http.RoundTripper.
func (e *endpoints) RoundTrip(q *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	host := q.URL.Host
	if host == "hangs" {
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tried[host]++
	code := map[string]int{"ok": 200, "broken": 500, "gone": 410}[host]
	if e.answer != nil {
		if code, err = e.answer(host, e.tried[host]); err != nil {
			return nil, err
		}
	}
	e.signed[host] = strings.Join([]string{q.Header.Get("webhook-id"), q.Header.Get("webhook-timestamp"), q.Header.Get("webhook-signature"), string(raw)}, "|")
	if code >= 200 && code <= 299 {
		var m struct {
			Type string
			Data struct{ Cursor int64 }
		}
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, err
		}
		if want := fmt.Sprint("evt_", m.Data.Cursor); q.Header.Get("webhook-id") != want {
			return nil, fmt.Errorf("event %s is called %s", want, q.Header.Get("webhook-id"))
		}
		e.got[host] = append(e.got[host], fmt.Sprint(m.Data.Cursor, " ", m.Type))
		e.bodies = append(e.bodies, string(raw))
	}
	return &http.Response{StatusCode: code, Body: http.NoBody}, nil
}

func (e *endpoints) told(host string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got[host])
}

func (e *endpoints) attempts(host string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tried[host]
}

func (w *world) hook(host string, states ...offerv1.PurchaseState) *verifierv1.CreateWebhookResponse {
	w.t.Helper()
	r, err := w.support().CreateWebhook(w.t.Context(), &verifierv1.CreateWebhookRequest{RequestId: host, Url: "https://" + host + "/secret-path", States: states})
	check(w.t, err)
	return r
}

func (w *world) webhook(id string) *verifierv1.Webhook {
	w.t.Helper()
	r, err := w.support().ListWebhooks(w.t.Context(), &verifierv1.ListWebhooksRequest{})
	check(w.t, err)
	for _, h := range r.GetWebhooks() {
		if h.GetWebhookId() == id {
			return h
		}
	}
	return nil
}

// sell makes purchases that end at once.
func (w *world) sell(n int) {
	for i := range n {
		receipt, _ := w.redeem(w.nodes[0], sale{reference: []string{testpsp.RefOK, testpsp.RefDecline}[i%2], session: []byte(fmt.Sprintf("canary-viewer-%02d", i))})
		w.present(receipt)
	}
}

var allStates = []offerv1.PurchaseState{2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13}

// inOrder checks that every event of want is there, the first times in order; what comes again must have been before.
func inOrder(got, want []string) error {
	var first []string
	for _, g := range got {
		if !slices.Contains(first, g) {
			first = append(first, g)
		}
	}
	if !slices.Equal(first, want) {
		return fmt.Errorf("told %v\nwant %v", first, want)
	}
	return nil
}

func TestAnEndpointThatHangsOrFailsHoldsNobodyUp(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		e := newEndpoints()
		w.transport = e
		w.cfg.WebhookMaxBackoff, w.cfg.WebhookGiveUp = time.Minute, 10*time.Minute
		var log strings.Builder
		w.log = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
		w.start()
		var secrets []string
		for _, host := range []string{"hangs", "broken", "gone", "ok"} {
			secrets = append(secrets, w.hook(host).GetSecret())
		}
		gone := w.hook("gone").GetWebhook().GetWebhookId()
		broken := w.hook("broken")
		if broken.GetSecret() != "" {
			t.Error("a repeated request showed the secret again")
		}
		w.sell(20)
		time.Sleep(30 * time.Second)
		if got := e.told("ok"); len(got) != 20 {
			t.Errorf("the good endpoint got %d of 20 events", len(got))
		}
		if h := w.webhook(gone); h.GetState() != verifierv1.WebhookState_WEBHOOK_STATE_DISABLED || e.attempts("gone") != 1 {
			t.Errorf("an endpoint that is gone was asked %d times: %v", e.attempts("gone"), h)
		}
		before := e.attempts("broken")
		time.Sleep(5 * time.Minute)
		if n := e.attempts("broken") - before; n < 4 || n > 14 { // 30 to 60 s apart in the end
			t.Errorf("a broken endpoint was asked %d times in 5 minutes", n)
		}
		h := w.webhook(broken.GetWebhook().GetWebhookId())
		if h.GetState() != verifierv1.WebhookState_WEBHOOK_STATE_ACTIVE || h.GetFailingSinceTime() == nil || h.GetProblem() != "the endpoint answered 500" || h.GetBehind() == 0 {
			t.Errorf("a broken endpoint's webhook: %v", h)
		}
		time.Sleep(6 * time.Minute)
		before = e.attempts("broken")
		time.Sleep(5 * time.Minute)
		if h := w.webhook(h.GetWebhookId()); h.GetState() != verifierv1.WebhookState_WEBHOOK_STATE_DISABLED || e.attempts("broken") != before {
			t.Errorf("after the time to give up it is %v and was asked %d times more", h, e.attempts("broken")-before)
		}
		w.stop()
		for _, secret := range append(secrets, "secret-path", "canary", testpsp.RefOK) {
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log has %q", secret)
			}
			if strings.Contains(strings.Join(e.bodies, ""), secret) {
				t.Errorf("an event has %q", secret)
			}
		}
		if !strings.Contains(log.String(), "a webhook's endpoint failed") {
			t.Error("the log has no failure")
		}
	})
}

func TestWebhooksHearWhatTheyAskedForAndCanHearItAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		e := newEndpoints()
		e.answer = func(string, int) (int, error) { return 204, nil }
		w.transport = e
		w.cfg.Poll, w.cfg.DropPoll, w.cfg.ClosePoll = 20*time.Second, time.Hour, time.Hour // a day passes below
		w.cfg.ActionPoll, w.cfg.KeyPoll = time.Hour, time.Hour
		w.start()
		w.sell(2) // before it was made: not told
		time.Sleep(time.Minute)
		all, final := w.hook("all", allStates...), w.hook("final")
		w.sell(4)
		time.Sleep(time.Minute)
		told := e.told("all")
		if got := e.told("final"); len(got) != 4 || strings.Contains(strings.Join(got, ""), "received") || len(told) <= 8 {
			t.Errorf("the one that hears of ends was told %v, the other one %v", got, told)
		}
		replay := func(id string, after *int64) {
			t.Helper()
			_, err := w.support().ReplayWebhook(t.Context(), &verifierv1.ReplayWebhookRequest{RequestId: "r", WebhookId: id, AfterCursor: after})
			check(t, err)
			time.Sleep(time.Minute)
		}
		replay(final.GetWebhook().GetWebhookId(), nil)
		if got := e.told("final"); len(got) != 4 {
			t.Errorf("going on told %v", got)
		}
		begin := int64(0)
		replay(final.GetWebhook().GetWebhookId(), &begin)
		if got := e.told("final"); len(got) != 4+6 {
			t.Errorf("a replay from the beginning told %v", got)
		}
		far := int64(1 << 40)
		replay(final.GetWebhook().GetWebhookId(), &far)
		w.sell(1)
		time.Sleep(time.Minute)
		if got := e.told("final"); len(got) != 4+6+1 {
			t.Errorf("after a replay from beyond the end it was told %v", got)
		}

		rotated, err := w.support().RotateWebhookSecret(t.Context(), &verifierv1.RotateWebhookSecretRequest{RequestId: "r", WebhookId: all.GetWebhook().GetWebhookId()})
		check(t, err)
		again, err := w.support().RotateWebhookSecret(t.Context(), &verifierv1.RotateWebhookSecretRequest{RequestId: "r", WebhookId: all.GetWebhook().GetWebhookId()})
		if err != nil || again.GetSecret() != "" || rotated.GetSecret() == all.GetSecret() {
			t.Errorf("rotated twice: %v", err)
		}
		signatures := func(secrets ...string) string {
			e.mu.Lock()
			parts := strings.SplitN(e.signed["all"], "|", 4)
			e.mu.Unlock()
			var list []string
			for _, text := range secrets {
				secret, err := webhook.ParseSecret(text)
				check(t, err)
				list = append(list, webhook.Sign(secret, parts[0], parts[1], []byte(parts[3])))
			}
			if got := parts[2]; got != strings.Join(list, " ") {
				t.Errorf("signed %s, want %s", got, strings.Join(list, " "))
			}
			return ""
		}
		w.sell(1)
		time.Sleep(time.Minute)
		signatures(rotated.GetSecret(), all.GetSecret())
		w.stop()
		time.Sleep(25 * time.Hour)
		w.start()
		w.sell(1)
		time.Sleep(time.Minute)
		signatures(rotated.GetSecret())

		_, err = w.support().DeleteWebhook(t.Context(), &verifierv1.DeleteWebhookRequest{RequestId: "r", WebhookId: all.GetWebhook().GetWebhookId()})
		check(t, err)
		n := len(e.told("all"))
		w.sell(1)
		time.Sleep(time.Minute)
		if len(e.told("all")) != n || w.webhook(all.GetWebhook().GetWebhookId()) != nil {
			t.Error("a removed webhook is told more")
		}
		for name, c := range map[string]struct {
			err  error
			code codes.Code
		}{
			"a URL":        {second(w.support().CreateWebhook(t.Context(), &verifierv1.CreateWebhookRequest{RequestId: "x", Url: "ftp://x"})), codes.InvalidArgument},
			"another body": {second(w.support().CreateWebhook(t.Context(), &verifierv1.CreateWebhookRequest{RequestId: "final", Url: "https://x"})), codes.AlreadyExists},
			"unknown":      {second(w.support().ReplayWebhook(t.Context(), &verifierv1.ReplayWebhookRequest{RequestId: "x", WebhookId: all.GetWebhook().GetWebhookId()})), codes.NotFound},
			"a state":      {second(w.support().CreateWebhook(t.Context(), &verifierv1.CreateWebhookRequest{RequestId: "x", Url: "https://x", States: []offerv1.PurchaseState{1}})), codes.InvalidArgument},
			"an id":        {second(w.support().RotateWebhookSecret(t.Context(), &verifierv1.RotateWebhookSecretRequest{RequestId: "x", WebhookId: "x"})), codes.InvalidArgument},
		} {
			if status.Code(c.err) != c.code {
				t.Errorf("%s: %v", name, c.err)
			}
		}
	})
}

// Whoever asks for a replay is heard at once: the lanes look at the store by themselves after hours only.
func TestAReplayBeginsAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		e := newEndpoints()
		e.answer = func(string, int) (int, error) { return 204, nil }
		w.transport = e
		w.cfg.Poll, w.cfg.KeyPoll, w.cfg.DropPoll, w.cfg.ClosePoll = 6*time.Hour, 6*time.Hour, 6*time.Hour, 6*time.Hour
		w.start()
		id := w.hook("final").GetWebhook().GetWebhookId()
		w.sell(2)
		time.Sleep(time.Minute)
		begin := int64(0)
		_, err := w.support().ReplayWebhook(t.Context(), &verifierv1.ReplayWebhookRequest{RequestId: "r", WebhookId: id, AfterCursor: &begin})
		check(t, err)
		time.Sleep(time.Minute)
		if got := e.told("final"); len(got) != 2+2 {
			t.Errorf("a minute after the replay was asked for it has told %v", got)
		}
	})
}

// Whatever fails and restarts: every event is told at least once, and first in its order. Two replicas share one store.
func TestEventsAreToldAtLeastOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		faults := rapid.SliceOfN(rapid.IntRange(0, 5), 5, 40).Draw(rt, "faults")
		stops := rapid.SliceOfN(rapid.IntRange(1, 4000), 1, 4).Draw(rt, "run for ms")
		synctest.Test(t, func(t *testing.T) {
			w, e := newWorld(t), newEndpoints()
			calm := false
			e.answer = func(_ string, attempt int) (int, error) {
				switch fault := faults[attempt%len(faults)]; {
				case calm || fault > 3:
					return 200, nil
				case fault == 3:
					return 0, errors.New("cut")
				default:
					return 500, nil
				}
			}
			w.transport = e
			w.cfg.WebhookMaxBackoff, w.cfg.WebhookGiveUp = 4*time.Second, time.Hour
			w.start()
			hook := w.hook("some", allStates...)
			for _, ms := range stops {
				other := w.replica()
				w.sell(4)
				time.Sleep(time.Duration(ms) * time.Millisecond)
				w.stop()
				other()
				w.start()
			}
			w.sell(2)
			time.Sleep(20 * time.Second)
			e.mu.Lock()
			calm = true
			e.mu.Unlock()
			time.Sleep(time.Minute)
			if h := w.webhook(hook.GetWebhook().GetWebhookId()); h.GetBehind() != 0 {
				t.Errorf("with a calm endpoint it is %v", h)
			}
			if err := inOrder(e.told("some"), w.events()); err != nil {
				t.Error(err)
			}
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// Over real connections.
func TestAWebhookOverHTTP(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var secret webhook.Secret
	got := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if want := webhook.Sign(secret, r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), raw); err != nil || r.Header.Get("webhook-signature") != want {
			t.Errorf("signed %q, want %q", r.Header.Get("webhook-signature"), want)
		}
		got <- string(raw)
	}))
	defer server.Close()
	w.start()
	mu.Lock()
	r, err := w.support().CreateWebhook(t.Context(), &verifierv1.CreateWebhookRequest{RequestId: "1", Url: server.URL})
	check(t, err)
	secret, err = webhook.ParseSecret(r.GetSecret())
	check(t, err)
	mu.Unlock()
	w.sell(1)
	if body := <-got; !strings.Contains(body, `"type":"purchase.delivered"`) {
		t.Errorf("got %s", body)
	}
	w.stop()
}

func second[T any](_ T, err error) error { return err }

// lockedWriter makes a writer safe for concurrent use.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

package alert_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rimlight/rimlight/internal/webhook"
	"github.com/rimlight/rimlight/router/alert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receivers answer by host name.
type receivers struct {
	t      *testing.T
	secret webhook.Secret

	mu   sync.Mutex
	got  map[string][]string // ids, by host
	when map[string][]time.Duration
	base time.Time
}

// RoundTrip implements http.RoundTripper.
func (r *receivers) RoundTrip(q *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	id := q.Header.Get("webhook-id")
	if want := webhook.Sign(r.secret, id, q.Header.Get("webhook-timestamp"), body); q.Header.Get("webhook-signature") != want {
		r.t.Errorf("signed %q, want %q", q.Header.Get("webhook-signature"), want)
	}
	r.mu.Lock()
	r.got[q.URL.Host] = append(r.got[q.URL.Host], id)
	r.when[q.URL.Host] = append(r.when[q.URL.Host], time.Since(r.base))
	n := len(r.got[q.URL.Host])
	r.mu.Unlock()
	status := map[string]int{"ok": 200, "broken": 500, "gone": 410, "elsewhere": 302}[q.URL.Host]
	switch {
	case q.URL.Host == "hangs":
		<-q.Context().Done()
		return nil, q.Context().Err()
	case q.URL.Host == "restarts" && n <= 2:
		status = 503
	case q.URL.Host == "restarts":
		status = 204
	}
	return &http.Response{StatusCode: status, Body: http.NoBody}, nil
}

// logBuffer is a log that lanes write and a test reads.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// ids is what a host got so far.
func (r *receivers) ids(host string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got[host])
}

func inTime(t *testing.T, hosts []string, test func(t *testing.T, s *alert.Sender, r *receivers, log *logBuffer)) {
	synctest.Test(t, func(t *testing.T) {
		r := &receivers{t: t, secret: bytes.Repeat([]byte{7}, 32), got: map[string][]string{}, when: map[string][]time.Duration{}, base: time.Now()}
		config := alert.Config{Secret: r.secret}
		for _, h := range hosts {
			config.URLs = append(config.URLs, "https://"+h+"/secret-path")
		}
		var log logBuffer
		s, err := alert.New(config, alert.Deps{Transport: r, Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		test(t, s, r, &log)
		stop()
		running.Wait()
	})
}

// An endpoint that hangs or fails must not keep an alert from the others, or its sender.
func TestEachEndpointHasItsOwnLane(t *testing.T) {
	inTime(t, []string{"hangs", "broken", "ok"}, func(t *testing.T, s *alert.Sender, r *receivers, log *logBuffer) {
		start := time.Now()
		for i := range 100 {
			s.Send(webhook.Event{ID: fmt.Sprint(i), Body: []byte("{}")})
			synctest.Wait()
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("sending took %v", took)
		}
		if got := r.ids("ok"); len(got) != 100 || got[99] != "99" {
			t.Errorf("the good endpoint got %d of 100", len(got))
		}
		if n := strings.Count(log.String(), "result=dropped"); n != 2*35 { // one is being sent, 64 wait
			t.Errorf("%d events were dropped, want 35 of each bad endpoint", n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if strings.Contains(log.String(), "secret-path") {
			t.Error("the log has the URL")
		}
	})
}

func TestFailedEventsAreTriedAgainWithTheSameID(t *testing.T) {
	inTime(t, []string{"restarts", "gone", "elsewhere"}, func(t *testing.T, s *alert.Sender, r *receivers, log *logBuffer) {
		s.Send(webhook.Event{ID: "slip_1_began", Body: []byte("{}")})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := strings.Join(r.ids("restarts"), " "); got != "slip_1_began slip_1_began slip_1_began" {
			t.Errorf("got %q", got)
		}
		if when := r.when["restarts"]; when[1] < 500*time.Millisecond || when[1] > 1500*time.Millisecond || when[2]-when[1] < time.Second {
			t.Errorf("tried at %v, want a pause of about 1 s, then 2 s", when)
		}
		if got := len(r.ids("gone")); got != 1 {
			t.Errorf("an endpoint that is gone was asked %d times", got)
		}
		if got := len(r.ids("elsewhere")); got != 8 {
			t.Errorf("an endpoint that redirects was asked %d times", got)
		}
	})
}

func TestConfigNamesEveryProblem(t *testing.T) {
	err := alert.Config{URLs: []string{"ftp://x", "nonsense"}}.Validate()
	for _, want := range []string{"URLs[0]", "URLs[1]", "Secret"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something about %s", err, want)
		}
	}
}

// Package webhook tells other systems of events over HTTP, signed as Standard Webhooks 1.0.0 asks for
// (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md).
//
//	Send --> a bounded queue per endpoint --> POST --2xx--> done
//	                                           |--else--> backoff with jitter, again with the same id, 8 times at most
//
// Send never blocks: an endpoint that hangs or answers 500 fills its own queue alone, and what finds no room is counted and
// logged. Events arrive in order and at least once; a receiver drops those whose webhook-id it has seen. Nothing survives
// a restart.
//
// URLs and secrets never reach a log: some URLs are secrets.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"
)

const (
	// queueLength is how many events wait for an endpoint: those of a bad evening's hour.
	queueLength = 64
	// attempts and the pauses between them, doubling, span a receiver's restart: about two minutes.
	attempts   = 8
	firstPause = time.Second
	// attemptTimeout bounds one POST.
	attemptTimeout = 5 * time.Second
	// mostAnswer is how much of an answer is read before its connection is used again.
	mostAnswer = 64 << 10
)

// Secret signs events: 24 to 64 random bytes, written "whsec_" and base64.
type Secret []byte

const secretPrefix = "whsec_"

// ParseSecret reads a secret's text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("a webhook secret is whsec_ and the base64 of 24 to 64 bytes")
	}
	return key, nil
}

// LoadOrCreateSecret reads a secret's file, making it at the first start.
func LoadOrCreateSecret(path string) (Secret, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, 32)
		rand.Read(key) // never fails since Go 1.24
		raw = []byte(secretPrefix + base64.StdEncoding.EncodeToString(key) + "\n")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("making the webhook secret's directory: %w", err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return nil, fmt.Errorf("writing the webhook secret: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("reading the webhook secret: %w", err)
	}
	secret, err := ParseSecret(string(raw))
	if err != nil {
		return nil, fmt.Errorf("reading the webhook secret %s: %w", path, err)
	}
	return secret, nil
}

// Config is where events go.
type Config struct {
	// URLs of the endpoints, http or https.
	URLs []string
	// Secret signs for all of them. Required with URLs.
	Secret Secret
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	for i, text := range c.URLs {
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("URLs[%d] is not an http or https URL", i))
		}
	}
	if len(c.URLs) > 0 && len(c.Secret) == 0 {
		errs = append(errs, errors.New("Secret is missing"))
	}
	return errors.Join(errs...)
}

// Event is something to tell.
type Event struct {
	ID   string // the same for the same event, without "."
	Body []byte // JSON
}

// Deps is what the sender needs of others.
type Deps struct {
	Transport http.RoundTripper     // nil: an own one over the network
	Now       func() time.Time      // stamps
	Log       *slog.Logger          // required
	Metrics   prometheus.Registerer // nil: nowhere
}

// Sender tells events to all endpoints. Safe for concurrent use.
type Sender struct {
	config Config
	deps   Deps
	lanes  []*lane
	events *prometheus.CounterVec
}

// lane is one endpoint's queue.
type lane struct {
	number int
	url    string
	queue  chan Event
}

// New makes a sender. It starts nothing.
func New(config Config, deps Deps) (*Sender, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	if deps.Transport == nil {
		deps.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: attemptTimeout, IdleConnTimeout: time.Minute}
	}
	s := &Sender{config: config, deps: deps, events: promauto.With(deps.Metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "rimlight_router_webhook_events_total",
		Help: "Events by endpoint, counted from 0, and what became of them: delivered, failed after all attempts, dropped for want of room.",
	}, []string{"endpoint", "result"})}
	for i, u := range config.URLs {
		s.lanes = append(s.lanes, &lane{number: i, url: u, queue: make(chan Event, queueLength)})
	}
	return s, nil
}

// Send puts an event into every endpoint's queue. It never blocks.
func (s *Sender) Send(e Event) {
	for _, l := range s.lanes {
		select {
		case l.queue <- e:
		default:
			s.ended(l, e, "dropped", errors.New("the endpoint's queue is full"))
		}
	}
}

// Run delivers until the context ends. What waits then is lost.
func (s *Sender) Run(ctx context.Context) error {
	if t, ok := s.deps.Transport.(*http.Transport); ok {
		defer t.CloseIdleConnections()
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range s.lanes {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case e := <-l.queue:
					s.deliver(ctx, l, e)
				}
			}
		})
	}
	return g.Wait()
}

// deliver tries until the endpoint has the event.
func (s *Sender) deliver(ctx context.Context, l *lane, e Event) {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := s.post(ctx, l, e)
		switch {
		case err == nil:
			s.ended(l, e, "delivered", nil)
			return
		case ctx.Err() != nil:
			return
		case attempt == attempts || errors.Is(err, errGone):
			s.ended(l, e, "failed", err)
			return
		}
		select {
		case <-time.After(pause/2 + mathrand.N(pause)):
		case <-ctx.Done():
			return
		}
		pause *= 2
	}
}

func (s *Sender) ended(l *lane, e Event, result string, err error) {
	s.events.WithLabelValues(strconv.Itoa(l.number), result).Inc()
	if err != nil {
		s.deps.Log.Error("a webhook event was not delivered", "endpoint", l.number, "event", e.ID, "result", result, "error", err)
	}
}

// errGone is the endpoint's word that it wants nothing more (410).
var errGone = errors.New("the endpoint answered 410 Gone")

func (s *Sender) post(ctx context.Context, l *lane, e Event) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(e.Body))
	if err != nil {
		return errors.New("the request could not be made") // its error has the URL
	}
	stamp := strconv.FormatInt(s.deps.Now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Webhook-Id", e.ID)
	request.Header.Set("Webhook-Timestamp", stamp)
	request.Header.Set("Webhook-Signature", Sign(s.config.Secret, e.ID, stamp, e.Body))
	answer, err := s.deps.Transport.RoundTrip(request) // a redirect is an error: it would send the event to strangers
	if err != nil {
		return fmt.Errorf("posting: %w", withoutURL(err))
	}
	defer func() { _ = answer.Body.Close() }() // the status was the answer
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, mostAnswer))
	switch {
	case answer.StatusCode == http.StatusGone:
		return errGone
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return fmt.Errorf("the endpoint answered %d", answer.StatusCode)
	}
	return nil
}

func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Sign is the header webhook-signature of an event: HMAC-SHA256 over id, time and body.
func Sign(secret Secret, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Package alert tells other systems of a router's slips over HTTP, as Standard Webhooks (package internal/webhook).
//
//	Send --> a bounded queue per endpoint --> POST --2xx--> done
//	                                           |--else--> backoff with jitter, again with the same id, 8 times at most
//
// Send never blocks: an endpoint that hangs or answers 500 fills its own queue alone, and what finds no room is counted and
// logged. Events arrive in order and at least once; a receiver drops those whose webhook-id it has seen. Nothing survives
// a restart.
//
// URLs and secrets never reach a log: some URLs are secrets.
package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"github.com/rimlight/rimlight/internal/webhook"
)

const (
	// queueLength is how many events wait for an endpoint: those of a bad evening's hour.
	queueLength = 64
	// attempts and the pauses between them, doubling, span a receiver's restart: about two minutes.
	attempts   = 8
	firstPause = time.Second
)

// Config is where events go.
type Config struct {
	// URLs of the endpoints, http or https.
	URLs []string
	// Secret signs for all of them. Required with URLs.
	Secret webhook.Secret
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	for i, text := range c.URLs {
		if err := webhook.CheckURL(text); err != nil {
			errs = append(errs, fmt.Errorf("URLs[%d] is %w", i, err))
		}
	}
	if len(c.URLs) > 0 && len(c.Secret) == 0 {
		errs = append(errs, errors.New("Secret is missing"))
	}
	return errors.Join(errs...)
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
	queue  chan webhook.Event
}

// New makes a sender. It starts nothing.
func New(config Config, deps Deps) (*Sender, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	if deps.Transport == nil {
		deps.Transport = webhook.NewTransport()
	}
	s := &Sender{config: config, deps: deps, events: promauto.With(deps.Metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "rimlight_router_webhook_events_total",
		Help: "Events by endpoint, counted from 0, and what became of them: delivered, failed after all attempts, dropped for want of room.",
	}, []string{"endpoint", "result"})}
	for i, u := range config.URLs {
		s.lanes = append(s.lanes, &lane{number: i, url: u, queue: make(chan webhook.Event, queueLength)})
	}
	return s, nil
}

// Send puts an event into every endpoint's queue. It never blocks.
func (s *Sender) Send(e webhook.Event) {
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
func (s *Sender) deliver(ctx context.Context, l *lane, e webhook.Event) {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := webhook.Post(ctx, s.deps.Transport, l.url, e, s.deps.Now(), s.config.Secret)
		switch {
		case err == nil:
			s.ended(l, e, "delivered", nil)
			return
		case ctx.Err() != nil:
			return
		case attempt == attempts || errors.Is(err, webhook.ErrGone):
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

func (s *Sender) ended(l *lane, e webhook.Event, result string, err error) {
	s.events.WithLabelValues(strconv.Itoa(l.number), result).Inc()
	if err != nil {
		s.deps.Log.Error("a webhook event was not delivered", "endpoint", l.number, "event", e.ID, "result", result, "error", err)
	}
}

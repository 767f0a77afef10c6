// Package webhook posts one event to an endpoint as Standard Webhooks 1.0.0 asks for
// (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md): who posts what, how often and in which order
// is its callers' business.
//
//	webhook-id         the same over all attempts: a receiver drops what it has seen
//	webhook-timestamp  of the attempt, seconds
//	webhook-signature  v1,base64(HMAC-SHA256(secret, id.timestamp.body)), one for each secret, separated by spaces
//
// A redirect is not followed, which would send the event to strangers; of an answer's body little is read; an attempt ends
// after Timeout. No error has a URL, a secret or what the endpoint said: some URLs are secrets, and answers may be
// anything.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// Timeout bounds one attempt.
	Timeout = 5 * time.Second
	// mostAnswer is how much of an answer is read before its connection is used again.
	mostAnswer = 64 << 10
	// longestURL is what servers commonly take.
	longestURL = 2048
)

var (
	// ErrGone means: the endpoint wants nothing more (410).
	ErrGone = errors.New("the endpoint answered 410 Gone")
	// ErrURL means: not an http or https URL with a host, without user and fragment.
	ErrURL = errors.New("not an http or https URL without user and fragment")
)

// Secret signs events: 24 to 64 random bytes, written "whsec_" and base64.
type Secret []byte

const secretPrefix = "whsec_"

// secretBytes is how long a new secret is.
const secretBytes = 32

// NewSecret draws one.
func NewSecret(random io.Reader) (Secret, error) {
	key := make([]byte, secretBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, fmt.Errorf("drawing a webhook secret: %w", err)
	}
	return key, nil
}

// ParseSecret reads a secret's text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("a webhook secret is whsec_ and the base64 of 24 to 64 bytes")
	}
	return key, nil
}

// Text is the secret for whoever verifies events.
func (s Secret) Text() string { return secretPrefix + base64.StdEncoding.EncodeToString(s) }

// String hides the secret from logs.
func (s Secret) String() string { return secretPrefix + "(hidden)" }

// GoString hides it from %#v.
func (s Secret) GoString() string { return s.String() }

// CheckURL tells whether events may be posted there. ErrURL.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > longestURL || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		return ErrURL
	}
	return nil
}

// Event is something to tell.
type Event struct {
	ID   string // the same for the same event, without "."
	Body []byte // JSON
}

// NewTransport makes connections over the network, for Post.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: Timeout, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: mostAnswer,
	}
}

// Post makes one attempt, stamped now and signed with every secret; nil means that the endpoint has the event. ErrGone.
func Post(ctx context.Context, transport http.RoundTripper, endpoint string, e Event, now time.Time, secrets ...Secret) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(e.Body))
	if err != nil {
		return errors.New("the request could not be made") // its error has the URL
	}
	stamp := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = Sign(s, e.ID, stamp, e.Body)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Webhook-Id", e.ID)
	request.Header.Set("Webhook-Timestamp", stamp)
	request.Header.Set("Webhook-Signature", strings.Join(signatures, " "))
	answer, err := transport.RoundTrip(request) // as opposed to a client, it follows no redirect
	if err != nil {
		return fmt.Errorf("posting: %w", withoutURL(err))
	}
	defer func() { _ = answer.Body.Close() }() // the status was the answer
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, mostAnswer))
	switch {
	case answer.StatusCode == http.StatusGone:
		return ErrGone
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

// Sign is the header webhook-signature of an event under one secret.
func Sign(secret Secret, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/webhook"
)

// The example of the specification's reference libraries.
func TestSignatureIsTheStandards(t *testing.T) {
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := webhook.Sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "secret")
	made, err := webhook.LoadOrCreateSecret(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := webhook.LoadOrCreateSecret(path); err != nil || !bytes.Equal(again, made) {
		t.Errorf("the second start read %d bytes and %v", len(again), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	for _, text := range []string{"", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%"} {
		if _, err := webhook.ParseSecret(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if printed := fmt.Sprintf("%v %s %#v", made, made, made); strings.Contains(printed, strings.TrimPrefix(made.Text(), "whsec_")) {
		t.Errorf("printed %s", printed)
	}
}

func TestURLsOfEndpoints(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://shop.example/hooks?x=1": true, "http://127.0.0.1:8080": true,
		"ftp://x": false, "nonsense": false, "https://user:secret@x/": false, "https://x/#part": false, "http://": false, "http://:80/": false,
		"file:///etc/passwd": false, "https://x/" + strings.Repeat("a", 2048): false, "": false,
	} {
		if err := webhook.CheckURL(text); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// Over a real connection: what arrives verifies, a redirect is not followed, and a body without end does no harm.
func TestPost(t *testing.T) {
	old, secret := webhook.Secret(bytes.Repeat([]byte{1}, 32)), webhook.Secret(bytes.Repeat([]byte{2}, 32))
	now := time.Unix(1_700_000_000, 0)
	followed := false
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/ok":
			want := webhook.Sign(secret, "evt_7", "1700000000", body) + " " + webhook.Sign(old, "evt_7", "1700000000", body)
			if got := r.Header.Get("webhook-signature"); got != want || string(body) != "{}" || r.Header.Get("content-type") != "application/json" {
				t.Errorf("got %q signed %q, want %q", body, got, want)
			}
		case "/redirect":
			http.Redirect(w, r, server.URL+"/stranger", http.StatusTemporaryRedirect)
		case "/stranger":
			followed = true
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/endless":
			for range 1000 {
				if _, err := w.Write(bytes.Repeat([]byte{'x'}, 64<<10)); err != nil {
					return
				}
			}
			t.Error("all of an answer was read")
		}
	}))
	defer server.Close()
	transport := webhook.NewTransport()
	defer transport.CloseIdleConnections()
	post := func(url string) error {
		return webhook.Post(t.Context(), transport, url, webhook.Event{ID: "evt_7", Body: []byte("{}")}, now, secret, old)
	}
	for path, ok := range map[string]bool{"/ok": true, "/redirect": false, "/gone": false, "/endless": true} {
		if err := post(server.URL + path); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
	if followed {
		t.Error("a redirect was followed")
	}
	if err := post(server.URL + "/gone"); !errors.Is(err, webhook.ErrGone) {
		t.Errorf("gone: %v", err)
	}
	if err := post("http://127.0.0.1:1/secret-path"); err == nil || strings.Contains(err.Error(), "secret-path") {
		t.Errorf("nobody there: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := webhook.Post(ended, transport, server.URL+"/ok", webhook.Event{ID: "x"}, now, secret); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that left: %v", err)
	}
}

package web_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/rimlight/rimlight/web"
)

func console(t *testing.T) http.Handler {
	t.Helper()
	h, err := web.Console(web.ConsoleSettings{Router: "here", Version: "v1", Drills: true})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestConsole(t *testing.T) {
	for _, c := range []struct {
		rule, method, path string
		code               int
		contentType        string
	}{
		{"the page is at the folder", http.MethodGet, "/console/", 200, "text/html"},
		{"its script is a script", http.MethodGet, "/console/console.js", 200, "text/javascript"},
		{"it is told of its router", http.MethodGet, "/console/settings.json", 200, "application/json"},
		{"nothing else is there", http.MethodGet, "/console/other.js", 404, "text/plain"},
		{"no way leads out of the folder", http.MethodGet, "/console/../client.js", 404, "text/plain"},
		{"there is no listing", http.MethodGet, "/console/.", 404, "text/plain"},
		{"nothing can be sent to it", http.MethodPost, "/console/", 405, "text/plain"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got := get(console(t), c.method, c.path, nil)
			if got.StatusCode != c.code || !strings.HasPrefix(got.Header.Get("Content-Type"), c.contentType) {
				t.Errorf("got %d %s, want %d %s", got.StatusCode, got.Header.Get("Content-Type"), c.code, c.contentType)
			}
			policy := got.Header.Get("Content-Security-Policy")
			if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
				t.Errorf("got the policy %q", policy)
			}
		})
	}
}

func TestTheConsoleIsSentOnce(t *testing.T) {
	h := console(t)
	first := get(h, http.MethodGet, "/console/console.js", nil)
	again := get(h, http.MethodGet, "/console/console.js", func(r *http.Request) { r.Header.Set("If-None-Match", first.Header.Get("ETag")) })
	if again.StatusCode != http.StatusNotModified {
		t.Errorf("got %d, want 304", again.StatusCode)
	}
}

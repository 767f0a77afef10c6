package web_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/rimlight/rimlight/web"
)

func storefront(t *testing.T) http.Handler {
	t.Helper()
	h, err := web.Storefront(func() web.Platform {
		return web.Platform{
			Routers: []web.Router{{Name: "here", Addr: "127.0.0.1:8080"}, {Name: "there", Addr: "127.0.0.1:8081"}},
			Places:  []web.Place{{Name: "tokyo", RTTMillis: map[string]float64{"here": 1.5, "there": 200}}},
			Drills:  true,
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, method, target string, change func(*http.Request)) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whatever the page names, it can load, relative to /; and what a browser is told of it is strict.
func TestThePageAndAllThatItLoads(t *testing.T) {
	h := storefront(t)
	page := get(h, "GET", "http://localhost:8080/", nil)
	text := body(t, page)
	if page.StatusCode != http.StatusOK || page.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("the page: %s, %s", page.Status, page.Header.Get("Content-Type"))
	}
	names := regexp.MustCompile(`(?:src|href)="\.\./([^"]+)"`).FindAllStringSubmatch(text, -1)
	if len(names) < 3 {
		t.Fatalf("the page loads %v, too little to be it", names)
	}
	for _, name := range names {
		if res := get(h, "GET", "http://localhost:8080/"+name[1], nil); res.StatusCode != http.StatusOK || res.ContentLength == 0 {
			t.Errorf("%s: %s", name[1], res.Status)
		}
	}
	if regexp.MustCompile(`<style|style="|<script[^>]*>[^<]|\son[a-z]+="`).MatchString(text) {
		t.Error("the page has something inline, which its policy refuses")
	}
	policy := page.Header.Get("Content-Security-Policy")
	for _, part := range []string{
		"default-src 'none';", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none';", "require-trusted-types-for 'script'",
		"connect-src 'self' http://localhost:8080 http://localhost:8081;",
	} {
		if !strings.Contains(policy, part) {
			t.Errorf("the policy %q lacks %q", policy, part)
		}
	}
	if strings.Contains(policy, "unsafe") || page.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("too loose: %v", page.Header)
	}
}

func TestWhatIsServedAndWhatNot(t *testing.T) {
	h := storefront(t)
	for _, tt := range []struct {
		name, method, path string
		want               int
	}{
		{"the built SDK", "GET", "/client.js", http.StatusOK},
		{"a HEAD", "HEAD", "/client.js", http.StatusOK},
		{"no directory is listed", "GET", "/chunks/", http.StatusNotFound},
		{"nor without its slash", "GET", "/chunks", http.StatusNotFound},
		{"nothing beside what was built", "GET", "/../web.go", http.StatusNotFound},
		{"no source", "GET", "/storefront/main.ts", http.StatusNotFound},
		{"nothing is taken in", "POST", "/", http.StatusMethodNotAllowed},
	} {
		res := get(h, tt.method, "http://localhost:8080/", func(r *http.Request) { r.URL.Path = tt.path })
		if res.StatusCode != tt.want {
			t.Errorf("%s: %s, want %d", tt.name, res.Status, tt.want)
		}
	}
}

func TestWhatDidNotChangeIsNotSentAgain(t *testing.T) {
	h := storefront(t)
	first := get(h, "GET", "http://localhost:8080/client.js", nil)
	etag := first.Header.Get("ETag")
	if etag == "" || first.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("the first answer: %v", first.Header)
	}
	for given, want := range map[string]int{etag: http.StatusNotModified, `"another"`: http.StatusOK} {
		res := get(h, "GET", "http://localhost:8080/client.js", func(r *http.Request) { r.Header.Set("If-None-Match", given) })
		if res.StatusCode != want {
			t.Errorf("If-None-Match %s: %s, want %d", given, res.Status, want)
		}
	}
}

// The page reaches the routers by the host that it came from: a tunnel or another name for this machine. What is no host
// gets into neither the policy nor the answer.
func TestWhereThePageFindsTheRouters(t *testing.T) {
	h := storefront(t)
	for _, tt := range []struct {
		name, host string
		tls        bool
		want       string
	}{
		{"by address", "127.0.0.1:8080", false, "http://127.0.0.1:8081"},
		{"by name, over TLS", "shop.example:8080", true, "https://shop.example:8081"},
		{"by an IPv6 address", "[::1]:8080", false, "http://[::1]:8081"},
		{"no directive gets in", "evil; script-src *", false, "http://127.0.0.1:8081"},
		{"no host", "", false, "http://127.0.0.1:8081"},
	} {
		res := get(h, "GET", "http://localhost/platform.json", func(r *http.Request) {
			r.Host = tt.host
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
		})
		var told struct {
			Routers []struct{ Name, URL string }
			Places  []struct {
				Name  string
				RTTMs map[string]float64
			}
			Drills, Split bool
		}
		if err := json.NewDecoder(res.Body).Decode(&told); err != nil {
			t.Fatal(err)
		}
		if len(told.Routers) != 2 || told.Routers[1].URL != tt.want || !told.Drills || told.Split || told.Places[0].RTTMs["there"] != 200 {
			t.Errorf("%s: told %+v, want the second router at %s", tt.name, told, tt.want)
		}
		if policy := res.Header.Get("Content-Security-Policy"); !strings.Contains(policy, " "+tt.want+";") || strings.Contains(policy, "evil") {
			t.Errorf("%s: the policy is %q", tt.name, policy)
		}
		if res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: it may be kept: %v", tt.name, res.Header)
		}
	}
}

package process

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

//go:embed statuspage.html
var statusHTML string

var statusTemplate = template.Must(template.New("status").Funcs(template.FuncMap{
	"ms": func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 },
	"mode": func(m regionv1.RegionMode) string {
		return strings.ToLower(strings.TrimPrefix(m.String(), "REGION_MODE_"))
	},
	"percent": func(f float64) float64 { return 100 * f },
}).Parse(statusHTML))

// styleHash lets the page's own style through a policy that lets nothing else through.
var styleHash = func() string {
	_, rest, _ := strings.Cut(statusHTML, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	return base64.StdEncoding.EncodeToString(sum[:])
}()

// statusPage is what a browser sees at a router's root, or at /status where that is somebody else's: the regions as this router sees them, for people without a
// terminal. Programs use RouterAdminService.
func statusPage(name, version string, regions func(context.Context) ([]*routerv1.RegionStatus, error), log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Trim(r.URL.Path, "/") != "" {
			http.NotFound(w, r)
			return
		}
		list, err := regions(r.Context())
		var page bytes.Buffer
		if err == nil {
			err = statusTemplate.Execute(&page, map[string]any{"Router": name, "Version": version, "Regions": list, "Now": time.Now().UTC()})
		}
		if err != nil {
			log.Error("the status page could not be made", "error", err)
			http.Error(w, "The status page could not be made; the router's log says why.", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+styleHash+"'")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(page.Bytes()) // a browser that went away
	})
}

// operatorPages are the pages of an operator port; root, if there is one, has the others.
func operatorPages(status, console http.Handler, metrics *prometheus.Registry, root http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/console/", console)
	mux.Handle("/status", http.StripPrefix("/status", status))
	if metrics != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	}
	if root == nil {
		root = status
	}
	mux.Handle("/", root)
	return mux
}

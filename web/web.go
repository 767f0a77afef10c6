// Package web serves the storefront: the page at / of `rimlight dev`, on which a person buys in a browser; and the
// operators' console at /console of every operator port.
//
//	sdk/, element/, storefront/ (TypeScript) ── make web ──> dist/         (committed) ── embedded ──> Storefront
//	console/                                 ── make web ──> dist/console/ (committed) ── embedded ──> Console
//
// What is served is what was built: a file has an ETag, its policy lets nothing in from elsewhere, and there are no
// directory listings. /platform.json tells the page where the routers are. The page buys through the public API like any
// other viewer's, and the console calls what the CLI calls; nothing here knows of purchases or regions.
package web

import (
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

//go:embed all:dist
var dist embed.FS

// index is the page at /.
const index = "storefront/index.html"

// types are the files that are served: a system's own table may lack them or say something else.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
}

// Platform is what the page is told of the platform it sells for.
type Platform struct {
	// Routers are the routers that it may choose from.
	Routers []Router
	// Places are where a viewer may pretend to be; none: only where the browser is.
	Places []Place
	// Drills says that operators may break regions, Split that each region's node is a process of its own.
	Drills, Split bool
}

// Router is one point of presence.
type Router struct {
	Name string
	// Addr is where it listens. Only the port counts: the page reaches all routers by the host that it came from.
	Addr string
}

// Place is somewhere to watch from.
type Place struct {
	Name string
	// RTTMillis is the round trip from there to each router, by name.
	RTTMillis map[string]float64
}

type file struct {
	content     []byte
	contentType string
	etag        string
}

// Storefront is the handler of the page and all that it loads. It asks for the platform with every request for it.
func Storefront(platform func() Platform) (http.Handler, error) {
	files, err := load()
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told := platform().json(r)
		switch name := cmp.Or(strings.TrimPrefix(r.URL.Path, "/"), index); {
		case !admit(w, r, policy(told.Routers)):
		case name == "platform.json":
			tell(w, told)
		default:
			files.send(w, r, name)
		}
	}), nil
}

// admit sets what every answer has, and refuses what sends something.
func admit(w http.ResponseWriter, r *http.Request, policy string) bool {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	header.Set("Allow", "GET, HEAD")
	http.Error(w, "Only GET and HEAD.", http.StatusMethodNotAllowed)
	return false
}

// tell answers what holds now.
func tell(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // a browser that went away
}

// files are what was built, by name under dist.
type files map[string]file

// send answers with a file.
func (f files) send(w http.ResponseWriter, r *http.Request, name string) {
	found, ok := f[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	// Names are the same over versions, so a browser asks each time, and is told in a few bytes that nothing changed.
	w.Header().Set("Content-Type", found.contentType)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", found.etag)
	http.ServeContent(w, r, name, time.Time{}, strings.NewReader(string(found.content)))
}

// load reads what is embedded.
func load() (files, error) {
	files := files{}
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		contentType, served := types[path.Ext(name)]
		if err != nil || !served {
			return err
		}
		content, err := dist.ReadFile(name)
		sum := sha256.Sum256(content)
		files[strings.TrimPrefix(name, "dist/")] = file{content, contentType, `"` + hex.EncodeToString(sum[:16]) + `"`}
		return err
	})
	return files, err
}

// platformJSON is /platform.json.
type platformJSON struct {
	Routers []routerJSON `json:"routers"`
	Places  []placeJSON  `json:"places"`
	Drills  bool         `json:"drills"`
	Split   bool         `json:"split"`
}

type routerJSON struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

type placeJSON struct {
	Name      string             `json:"name"`
	RTTMillis map[string]float64 `json:"rttMs"`
}

func (p Platform) json(r *http.Request) platformJSON {
	told := platformJSON{Routers: []routerJSON{}, Places: []placeJSON{}, Drills: p.Drills, Split: p.Split}
	host, scheme := hostOf(r), "http"
	if r.TLS != nil {
		scheme = "https"
	}
	for _, router := range p.Routers {
		if _, port, err := net.SplitHostPort(router.Addr); err == nil {
			told.Routers = append(told.Routers, routerJSON{router.Name, (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}).String()})
		}
	}
	for _, place := range p.Places {
		told.Places = append(told.Places, placeJSON(place))
	}
	return told
}

// hostOf is the host that the page was asked from: 127.0.0.1, localhost or a tunnel's. It goes into a policy, so what is
// neither an address nor a name is not taken over.
func hostOf(r *http.Request) string {
	host := (&url.URL{Host: r.Host}).Hostname()
	name := func(c rune) bool {
		return c == '.' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	if net.ParseIP(host) == nil && strings.TrimFunc(host, name) != "" || host == "" {
		return "127.0.0.1"
	}
	return host
}

// policy lets the page load from its own origin, and call the routers.
func policy(routers []routerJSON) string {
	connect := "'self'"
	for _, r := range routers {
		connect += " " + r.URL
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " + connect +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
}

package web

import (
	"cmp"
	"net/http"
	"strings"
)

// consolePolicy lets the console load from and call its own origin, and make HTML through Lit alone.
const consolePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types lit-html"

// ConsoleSettings are what the console is told about the router that serves it.
type ConsoleSettings struct {
	// Router is its name, Version its program's.
	Router  string `json:"router"`
	Version string `json:"version"`
	// Drills says that operators may break regions.
	Drills bool `json:"drills"`
}

// Console is the handler of the operators' console, for everything under /console/. The page calls RouterAdminService and
// CatalogService at the origin that it came from, so it belongs on an operator port.
func Console(settings ConsoleSettings) (http.Handler, error) {
	files, err := load()
	if err != nil {
		return nil, err
	}
	return http.StripPrefix("/console/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch name := cmp.Or(r.URL.Path, "index.html"); {
		case !admit(w, r, consolePolicy):
		case name == "settings.json":
			tell(w, settings)
		default:
			files.send(w, r, "console/"+strings.TrimPrefix(name, "/"))
		}
	})), nil
}

package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// pure packages hold the platform's ideas. They are where its bugs would hide, and they are tested without a server.
var pure = []string{
	"router/arbiter", "router/slo", "region/decide", "region/lease", "verifier/saga", "verifier/ledger",
	"fulfillment/catalog", "fulfillment/stock", "fulfillment/orders", "internal/dropclock", "internal/cardnumber",
}

var services = []string{"router", "region", "verifier", "fulfillment"}

// importRule forbids importing something. Tests are exempt.
type importRule struct {
	name   string
	from   func(f file) bool
	to     func(f file, imported string) bool
	deep   bool // through this module's packages too
	reason string
}

var importRules = []importRule{
	{
		name: "pure packages stay pure",
		from: func(f file) bool { return slices.Contains(pure, f.dir()) },
		to: func(_ file, imported string) bool {
			return under(imported, "google.golang.org/grpc", "net", "os", "log", "gen")
		},
		deep:   true,
		reason: "an idea that knows no wire, file or log is judged by tables and oracles alone",
	},
	{
		name: "services meet only through generated clients",
		from: func(f file) bool { return under(f.path, services...) },
		to: func(f file, imported string) bool {
			return under(imported, services...) && !under(imported, serviceOf(f.path))
		},
		reason: "the whole platform runs in one process or in many, and nobody can tell from the code",
	},
	{
		name: "a contract does not know its engines",
		from: func(f file) bool { return slices.Contains([]string{"verifier/payment", "region/journal"}, f.dir()) },
		to: func(f file, imported string) bool {
			return under(imported, f.dir()) && imported != f.dir()
		},
		reason: "engines import the contract, so that a new one changes nothing that is there",
	},
	{
		name: "the cluster is for dev, tests and bench",
		from: func(f file) bool {
			return !under(f.path, "bench", "internal/cluster") && !strings.HasPrefix(f.path, "cmd/rimlight/dev")
		},
		to:     func(_ file, imported string) bool { return under(imported, "internal/cluster") },
		reason: "a real deployment starts one service per process, and shares no code path with the demo",
	},
	{
		name:   "the simulated network and world are for tests and bench",
		from:   func(f file) bool { return !under(f.path, "bench", "internal/simnet", "internal/world") },
		to:     func(_ file, imported string) bool { return under(imported, "internal/simnet", "internal/world") },
		reason: "what loses messages on purpose must not be reachable from a binary",
	},
	{
		name:   "the arbitration simulator and its rivals are for tests, bench and rimlight sim",
		from:   func(f file) bool { return !under(f.path, "bench", "router/sim") && f.path != "cmd/rimlight/sim.go" },
		to:     func(_ file, imported string) bool { return under(imported, "router/sim") },
		reason: "another balancer must not be reachable from a router that serves viewers",
	},
	{
		name:   "nobody imports cmd",
		from:   func(f file) bool { return !under(f.path, "cmd") },
		to:     func(_ file, imported string) bool { return under(imported, "cmd") },
		reason: "commands are the last layer: what two of them need is a package",
	},
	{
		name: "gRPC codes are known at the edges",
		from: func(f file) bool {
			return !strings.HasSuffix(f.path, "service.go") && !under(f.path, codeExempt...)
		},
		to: func(_ file, imported string) bool {
			return imported == "google.golang.org/grpc/codes" || imported == "google.golang.org/grpc/status"
		},
		reason: "one toStatus per service: a code chosen in the depth says nothing about the call",
	},
}

// codeExempt are the edges besides the services' own service.go files.
var codeExempt = []string{
	"router/forward",   // carries other servers' statuses
	"internal/rpc",     // the interceptors and the bridge
	"internal/simnet",  // stands in for grpc-go
	"internal/viewers", // a client: it counts what its calls ended in
	"internal/world",   // a client, too: it judges what its calls ended in
	"bench",            // a client: it measures what its calls ended in, and lets regions be full
	"cmd/rimlight",     // a client: its exit status follows from the code
}

func serviceOf(p string) string { return strings.SplitN(p, "/", 2)[0] }

// checkImports gives the violations of one rule.
func checkImports(rule importRule, files []file) []string {
	byPackage := map[string][]file{}
	for _, f := range files {
		if f.isGo() && !f.isTest() {
			byPackage[f.dir()] = append(byPackage[f.dir()], f)
		}
	}
	var found []string
	for _, f := range files {
		if !f.isGo() || f.isTest() || f.generated() || !rule.from(f) {
			continue
		}
		for _, chain := range forbidden(rule, f, byPackage, map[string]bool{f.dir(): true}) {
			found = append(found, fmt.Sprintf("%s imports %s: %s", f.path, chain, rule.reason))
		}
	}
	return found
}

// forbidden gives what a file must not import, with the way to it.
func forbidden(rule importRule, f file, byPackage map[string][]file, seen map[string]bool) []string {
	var chains []string
	for _, imported := range f.imports() {
		if rule.to(f, imported) {
			chains = append(chains, imported)
			continue
		}
		if !rule.deep || seen[imported] {
			continue
		}
		seen[imported] = true
		for _, g := range byPackage[imported] {
			for _, chain := range forbidden(rule, g, byPackage, seen) {
				chains = append(chains, imported+" -> "+chain)
			}
		}
	}
	return chains
}

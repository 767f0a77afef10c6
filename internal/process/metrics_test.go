package process_test

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/rimlight/rimlight/fulfillment/node"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/telemetry"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsPage = "../../docs/metrics.md"

const metricsHead = `# Metrics

What the processes tell Prometheus: routers at ` + "`/metrics`" + ` of their operator port, the others where ` + "`--metrics-listen`" + ` says.
` + "`go test ./internal/process -run Metrics -update`" + ` writes this page from the real registries.
Names follow Prometheus' conventions: base units, ` + "`_total`" + ` for counters. Every label has few values: regions, methods, states, reasons; never an id.

| metric | in | labels | what |
|---|---|---|---|
`

// described is a metric as its collector describes it, before anything was counted.
type described struct {
	name, help string
	labels     []string
}

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: (".*"), constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

func describe(t *testing.T, registry *prometheus.Registry) map[string]described {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); registry.Describe(descs) }()
	found := map[string]described{}
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Errorf("a description that the test cannot read: %v", d)
			continue
		}
		var help string
		if _, err := fmt.Sscanf(m[2], "%q", &help); err != nil {
			t.Errorf("the help of %s: %v", m[1], err)
		}
		var labels []string
		for _, label := range strings.Split(m[3], ",") {
			if name, _, ok := strings.Cut(label, "="); ok {
				labels = append(labels, name)
			}
		}
		for _, label := range strings.Split(m[4], ",") {
			if label != "" {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		found[m[1]] = described{m[1], help, labels}
	}
	return found
}

// registries are of one process of each role, as it starts.
func registries(t *testing.T) map[string]*prometheus.Registry {
	t.Helper()
	tokens := auth.NewTokens()
	sink := telemetry.Config{Sink: telemetry.NewFile(discard{})}
	all := map[string]*prometheus.Registry{}
	of := func(role string) process.Common {
		c := common(t, role, tokens)
		c.Traces, c.MetricsListen = sink, "127.0.0.1:0"
		all[role] = c.Metrics
		return c
	}
	fulfillment, err := process.StartFulfillment(t.Context(), process.Fulfillment{Common: of("fulfillment")})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, fulfillment.Run)
	res, err := http.Get("http://" + fulfillment.MetricsAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if page, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(page), "rimlight_fulfillment_working_nodes 0") {
		t.Errorf("Prometheus gets %s, %v", page, err)
	}
	verifier, err := process.StartVerifier(t.Context(), process.Verifier{Common: of("verifier"), Fulfillment: fulfillment.Addr(), Profile: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, verifier.Run)
	region, err := process.StartRegion(t.Context(), process.Region{
		Common: of("region"), Name: "europe-west3", Fulfillment: fulfillment.Addr(), Verifier: verifier.Addr(), Gossip: process.Gossip{Listen: "127.0.0.1:0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, region.Run)
	router, err := process.StartRouter(t.Context(), process.Router{
		Common: of("router"), Name: "r1", AdminListen: "127.0.0.1:0", Regions: map[string]string{"europe-west3": region.Addr()},
		Fulfillment: fulfillment.Addr(), Verifier: verifier.Addr(), Gossip: process.Gossip{Listen: "127.0.0.1:0", Seeds: []string{region.GossipAddr}},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, router.Run)
	run, err := process.StartNode(t.Context(), process.Node{Common: of("node"), Config: node.Config{SKUs: []string{"poster"}}, Fulfillment: fulfillment.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, run)
	return all
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// The metrics of every role keep to Prometheus' conventions, have no label that grows with the audience, and are in
// docs/metrics.md.
func TestMetricsKeepToTheConventions(t *testing.T) {
	known := map[string]described{}
	roles := map[string][]string{}
	for role, registry := range registries(t) {
		for name, d := range describe(t, registry) {
			known[name] = d
			roles[name] = append(roles[name], role)
			if !strings.HasPrefix(name, "rimlight_") && !strings.HasPrefix(name, "grpc_server_") {
				t.Errorf("%s of %s is not in the platform's name space", name, role)
			}
			lint(t, role, guess(d))
		}
		families, err := registry.Gather() // with their real types, as far as something was counted
		if err != nil {
			t.Fatal(err)
		}
		lint(t, role, families...)
	}
	for name, d := range known {
		for _, label := range d.labels {
			if !slices.Contains(boundedLabels, label) {
				t.Errorf("%s has the label %q: nobody has looked whether its values are few", name, label)
			}
		}
	}
	want := metricsHead
	for _, name := range slices.Sorted(maps.Keys(known)) {
		slices.Sort(roles[name])
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.Join(roles[name], ", "), cmp.Or(strings.Join(known[name].labels, ", "), "-"),
			strings.ReplaceAll(known[name].help, "|", `\|`))
	}
	if *update {
		if err := os.WriteFile(metricsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(metricsPage); err != nil || string(got) != want {
		t.Errorf("docs/metrics.md is not what the processes serve (%v): go test ./internal/process -run Metrics -update", err)
	}
}

// boundedLabels have as many values as there are regions, methods, states or reasons.
var boundedLabels = []string{
	"call", "cause", "code", "direction", "endpoint", "fate", "grpc_code", "grpc_method", "grpc_service", "grpc_type", "kind", "method", "reason",
	"regime", "region", "result", "router", "rule", "scope", "server", "state", "to", "verdict", "why",
}

// guess makes a family of a description, of which nobody says the type: what ends like a counter is one.
func guess(d described) *dto.MetricFamily {
	kind := dto.MetricType_GAUGE
	if strings.HasSuffix(d.name, "_total") {
		kind = dto.MetricType_COUNTER
	}
	m := &dto.Metric{}
	for _, label := range d.labels {
		m.Label = append(m.Label, &dto.LabelPair{Name: &label, Value: new(string)})
	}
	return &dto.MetricFamily{Name: &d.name, Help: &d.help, Type: &kind, Metric: []*dto.Metric{m}}
}

func lint(t *testing.T, role string, families ...*dto.MetricFamily) {
	t.Helper()
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s of %s: %s", p.Metric, role, p.Text)
	}
}

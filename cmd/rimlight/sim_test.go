package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func simulate(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = run(context.Background(), append([]string{"sim"}, args...), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestSimPrintsOneDocument(t *testing.T) {
	code, out, errs := simulate("--scenario", "S8", "--seeds", "1", "--policy", "nearest", "--capacity", "0.25", "-o", "json")
	if code != exitDone || errs != "" {
		t.Fatalf("exit %d, stderr %q: in a pipe it is silent", code, errs)
	}
	var doc struct {
		Rows []map[string]any `json:"rows"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Rows) != 1 || doc.Rows[0]["scenario"] != "S8" || doc.Rows[0]["policy"] != "nearest" {
		t.Fatalf("rows: %v", doc.Rows)
	}
	for _, field := range []string{"share_over_100ms", "share_over_200ms", "errors", "mean_ms", "p50_ms", "p99_ms", "p999_ms", "recovery_ms", "extra_attempts", "regret"} {
		if _, ok := doc.Rows[0][field].(float64); !ok {
			t.Errorf("no number %s in %v", field, doc.Rows[0])
		}
	}
}

func TestSimRefusesNonsense(t *testing.T) {
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	header := "provider,snapshot,from,to,min_ms,avg_ms,max_ms,mdev_ms\n"
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"an unknown scenario", []string{"--scenario", "S99"}, "S2-overload"},
		{"an unknown policy", []string{"--policy", "dice"}, "rimlight"},
		{"no seeds", []string{"--seeds", "0"}, "--seeds 0"},
		{"no capacity", []string{"--capacity", "0"}, "--capacity 0"},
		{"a matrix that is not there", []string{"--rtt", "/nowhere.csv"}, "/nowhere.csv"},
		{"a negative time", []string{"--rtt", file("m.csv", header+"x,y,a,a,0,0,0,0\nx,y,a,b,1,-1,1,0\n")}, "line 3"},
		{"a missing pair", []string{"--rtt", file("m.csv", header+"x,y,a,a,0,0,0,0\nx,y,a,b,1,1,1,0\n")}, "missing"},
		{"one region", []string{"--rtt", file("m.csv", header+"x,y,a,a,0,0,0,0\n")}, "at least two"},
		{"a scenario with an unknown region", []string{"--scenario", file("s.json", `{"id": "X", "parts": [{"name": "p", "load": 0.5, "seconds": 5,
			"crowds": [{"region": "atlantis", "from": 1, "to": 2, "factor": 2}]}]}`)}, "line 2"},
	} {
		code, _, errs := simulate(c.args...)
		if code != exitUsage || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %q, want exit 2 and %q", c.name, code, errs, c.want)
		}
	}
}

package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const passing = `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: needs a browser\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`
	for name, c := range map[string]struct {
		in   string
		ok   bool
		want []string
	}{
		"skips come last, with their reason": {
			passing, true,
			[]string{"ok  \tp\t0.1s\n", "1 tests passed, 0 failed, 1 skipped\n", "skipped p TestB: needs a browser\n"},
		},
		"a failing test shows its output": {
			`{"Action":"output","Package":"p","Test":"TestA","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`, false,
			[]string{"got 1, want 2\n", "FAIL\tp\t0.1s\n", "1 failed"},
		},
		"a package that does not build fails": {
			`{"ImportPath":"p","Action":"build-output","Output":"p.go:1: syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
`, false,
			[]string{"p.go:1: syntax error\n"},
		},
		"a process that died in a test shows what it said": {
			`{"Action":"output","Package":"p","Test":"TestA","Output":"panic: deadlock\n"}
{"Action":"fail","Package":"p"}
`, false,
			[]string{"panic: deadlock\n"},
		},
		"words that are not JSON pass through": {"go: no such tool\n", true, []string{"go: no such tool\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			ok, err := summarize(strings.NewReader(c.in), &out)
			if err != nil || ok != c.ok {
				t.Errorf("got %v, %v", ok, err)
			}
			rest := out.String()
			for _, want := range c.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q is not, or not in its place, in\n%s", want, out.String())
				}
				rest = after
			}
		})
	}
}

package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
)

// exec runs the program with its own configuration directory.
func exec(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestUsageMistakesExit2AndSayWhat(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{}, "expected one of"},
		{[]string{"frobnicate"}, "frobnicate"},
		{[]string{"buy", "--router", "8080"}, "--router"},
		{[]string{"buy", "--session", "xyz"}, "--session"},
		{[]string{"regions", "-o", "xml"}, "must be one of"},
		{[]string{"dev", "--viewers", "-1"}, "--viewers"},
		{[]string{"dev", "--rtt", "/does/not/exist"}, "--rtt"},
		{[]string{"drops", "create", "--channel", "a", "--title", "t", "--units", "1", "--price", "1.234"}, "decimal places"},
		{[]string{"explain"}, "<id>"},
		{[]string{"router"}, "--region"},
		{[]string{"purchase", "get", strings.Repeat("0", 32)}, "no receipt"},
	} {
		code, _, stderr := exec(t, c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit %d, %q; want %d and %q", c.args, code, stderr, exitUsage, c.says)
		}
	}
}

func TestHelpAndVersionExit0(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"buy", "--help"}, {"--version"}} {
		if code, stdout, stderr := exec(t, args...); code != exitDone || stdout == "" {
			t.Errorf("%v: exit %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

// Nobody listens: exit 3 and a hint, for unary calls and for streams.
func TestUnreachableExits3(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + lis.Addr().String()
	if err := lis.Close(); err != nil { // now nobody does
		t.Fatal(err)
	}
	for _, args := range [][]string{{"regions"}, {"drops", "watch"}, {"audit"}, {"buy"}} {
		code, _, stderr := exec(t, append(args, "--router", url, "--timeout", "2s")...)
		if code != exitUnreachable || !strings.Contains(stderr, "rimlight dev") {
			t.Errorf("%v: exit %d, %q", args, code, stderr)
		}
	}
}

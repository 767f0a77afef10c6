package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
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
		{[]string{"buy", "--drop", "poster"}, "UUID"},
		{[]string{"regions", "-o", "xml"}, "must be one of"},
		{[]string{"dev", "--viewers", "-1"}, "--viewers"},
		{[]string{"dev", "--rtt", "/does/not/exist"}, "--rtt"},
		{[]string{"dev", "--regions", "atlantis"}, "atlantis"},
		{[]string{"dev", "--routers", "us-west1,us-west1"}, "named twice"},
		{[]string{"dev", "--listen", "nowhere"}, "nowhere"},
		{[]string{"dev", "--listen", "127.0.0.1:65534"}, "3 ports"},
		{[]string{"regions", "--tokens", "/does/not/exist"}, "--tokens"},
		{[]string{"drops", "create", "--channel", "a", "--title", "t", "--units", "1", "--price", "1.234"}, "decimal places"},
		{[]string{"explain"}, "<id>"},
		{[]string{"what-if", "r1/x"}, "--drain"},
		{[]string{"what-if", "r1/x", "--slow", "a=fast"}, "--slow"},
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
	for _, args := range [][]string{{"--help"}, {"help"}, {"buy", "--help"}, {"help", "buy"}, {"--version"}} {
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

// What surrounds a status on its way is for logs; a user sees the server's sentence, and progress only at a terminal.
func TestARefusalIsTheServersSentence(t *testing.T) {
	var out bytes.Buffer
	err := fmt.Errorf("RedeemOffer: %w", rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_SOLD_OUT, "every unit is sold"))
	if code := report(&out, err); code != exitRefused || out.String() != "rimlight: refused: SOLD_OUT: every unit is sold\n" {
		t.Errorf("exit %d, %q", code, out.String())
	}
	out.Reset()
	if code := report(&out, fmt.Errorf("WatchPurchase: %w", context.DeadlineExceeded)); code != exitUnreachable || strings.Contains(out.String(), "running there") {
		t.Errorf("exit %d, %q", code, out.String())
	}
	out.Reset()
	if code := report(&out, status.FromContextError(context.DeadlineExceeded).Err()); code != exitUnreachable || !strings.Contains(out.String(), "--timeout") {
		t.Errorf("exit %d, %q", code, out.String())
	}
}

func TestProgressIsSilentInAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []io.Writer{w, new(bytes.Buffer)} {
		(&streams{err: to}).progress("waiting")
		if b, ok := to.(*bytes.Buffer); ok && b.Len() > 0 {
			t.Errorf("printed %q", b)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || len(text) > 0 {
		t.Errorf("printed %q, %v", text, err)
	}
}

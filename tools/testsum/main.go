// Testsum reads `go test -json` and prints what people want of it: a line per package, the output of what failed, and
// at the end every skipped test by name with its reason, so that no machine skips anything silently.
//
//	go test -json ./... | go run ./tools/testsum
//
// It exits with 1 when something failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	ok, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// event is a line of `go test -json`, see `go doc test2json`; build lines come with an ImportPath instead.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
}

type summary struct {
	out     io.Writer
	output  map[[2]string][]string // by package and test, as long as it may be wanted
	passed  int
	failed  int
	skipped []string
	broken  bool // something failed that is not a test
}

func summarize(in io.Reader, out io.Writer) (ok bool, err error) {
	s := &summary{out: out, output: map[[2]string][]string{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprint(out, string(line)) // go's own words, outside of any test
			} else {
				s.add(e)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, err
		}
	}
	fmt.Fprintf(out, "\n%d tests passed, %d failed, %d skipped\n", s.passed, s.failed, len(s.skipped))
	for _, line := range s.skipped {
		fmt.Fprintln(out, "  skipped "+line)
	}
	return s.failed == 0 && !s.broken, nil
}

func (s *summary) add(e event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "build-fail":
		s.broken = true
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageDone(e)
		} else {
			s.testDone(e)
		}
		delete(s.output, key)
	}
}

func (s *summary) testDone(e event) {
	text := strings.Join(s.output[[2]string{e.Package, e.Test}], "")
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		fmt.Fprint(s.out, text)
	case "skip":
		s.skipped = append(s.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(text)))
	}
}

// packageDone prints the line that `go test` prints last, and everything of a package that failed outside its tests.
func (s *summary) packageDone(e event) {
	lines := s.output[[2]string{e.Package, ""}]
	if e.Action == "fail" {
		s.broken = true
		fmt.Fprint(s.out, strings.Join(lines, ""))
		// What ran when the process died has no end of its own.
		for key, lines := range s.output {
			if key[0] == e.Package && key[1] != "" {
				fmt.Fprint(s.out, strings.Join(lines, ""))
				delete(s.output, key)
			}
		}
		return
	}
	if n := len(lines); n > 0 && !strings.Contains(lines[n-1], "[no test files]") {
		fmt.Fprint(s.out, lines[n-1])
	}
}

// reason is what a test said before it was skipped, without the frame that go puts around it.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok := strings.Cut(text, ": "); ok {
				line = text
			}
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

package main

import (
	"encoding/json"
	"os"
	osexec "os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// commandLines finds the indented commands of a program in a Markdown text, each with the lines that continue it.
func commandLines(markdown, program string) []string {
	var commands []string
	lines := strings.Split(markdown, "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "    "+program+" ") {
			continue
		}
		command := line
		for _, next := range lines[i+1:] {
			if !strings.HasPrefix(next, "      ") {
				break
			}
			command += "\n" + next
		}
		commands = append(commands, strings.TrimSpace(command))
	}
	return commands
}

// What the README says about curl is true.
func TestTheReadmesCurlExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a platform for some seconds; run without -short")
	}
	if _, err := osexec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := commandLines(string(readme), "curl")
	if len(examples) < 4 {
		t.Fatalf("found %d examples: %q", len(examples), examples)
	}
	p := startPlatform(t, t.TempDir(), []string{"europe-west3"}, []string{"europe-west1"}, false)
	drop := p.createDrop(t, 100, 30*time.Minute)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	p.buy(t, exitDone, "--drop", drop.GetDropId()) // then it is open

	refused := regexp.MustCompile(`# refused: ([A-Z_]+)`)
	for _, example := range examples {
		command := strings.NewReplacer("127.0.0.1:8080", p.Routers[0], "DROP", drop.GetDropId()).Replace(example)
		out, err := osexec.CommandContext(t.Context(), "bash", "-c", command).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", example, err, out)
			continue
		}
		var answer struct {
			Code     string
			Details  []struct{ Debug struct{ Reason string } }
			Keys     []any
			Accepted *struct{ Receipt, PurchaseID string }
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			t.Errorf("%s: %v: %s", example, err, out)
			continue
		}
		if want := refused.FindStringSubmatch(example); want != nil {
			if len(answer.Details) == 0 || answer.Details[0].Debug.Reason != want[1] {
				t.Errorf("%s: got %s, want to be refused with %s", example, out, want[1])
			}
		} else if answer.Code != "" || answer.Keys == nil && (answer.Accepted == nil || answer.Accepted.Receipt == "") {
			t.Errorf("%s: got %s", example, out)
		}
	}
}

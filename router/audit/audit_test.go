package audit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rimlight/rimlight/router/audit"
)

func open(t *testing.T, path string) *audit.Log {
	t.Helper()
	l, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entry(id string) audit.Entry {
	return audit.Entry{ID: id, Role: "sre", Method: "SetRegionMode", Target: "tokyo", Before: "serving", Asked: "drained"}
}

func TestEntriesSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "router", "audit.jsonl")
	l := open(t, path)
	for _, id := range []string{"1", "2", "3"} {
		if err := l.Begin(entry(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.End(entry("1"), "drained", ""); err != nil {
		t.Fatal(err)
	}
	if err := l.End(entry("2"), "", "LAST_REGION"); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	defer l.Close()
	got := l.List()
	if len(got) != 3 || got[0].ID != "3" || got[0].After+got[0].Problem != "" || got[1].Problem != "LAST_REGION" || got[2].After != "drained" {
		t.Errorf("got %+v", got)
	}
}

func TestATornLineCostsItselfAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	if err := l.Begin(entry("1")); err != nil {
		t.Fatal(err)
	}
	if err := l.Begin(entry("2")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	if err := l.Begin(entry("3")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	defer l.Close()
	if got := l.List(); len(got) != 2 || got[0].ID != "3" || got[1].ID != "1" {
		t.Errorf("got %+v, want 3 and 1", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := open(t, "")
	for i := range 1100 {
		if err := l.Begin(entry(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.List(); len(got) != 1000 || got[0].ID != "1099" {
		t.Errorf("%d entries are kept, the newest is %s", len(got), got[0].ID)
	}
}

func TestWhatCannotBeWrittenDownIsRefused(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Begin(entry("1")); err == nil {
		t.Error("an entry was taken that is on no disk")
	}
	if len(l.List()) != 0 {
		t.Error("it is listed")
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A drop runs, the verifier is backed up, more is sold and delivered, and the verifier loses its disk. From the old
// backup it heals: nodes forward what is missing, no payment is made twice, every receipt ends, the books balance.
func TestAnOldBackupOfTheVerifierHeals(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes a while; run without -short")
	}
	p := startApart(t, nil)
	drop := p.createDrop(t, 3000, 30*time.Minute)
	audience, leave := p.audience(t, 1200)
	p.goOn(t, audience, "at all")
	verifier := p.members["verifier"][0]
	data := verifier.args[1]
	verb := func(args ...string) (string, bool) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), args, &out, &errOut)
		return errOut.String(), code == exitDone
	}
	dir := t.TempDir()
	backup := filepath.Join(dir, "verifier.backup")
	for _, service := range []string{"verifier", "fulfillment"} {
		if said, ok := verb("backup", service, "--data", data, "--to", filepath.Join(dir, service+".backup")); !ok {
			t.Fatalf("backing %s up under load: %s", service, said)
		}
	}
	p.goOn(t, audience, "after the backup")
	ended := func() int { return len(audience.Stats().Outcomes) }
	p.until(t, "purchases end after the backup", func() bool { return ended() > 0 })
	p.goOn(t, audience, "after the backup")

	verifier.signal(t, syscall.SIGKILL)
	_ = verifier.cmd.Wait()
	if said, ok := verb("restore", "verifier", "--data", data, "--from", backup); ok {
		t.Errorf("a store was replaced: %s", said)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(data, "verifier.db"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	if said, ok := verb("restore", "verifier", "--data", data, "--from", backup); !ok {
		t.Fatalf("restoring: %s", said)
	}
	verifier.start(t)
	p.goOn(t, audience, "with the restored verifier")
	p.allIsWell(t, drop, audience, leave)

	if said, ok := verb("restore", "fulfillment", "--data", dir, "--from", filepath.Join(dir, "fulfillment.backup")); ok || !strings.Contains(said, "would lend and sell units again") {
		t.Errorf("fulfillment from an old copy: %s", said)
	}
}

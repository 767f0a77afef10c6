package main

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A drop runs, verifier and fulfillment are backed up, more is sold and delivered, and one after the other they lose their
// disks. From the old backups they heal while viewers go on buying: nodes forward what is missing and report what they
// hold, no payment is made and no unit is sold twice, every receipt ends, the books balance.
func TestOldBackupsHeal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes a while; run without -short")
	}
	p := startApart(t, nil)
	drop := p.createDrop(t, 3000, 30*time.Minute)
	audience, leave := p.audience(t, 1200)
	p.goOn(t, audience, "at all")
	data := p.members["verifier"][0].args[1]
	verb := func(args ...string) (string, bool) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), args, &out, &errOut)
		return errOut.String(), code == exitDone
	}
	dir := t.TempDir()
	for _, service := range []string{"verifier", "fulfillment"} {
		if said, ok := verb("backup", service, "--data", data, "--to", filepath.Join(dir, service+".backup")); !ok {
			t.Fatalf("backing %s up under load: %s", service, said)
		}
	}
	p.goOn(t, audience, "after the backup")
	ended := func() int { return len(audience.Stats().Outcomes) }
	p.until(t, "purchases end after the backup", func() bool { return ended() > 0 })
	p.goOn(t, audience, "after the backup")

	for _, service := range []string{"verifier", "fulfillment"} {
		backup, m := filepath.Join(dir, service+".backup"), p.members[service][0]
		m.signal(t, syscall.SIGKILL)
		_ = m.cmd.Wait()
		if said, ok := verb("restore", service, "--data", data, "--from", backup); ok {
			t.Errorf("a store was replaced: %s", said)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(filepath.Join(data, service+".db"+suffix)); err != nil {
				t.Fatal(err)
			}
		}
		if said, ok := verb("restore", service, "--data", data, "--from", backup); !ok {
			t.Fatalf("restoring: %s", said)
		}
		p.goOn(t, audience, "without "+service)
		m.start(t)
		p.goOn(t, audience, "with the restored "+service)
		p.everyReceiptSettles(t, drop, audience.Stats().Receipts)
	}
	p.goOn(t, audience, "after both")
	p.allIsWell(t, drop, audience, leave)
}

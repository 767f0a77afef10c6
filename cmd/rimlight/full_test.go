package main

import (
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"syscall"
	"testing"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/internal/viewers"
)

// smallDisk mounts a file system of 16 MiB in memory; empty: this machine does not let us.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := osexec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Logf("NOT TESTED: a full disk, which needs the right to mount one: %v: %s", err, out)
		return ""
	}
	t.Cleanup(func() {
		if out, err := osexec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting: %v: %s", err, out)
		}
	})
	return dir
}

// fillDisk takes what is left of a disk, and gives it back.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if cerr := f.Close(); cerr != nil || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v, %v", err, cerr)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// fullDisk fills the disk of a region's journal under load and frees it: viewers do not see it, what the node sold reaches
// the verifier meanwhile, and it accepts again.
func (p *apart) fullDisk(t *testing.T, m *member, disk string, a *viewers.Audience) {
	t.Helper()
	conn, err := rpc.Dial(m.addr, rpc.DialConfig{Token: p.Tokens[auth.SRE]})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	probe := func() *regionv1.ProbeResponse {
		t.Helper()
		answer, err := regionv1.NewRegionServiceClient(conn).Probe(t.Context(), &regionv1.ProbeRequest{})
		if err != nil {
			t.Fatalf("%s does not go on: %v", m.name, err)
		}
		return answer
	}
	before := brokenCalls(a.Stats())
	free := fillDisk(t, disk)
	p.until(t, m.name+" says that its disk is full", func() bool { return probe().GetJournalFull() })
	p.goOn(t, a, "while a disk is full")
	p.until(t, m.name+" forwards what it sold", func() bool { return probe().GetJournalLag() == 0 })
	free()
	p.until(t, m.name+" finds room", func() bool { return !probe().GetJournalFull() })
	sold := receiptsOf(t, a, m.name)
	p.until(t, m.name+" accepts again", func() bool { return receiptsOf(t, a, m.name) > sold })
	for call, n := range brokenCalls(a.Stats()) {
		if n > before[call] {
			t.Errorf("the disk of %s was full, and %d calls ended in %s", m.name, n-before[call], call)
		}
	}
}

// receiptsOf counts the receipts that viewers have of a region.
func receiptsOf(t *testing.T, a *viewers.Audience, region string) int {
	t.Helper()
	n := 0
	for _, text := range a.Stats().Receipts {
		var r offerv1.Receipt
		if err := token.DecodeTrusted(text, &r); err != nil {
			t.Fatal(err)
		}
		if r.GetRegion() == region {
			n++
		}
	}
	return n
}

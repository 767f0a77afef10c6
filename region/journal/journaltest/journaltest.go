// Package journaltest is the conformance suite of journal.Journal: every engine passes it, and so does what wraps one.
//
// It checks what a node relies on: order, durability over a reopening, refusal when the queue is full, and that a failed
// commit is for ever. What only one engine has (files, locks, checksums) is tested beside that engine.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rimlight/rimlight/region/journal"
)

// Engine opens a journal on one place, again and again: each call is a process life after the one before ended.
type Engine func(t *testing.T, fault func(journal.Stage) error, queueRecords int) journal.Journal

// Run runs the suite. make gives a fresh, empty place for every test.
func Run(t *testing.T, makeEngine func(t *testing.T) Engine) {
	for name, test := range map[string]func(*testing.T, Engine){
		"sequences follow the calls without gaps":           testOrder,
		"of concurrent appends none is lost":                testConcurrent,
		"what waits for a commit shares the next":           testGroupCommit,
		"what was acknowledged is there after a restart":    testReopen,
		"reading goes on after a sequence":                  testReadAfter,
		"a full queue refuses and takes nothing":            testFull,
		"a failed commit breaks the journal for ever":       testBroken,
		"a full disk loses what waits, until there is room": testNoSpace,
		"a power cut before the commit loses the records":   func(t *testing.T, e Engine) { testPowerCut(t, e, journal.BeforeCommit, 1) },
		"a power cut after the commit keeps the records":    func(t *testing.T, e Engine) { testPowerCut(t, e, journal.AfterCommit, 2) },
		"closing commits what is queued":                    testClose,
		"snapshots follow each other over a restart":        testSnapshots,
		"a snapshot gives up those that reach further":      testSnapshotAgain,
		"a snapshot without its records is refused":         testSnapshotRefused,
		"a snapshot without room costs nothing else":        testSnapshotNoSpace,
		"a snapshot's failed commit breaks the journal":     testSnapshotBroken,
		"a power cut before a snapshot's commit loses it":   func(t *testing.T, e Engine) { testSnapshotPowerCut(t, e, journal.BeforeCommit, "[0-1 a]") },
		"a power cut after a snapshot's commit keeps it":    func(t *testing.T, e Engine) { testSnapshotPowerCut(t, e, journal.AfterCommit, "[0-1 a 1-2 b]") },
	} {
		t.Run(name, func(t *testing.T) { test(t, makeEngine(t)) })
	}
}

func read(t *testing.T, j journal.Journal) (payloads []string) {
	t.Helper()
	want := int64(1)
	err := journal.Replay(context.Background(), j, 0, func(r journal.Record) error {
		if r.Sequence != want {
			t.Errorf("got sequence %d, want %d", r.Sequence, want)
		}
		want++
		payloads = append(payloads, string(r.Payload))
		return nil
	})
	if err != nil {
		t.Fatalf("replaying: %v", err)
	}
	return payloads
}

func mustAppend(t *testing.T, j journal.Journal, payloads ...string) int64 {
	t.Helper()
	var raw [][]byte
	for _, p := range payloads {
		raw = append(raw, []byte(p))
	}
	first, err := journal.Append(context.Background(), j, raw...)
	if err != nil {
		t.Fatalf("appending: %v", err)
	}
	return first
}

func mustClose(t *testing.T, j journal.Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got records %q, want %q", got, want)
	}
}

func testOrder(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	defer mustClose(t, j)
	if first := mustAppend(t, j, "a", "b"); first != 1 {
		t.Errorf("the first record has sequence %d", first)
	}
	if first := mustAppend(t, j, "c"); first != 3 {
		t.Errorf("the third record has sequence %d", first)
	}
	mustAppend(t, j)     // nothing
	mustAppend(t, j, "") // an empty record is one
	want(t, read(t, j), "a", "b", "c", "")
}

func testConcurrent(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	const writers, each = 50, 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			last := int64(0)
			for i := range each {
				first, err := journal.Append(context.Background(), j, fmt.Appendf(nil, "%d/%d", w, i))
				if err != nil || first <= last {
					t.Errorf("appending after %d: got %d, %v", last, first, err)
				}
				last = first
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, p := range read(t, j) {
		seen[p] = true
	}
	if len(seen) != writers*each {
		t.Errorf("got %d different records, want %d", len(seen), writers*each)
	}
	mustClose(t, j)
}

// testGroupCommit holds the first commit until more is queued: all of that must share the second.
func testGroupCommit(t *testing.T, open Engine) {
	commits := 0 // counted by the one writer goroutine
	begun, release := make(chan struct{}), make(chan struct{})
	j := open(t, func(s journal.Stage) error {
		if s == journal.BeforeCommit {
			if commits++; commits == 1 {
				close(begun)
				<-release
			}
		}
		return nil
	}, 0)
	const queued = 50
	enqueue := func(payload string) {
		if _, err := j.Enqueue([]byte(payload)); err != nil {
			t.Error(err)
		}
	}
	enqueue("first")
	<-begun
	for i := range queued {
		enqueue(fmt.Sprint(i))
	}
	close(release)
	mustClose(t, j) // commits what is queued
	if commits != 2 {
		t.Errorf("%d commits for 1 record and %d that came meanwhile, want 2", commits, queued)
	}
}

func testReopen(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	mustAppend(t, j, "a", "b")
	mustClose(t, j)
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), "a", "b")
	if first := mustAppend(t, j, "c"); first != 3 {
		t.Errorf("after a restart the next sequence is %d, want 3", first)
	}
}

func testReadAfter(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	defer mustClose(t, j)
	mustAppend(t, j, "a", "b", "c", "d")
	for name, c := range map[string]struct {
		after int64
		limit int
		want  string
	}{
		"from the beginning": {0, 2, "[a b]"},
		"from the middle":    {2, 10, "[c d]"},
		"after the last":     {4, 10, "[]"},
		"far beyond":         {99, 10, "[]"},
	} {
		records, err := j.ReadAfter(context.Background(), c.after, c.limit)
		got := make([]string, 0, len(records))
		for _, r := range records {
			got = append(got, string(r.Payload))
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, c.want)
		}
	}
}

func testFull(t *testing.T, open Engine) {
	stuck := make(chan struct{})
	j := open(t, func(s journal.Stage) error {
		if s == journal.BeforeCommit {
			<-stuck
		}
		return nil
	}, 3)
	var commits []*journal.Commit
	for {
		c, err := j.Enqueue([]byte("x"))
		if err != nil {
			if !errors.Is(err, journal.ErrFull) {
				t.Errorf("got %v, want ErrFull", err)
			}
			break
		}
		if commits = append(commits, c); len(commits) > 100 {
			t.Fatal("the queue has no end")
		}
	}
	close(stuck)
	for _, c := range commits {
		<-c.Done()
	}
	mustAppend(t, j, "y") // it takes again
	if got := len(read(t, j)); got != len(commits)+1 {
		t.Errorf("got %d records, want %d", got, len(commits)+1)
	}
	mustClose(t, j)
}

func testBroken(t *testing.T, open Engine) {
	fail := false
	j := open(t, func(s journal.Stage) error {
		if fail && s == journal.BeforeCommit {
			fail = false // the next fsync would say yes, as Linux does
			return errors.New("input/output error")
		}
		return nil
	}, 0)
	mustAppend(t, j, "a")
	fail = true
	for range 3 {
		if _, err := journal.Append(context.Background(), j, []byte("b")); !errors.Is(err, journal.ErrBroken) {
			t.Errorf("got %v, want ErrBroken", err)
		}
	}
	want(t, read(t, j), "a") // it still reads
	mustClose(t, j)
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), "a")
}

func testNoSpace(t *testing.T, open Engine) {
	var full atomic.Bool
	asked, goOn := make(chan struct{}), make(chan struct{})
	j := open(t, func(s journal.Stage) error {
		switch {
		case !full.Load() || s == journal.AfterCommit:
			return nil
		case s == journal.BeforeCommit:
			close(asked)
			<-goOn
		}
		return journal.ErrNoSpace
	}, 0)
	mustAppend(t, j, "a")
	full.Store(true)
	first, err := j.Enqueue([]byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	second, err := j.Enqueue([]byte("c")) // may build on b
	if err != nil {
		t.Fatal(err)
	}
	close(goOn)
	for _, c := range []*journal.Commit{first, second} {
		<-c.Done()
		if _, err := c.Result(); !errors.Is(err, journal.ErrNoSpace) || errors.Is(err, journal.ErrBroken) {
			t.Errorf("got %v, want ErrNoSpace", err)
		}
	}
	refused := func() {
		t.Helper()
		if _, err := j.Enqueue([]byte("d")); !errors.Is(err, journal.ErrNoSpace) {
			t.Errorf("got %v, want ErrNoSpace", err)
		}
	}
	refused()
	if err := j.Resume(t.Context()); !errors.Is(err, journal.ErrNoSpace) {
		t.Errorf("resuming on a full disk: got %v, want ErrNoSpace", err)
	}
	full.Store(false)
	refused() // whoever queued has to hear first
	for range 2 {
		if err := j.Resume(t.Context()); err != nil {
			t.Errorf("resuming: %v", err)
		}
	}
	if n := mustAppend(t, j, "e"); n != 2 {
		t.Errorf("the next record is number %d, want 2", n)
	}
	want(t, read(t, j), "a", "e")
	mustClose(t, j)
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), "a", "e")
}

func testPowerCut(t *testing.T, open Engine, at journal.Stage, survive int) {
	cut := false
	j := open(t, func(s journal.Stage) error {
		if cut && s == at {
			return journal.ErrClosed
		}
		return nil
	}, 0)
	mustAppend(t, j, "a")
	cut = true
	if _, err := journal.Append(context.Background(), j, []byte("b")); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("got %v, want ErrClosed: nobody may hear of it", err)
	}
	if _, err := j.Enqueue([]byte("c")); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after the power cut: got %v, want ErrClosed", err)
	}
	mustClose(t, j)
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), []string{"a", "b"}[:survive]...)
}

func testClose(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	c, err := j.Enqueue([]byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, j)
	<-c.Done()
	if first, err := c.Result(); first != 1 || err != nil {
		t.Errorf("the queued record: got %d, %v", first, err)
	}
	if _, err := j.Enqueue([]byte("b")); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), "a")
}

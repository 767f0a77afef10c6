package journaltest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/rimlight/rimlight/region/journal"
)

func save(j journal.Journal, after, through int64, payload string) error {
	return j.SaveSnapshot(context.Background(), journal.Snapshot{After: after, Through: through, Payload: []byte(payload)})
}

func mustSave(t *testing.T, j journal.Journal, after, through int64, payload string) {
	t.Helper()
	if err := save(j, after, through, payload); err != nil {
		t.Fatalf("saving a snapshot: %v", err)
	}
}

func wantSnapshots(t *testing.T, j journal.Journal, want string) {
	t.Helper()
	var got []string
	err := j.ReadSnapshots(context.Background(), func(s journal.Snapshot) error {
		got = append(got, fmt.Sprintf("%d-%d %s", s.After, s.Through, s.Payload))
		return nil
	})
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("got snapshots %v, %v, want %s", got, err, want)
	}
}

func testSnapshots(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	wantSnapshots(t, j, "[]")
	mustAppend(t, j, "x", "y", "z")
	mustSave(t, j, 0, 1, "a")
	mustSave(t, j, 1, 3, "b")
	wantSnapshots(t, j, "[0-1 a 1-3 b]")
	mustClose(t, j)
	j = open(t, nil, 0)
	defer mustClose(t, j)
	mustAppend(t, j, "last")
	mustSave(t, j, 3, 4, "c")
	wantSnapshots(t, j, "[0-1 a 1-3 b 3-4 c]")
	want(t, read(t, j), "x", "y", "z", "last")
	if err := j.CheckStructure(context.Background()); err != nil {
		t.Error(err)
	}
	if err := journal.Scrub(context.Background(), j, 4, 0); err != nil {
		t.Error(err)
	}
	wrong := errors.New("enough")
	if err := j.ReadSnapshots(context.Background(), func(journal.Snapshot) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("got %v, want the reader's own error", err)
	}
}

func testSnapshotAgain(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	defer mustClose(t, j)
	mustAppend(t, j, "x", "y", "z")
	mustSave(t, j, 0, 1, "a")
	mustSave(t, j, 1, 2, "b")
	mustSave(t, j, 2, 3, "c")
	mustSave(t, j, 1, 3, "d")
	wantSnapshots(t, j, "[0-1 a 1-3 d]")
	mustSave(t, j, 0, 2, "e")
	wantSnapshots(t, j, "[0-2 e]")
}

func testSnapshotRefused(t *testing.T, open Engine) {
	j := open(t, nil, 0)
	defer mustClose(t, j)
	mustAppend(t, j, "x", "y")
	for _, s := range [][2]int64{{0, 3}, {2, 2}, {2, 1}} {
		if err := save(j, s[0], s[1], "a"); !errors.Is(err, journal.ErrSnapshot) {
			t.Errorf("of records after %d up to %d: got %v, want ErrSnapshot", s[0], s[1], err)
		}
	}
	mustSave(t, j, 1, 2, "b") // nothing stands for record 1
	if err := j.ReadSnapshots(context.Background(), func(journal.Snapshot) error { return nil }); !errors.Is(err, journal.ErrSnapshot) {
		t.Errorf("got %v, want ErrSnapshot", err)
	}
	mustAppend(t, j, "z")
	want(t, read(t, j), "x", "y", "z")
}

func testSnapshotNoSpace(t *testing.T, open Engine) {
	var full atomic.Bool
	j := open(t, func(s journal.Stage) error {
		if full.Load() && s == journal.BeforeCommit {
			return journal.ErrNoSpace
		}
		return nil
	}, 0)
	defer mustClose(t, j)
	mustAppend(t, j, "x")
	full.Store(true)
	if err := save(j, 0, 1, "a"); !errors.Is(err, journal.ErrNoSpace) || errors.Is(err, journal.ErrBroken) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	full.Store(false)
	mustAppend(t, j, "y")
	mustSave(t, j, 0, 2, "b")
	wantSnapshots(t, j, "[0-2 b]")
}

func testSnapshotBroken(t *testing.T, open Engine) {
	fail := false
	j := open(t, func(s journal.Stage) error {
		if fail && s == journal.BeforeCommit {
			return errors.New("input/output error")
		}
		return nil
	}, 0)
	mustAppend(t, j, "x")
	fail = true
	for range 2 {
		if err := save(j, 0, 1, "a"); !errors.Is(err, journal.ErrBroken) {
			t.Errorf("got %v, want ErrBroken", err)
		}
	}
	fail = false
	if _, err := j.Enqueue([]byte("y")); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("a record after it: got %v, want ErrBroken", err)
	}
	mustClose(t, j)
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), "x")
	wantSnapshots(t, j, "[]")
}

func testSnapshotPowerCut(t *testing.T, open Engine, at journal.Stage, survive string) {
	cut := false
	j := open(t, func(s journal.Stage) error {
		if cut && s == at {
			return journal.ErrClosed
		}
		return nil
	}, 0)
	mustAppend(t, j, "x", "y")
	mustSave(t, j, 0, 1, "a")
	cut = true
	if err := save(j, 1, 2, "b"); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("got %v, want ErrClosed: nobody may hear of it", err)
	}
	if _, err := j.Enqueue([]byte("z")); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after the power cut: got %v, want ErrClosed", err)
	}
	mustClose(t, j)
	if err := save(j, 1, 2, "c"); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
	j = open(t, nil, 0)
	defer mustClose(t, j)
	want(t, read(t, j), "x", "y")
	wantSnapshots(t, j, survive)
}

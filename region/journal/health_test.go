package journal_test

import (
	"testing"

	"github.com/rimlight/rimlight/region/journal"
)

func TestHealthIsOfTheLastCommits(t *testing.T) {
	j, _, err := journal.Open(t.Context(), t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	h, err := j.Health()
	if err != nil || h.Syncs != 0 || h.SyncP99 != 0 || h.FreeBytes == 0 || h.AllBytes < h.FreeBytes {
		t.Errorf("before a commit: %+v, %v", h, err)
	}
	for range 3 {
		if _, err := journal.Append(t.Context(), j, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if h, err = j.Health(); err != nil || h.Syncs != 3 || h.SyncP99 <= 0 {
		t.Errorf("after three: %+v, %v", h, err)
	}
}

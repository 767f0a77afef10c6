package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/rimlight/rimlight/router/measure"
)

const (
	// memoryEvery is how often the measurements are kept for the next start, so that a crash loses little.
	memoryEvery = time.Minute
	// memoryAge is how old they may be at the next start: paths change.
	memoryAge = 7 * 24 * time.Hour
)

// memory is the file between two lives of a router.
type memory struct {
	Saved   time.Time                 `json:"saved_time"`
	Regions map[string]measure.Memory `json:"regions"`
}

// remember reads what the last life measured. It is a hint for the first round trip, so nothing that is wrong with it may
// keep a router from starting.
func (r *Router) remember() {
	if r.config.MemoryFile == "" {
		return
	}
	m, err := readMemory(r.config.MemoryFile)
	age := r.deps.Now().Sub(m.Saved)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.deps.Log.Warn("the saved measurements cannot be read, starting without", slog.Any("error", err))
	case age > memoryAge:
		r.deps.Log.Info("the saved measurements are too old, starting without", slog.Duration("age", age))
	default:
		r.deps.Log.Info("starting with saved measurements", slog.Duration("age", age), slog.Int("regions", len(m.Regions)))
		r.table.Remember(m.Regions)
	}
}

func readMemory(file string) (m memory, err error) {
	raw, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("reading %s: %w", file, err)
	}
	return m, nil
}

// keepMemory saves the measurements now and then, and at the end.
func (r *Router) keepMemory(ctx context.Context) error {
	if r.config.MemoryFile == "" {
		return nil
	}
	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-ticker.C:
		}
		if err := r.saveMemory(); err != nil {
			r.deps.Log.Warn("saving the measurements failed", slog.Any("error", err))
		}
	}
	return nil
}

// saveMemory replaces the file, unless there is nothing to save: what an earlier life knew is better.
func (r *Router) saveMemory() error {
	m := memory{r.deps.Now(), r.table.Memories()}
	if len(m.Regions) == 0 {
		return nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(r.config.MemoryFile), filepath.Base(r.config.MemoryFile)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), r.config.MemoryFile)
}

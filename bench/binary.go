package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// program is what all of this builds.
const program = "github.com/rimlight/rimlight/cmd/rimlight"

// built is a finished build.
type built struct {
	path      string
	wall, cpu time.Duration
}

// build makes the program in dir as `make build` does, with further flags and environment.
func (s settings) build(ctx context.Context, name string, env []string, flags ...string) (built, error) {
	b := built{path: filepath.Join(s.dir, name)}
	args := append([]string{"build", "-trimpath", "-o", b.path}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, program)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = s.log
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return built{}, fmt.Errorf("building: %w", err)
	}
	b.wall, b.cpu = time.Since(begin), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	return b, nil
}

// measureBinary tells how large the program is.
func measureBinary(ctx context.Context, s settings) (section, error) {
	t := table{header: []string{"build", "MiB"}}
	for _, variant := range []struct {
		name, file string
		flags      []string
	}{
		{"as `make build`", "rimlight", nil},
		{"stripped: `-ldflags '-s -w'`", "stripped", []string{"-ldflags", "-s -w"}},
	} {
		b, err := s.build(ctx, variant.file, nil, variant.flags...)
		if err != nil {
			return section{}, err
		}
		info, err := os.Stat(b.path)
		if err != nil {
			return section{}, err
		}
		t.add(variant.name, mebibytes(info.Size()))
	}
	return section{tables: []table{t}, cannot: "other platforms, or how much of it is ever paged in; the idle figure has the memory."}, nil
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// measureBuild builds from nothing but downloaded modules, then once more with nothing to do.
func measureBuild(ctx context.Context, s settings) (section, error) {
	env := []string{"GOCACHE=" + filepath.Join(s.dir, "cache")}
	t := table{header: []string{"build", "wall s", "CPU s"}}
	for _, turn := range []string{"cold: empty build cache", "again: nothing changed"} {
		b, err := s.build(ctx, "rimlight", env)
		if err != nil {
			return section{}, err
		}
		t.add(turn, seconds(b.wall), seconds(b.cpu))
	}
	return section{tables: []table{t}, cannot: "the download of the modules, which were here. Once each: other work on the machine is in the wall time, less in the CPU."}, nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

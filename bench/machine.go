package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// describeMachine says where and when a figure was measured, and how busy others kept the machine.
func describeMachine(dir string) (string, error) {
	model, err := cpuModel()
	if err != nil {
		return "", err
	}
	disk, err := diskWarning(dir)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s, %d cores, %s %s/%s%s, load average %s at the start.", time.Now().Format(time.DateOnly), model,
		runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, disk, loadAverage()), nil
}

func cpuModel() (string, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return "unknown processor", nil // not Linux
	}
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(info) {
		if key, value, _ := strings.Cut(string(line), ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return "unknown processor", nil
}

// loadAverage is of the last minute, in runnable processes.
func loadAverage() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	minute, _, _ := strings.Cut(string(load), " ")
	return minute
}

// tmpfs is Linux's number of the file system in memory.
const tmpfs = 0x01021994

// diskWarning: in memory an fsync costs nothing, and the figures of the journal mean nothing.
func diskWarning(dir string) (string, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "", os.NewSyscallError("statfs", err)
	}
	if runtime.GOOS == "linux" && int64(s.Type) == tmpfs {
		return ", NO DISK (tmpfs: choose another with -dir)", nil
	}
	return "", nil
}

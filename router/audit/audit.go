// Package audit keeps what operators changed: who, why, what it was before and what came of it.
//
//	Begin(entry) --append, fsync--> the change happens --> End(id, after or problem) --append--> List
//
// The file is append-only, a JSON object a line, the same id twice: as it was asked for, and as it ended. An entry without
// an end is a router that died meanwhile. Nothing may be changed that could not be written down first, so Begin's error is
// the change's end. A line that a crash tore is skipped.
//
// It does not check who may do what, and it holds no secrets: callers pass roles and regions.
package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// kept is how many entries are kept for reading; the file has all of them.
const kept = 1000

// longestLine bounds one line of the file: reasons have 256 characters, regions tens of nodes.
const longestLine = 1 << 20

// Entry is one change, or the attempt.
type Entry struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Router  string    `json:"router"`
	Role    string    `json:"role"`
	Method  string    `json:"method"`
	Target  string    `json:"target"`
	Reason  string    `json:"reason,omitempty"`
	Before  string    `json:"before,omitempty"`
	Asked   string    `json:"asked"`
	After   string    `json:"after,omitempty"`   // empty while it is not known
	Problem string    `json:"problem,omitempty"` // why it failed
}

// Log is one router's. Safe for concurrent use.
type Log struct {
	file    *os.File      // nil: memory alone
	turn    chan struct{} // of one: who holds it may write
	entries []Entry       // oldest first
}

// Open goes on with a file, making it and its directory if need be. An empty path keeps entries in memory alone.
func Open(path string) (*Log, error) {
	l := &Log{turn: make(chan struct{}, 1)}
	if path == "" {
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the audit log's directory: %w", err)
	}
	torn, err := l.read(path)
	if err != nil {
		return nil, err
	}
	if l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	if torn { // the next entry must not become part of the torn line
		if _, err := l.file.WriteString("\n"); err != nil {
			return nil, errors.Join(fmt.Errorf("mending the audit log: %w", err), l.file.Close())
		}
	}
	return l, nil
}

// read takes in what is there and tells whether its last line is torn.
func (l *Log) read(path string) (torn bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, longestLine)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			torn = true
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.ID != "" {
			l.keep(e)
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("reading the audit log: %w", err)
	}
	return torn, nil
}

// Begin writes down what is asked for. When it returns without an error, that is on disk.
func (l *Log) Begin(e Entry) error { return l.append(e) }

// End writes down how it is afterwards, or why it failed.
func (l *Log) End(e Entry, after, problem string) error {
	e.After, e.Problem = after, problem
	return l.append(e)
}

func (l *Log) append(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding an audit entry: %w", err)
	}
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if l.file != nil {
		if _, err := l.file.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("writing the audit log: %w", err)
		}
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("writing the audit log: %w", err)
		}
	}
	l.keep(e)
	return nil
}

// keep takes an entry in, in place of the one with its id. Needs the turn.
func (l *Log) keep(e Entry) {
	if at := slices.IndexFunc(l.entries, func(k Entry) bool { return k.ID == e.ID }); at >= 0 {
		l.entries[at] = e
		return
	}
	l.entries = append(l.entries, e)
	if len(l.entries) > kept {
		l.entries = slices.Delete(l.entries, 0, len(l.entries)-kept)
	}
}

// List is the kept entries, newest first.
func (l *Log) List() []Entry {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	list := slices.Clone(l.entries)
	slices.Reverse(list)
	return list
}

// Close closes the file, after the last change.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

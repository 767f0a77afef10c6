// Package pgtest runs a throwaway PostgreSQL server for tests and benchmarks.
//
//	Database: a fresh, empty database on a server that the test process shares, dropped at the test's end
//	Template: the same with something in it, which was made once and is copied
//	Start:    a server of the test's own, which it may stop, kill and start again
//
// A server lives in a temporary directory and listens on a Unix socket there, so nothing collides and nobody else reaches
// it. It syncs like a real one; but what tests share, they share in memory (/dev/shm) where there is room for it: dropping a
// database costs a second on a disk, and 20 ms there. It ends with the test process, however that ends: a shell waits for the end of a pipe
// that the process holds, then stops the server and removes the directory. As root the server runs as the user postgres,
// or nobody, since PostgreSQL refuses root.
//
// Where PostgreSQL is not installed tests are skipped by name; with CI set in the environment they fail.
package pgtest

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // for making databases
)

// ErrNotInstalled means that this machine has no PostgreSQL programs.
var ErrNotInstalled = errors.New("PostgreSQL is not installed (Debian: apt-get install postgresql)")

// Server is one PostgreSQL server.
type Server struct {
	bin, dir string
	as       *syscall.Credential // nil: this process's own user
	guard    *exec.Cmd
	hold     *os.File // the pipe whose end stops the server
}

// script starts the server, says so, and ends it when its standard input does. PostgreSQL's own log stays in the directory.
// Nobody may hear it any more by then: the trap keeps it alive to clean up.
const script = `trap '' PIPE
cd "$2" || exit 1
"$1/initdb" -D data -U postgres -A trust --no-sync --no-instructions -E UTF8 --locale=C > initdb.log 2>&1 &&
cat >> data/postgresql.conf <<END &&
listen_addresses = ''
unix_socket_directories = '$2'
max_connections = 200
shared_buffers = 64MB
max_wal_size = 256MB
END
"$1/pg_ctl" -D data -l postgres.log -w start > start.log 2>&1 && echo ready
while read -r _; do :; done
"$1/pg_ctl" -D data -m immediate stop > stop.log 2>&1
cd / && rm -rf "$2"`

// New starts a server for a program that is no test, with its data on the disk; Close ends it.
func New() (*Server, error) { return newIn("") }

func newIn(parent string) (_ *Server, err error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.dir, err = os.MkdirTemp(parent, "rimlight-pg-"); err != nil {
		return nil, fmt.Errorf("making the server's directory: %w", err)
	}
	if os.Getuid() == 0 {
		if s.as, err = unprivileged(); err != nil {
			return nil, errors.Join(err, os.RemoveAll(s.dir))
		}
		if err := os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return nil, errors.Join(fmt.Errorf("giving the server its directory: %w", err), os.RemoveAll(s.dir))
		}
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.logs(), s.Close(), os.RemoveAll(s.dir))
	}
	return s, nil
}

// begin starts the shell and waits until the server is ready.
func (s *Server) begin() error {
	in, hold, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer closeQuietly(in)
	heard, out, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("making a pipe: %w", err), hold.Close())
	}
	defer closeQuietly(heard)
	s.hold = hold
	s.guard = s.command("/bin/sh", "-c", script, "sh", s.bin, s.dir)
	s.guard.Stdin, s.guard.Stdout = in, out
	err = s.guard.Start()
	_ = out.Close() // the shell's copy counts: without it nobody would tell that the shell ended
	if err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	if line, _ := bufio.NewReader(heard).ReadString('\n'); line != "ready\n" {
		return errors.New("the server did not start")
	}
	return nil
}

// closeQuietly closes what was only read, or is of no use any more.
func closeQuietly(c io.Closer) { _ = c.Close() }

// command runs as the server's user, apart from the terminal: an interrupt is for the test, which then ends the server.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.as}
	return cmd
}

// Close ends the server and waits until its directory is gone.
func (s *Server) Close() error {
	if s.hold == nil {
		return nil
	}
	err := s.hold.Close()
	if s.guard.Process != nil {
		err = errors.Join(err, s.guard.Wait())
	}
	return err
}

// logs is what the server and its tools had to say, as an error.
func (s *Server) logs() error {
	var all strings.Builder
	for _, name := range []string{"initdb.log", "start.log", "postgres.log"} {
		if text, err := os.ReadFile(filepath.Join(s.dir, name)); err == nil {
			fmt.Fprintf(&all, "%s: %s\n", name, text)
		}
	}
	return errors.New(all.String())
}

// programs finds the directory with initdb and pg_ctl, the newest if there are several.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if err != nil {
		return "", err
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("pg_ctl")
	if err != nil {
		return "", ErrNotInstalled
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("finding PostgreSQL: %w", err)
	}
	return filepath.Dir(path), nil
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0: an unusual name sorts first
	return n
}

// unprivileged is a user that PostgreSQL accepts.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("reading the ids of %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses root, and there is no user postgres or nobody")
}

// inMemory and onDisk are the test process's servers, for tests and for benchmarks; they need no stopping, see script.
var (
	inMemory = sync.OnceValues(func() (*Server, error) { return newIn(memory()) })
	onDisk   = sync.OnceValues(New)
)

var databases atomic.Int64

// memory is a directory that is in memory and has room for a server, or else empty.
func memory() string {
	const dir, need = "/dev/shm", 1 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < need {
		return ""
	}
	return dir
}

func shared(tb testing.TB) *Server {
	tb.Helper()
	start := inMemory
	if _, ok := tb.(*testing.B); ok {
		start = onDisk
	}
	s, err := start()
	if err != nil {
		giveUp(tb, err)
	}
	return s
}

// Database makes an empty database on the process's server, and returns its URL. It is dropped at the test's end.
func Database(tb testing.TB) string {
	tb.Helper()
	return shared(tb).Database(tb)
}

// Template is a database that many tests begin with. Nobody uses it itself; a test process has one, in a variable.
type Template struct {
	// Prepare fills an empty database, and leaves no connection to it.
	Prepare func(ctx context.Context, url string) error

	once sync.Once
	name string
	err  error
}

// Database makes a copy on the process's server, and returns its URL. It is dropped at the test's end. Benchmarks and
// tests do not share a template, as they do not share a server.
func (m *Template) Database(tb testing.TB) string {
	tb.Helper()
	s := shared(tb)
	m.once.Do(func() {
		var url string
		if m.name, url, m.err = s.create(tb.Context(), "template1"); m.err == nil {
			m.err = m.Prepare(tb.Context(), url)
		}
	})
	if m.err != nil {
		tb.Fatalf("preparing a database: %v", m.err)
	}
	return s.database(tb, m.name)
}

// Start starts a server of the test's own, which ends with the test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := New()
	if err != nil {
		giveUp(tb, err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("ending the server: %v", err)
		}
	})
	return s
}

func giveUp(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, ErrNotInstalled) && os.Getenv("CI") == "" {
		tb.Skip(err)
	}
	tb.Fatalf("PostgreSQL for tests: %v", err)
}

// Database makes an empty database and returns its URL. It is dropped at the test's end.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	return s.database(tb, "template1")
}

func (s *Server) database(tb testing.TB, template string) string {
	tb.Helper()
	name, url, err := s.create(tb.Context(), template)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { // the test's context has ended by then
		if err := s.exec(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`); err != nil {
			tb.Error(err)
		}
	})
	return url
}

// Create makes an empty database that lives as long as the server, and returns its URL.
func (s *Server) Create(ctx context.Context) (url string, err error) {
	_, url, err = s.create(ctx, "template1")
	return url, err
}

func (s *Server) create(ctx context.Context, template string) (name, url string, err error) {
	name = fmt.Sprintf("test%d", databases.Add(1))
	return name, s.url(name), s.exec(ctx, `CREATE DATABASE `+name+` TEMPLATE `+template)
}

func (s *Server) url(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {s.dir}, "user": {"postgres"}}.Encode()
}

func (s *Server) exec(ctx context.Context, statement string) error {
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer closeQuietly(db)
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// Kill ends the server at once, as a crash does: what was committed is on the disk.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.pgctl(tb, "-m", "immediate", "stop")
}

// Stop ends the server's connections and the server.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.pgctl(tb, "-m", "fast", "stop")
}

// Resume starts the server again after Kill or Stop.
func (s *Server) Resume(tb testing.TB) {
	tb.Helper()
	s.pgctl(tb, "-l", "postgres.log", "-w", "start")
}

func (s *Server) pgctl(tb testing.TB, args ...string) {
	tb.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "start.log"), os.O_APPEND|os.O_WRONLY, 0) // a file: a pipe would stay open in the server
	if err != nil {
		tb.Fatalf("opening the server's log: %v", err)
	}
	defer closeQuietly(log)
	cmd := s.command(filepath.Join(s.bin, "pg_ctl"), append([]string{"-D", "data"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		tb.Fatalf("pg_ctl %v: %v\n%v", args, err, s.logs())
	}
}

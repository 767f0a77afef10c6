package sqldb_test

import (
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/sqldb"
)

func TestPostgresConfigNamesEveryProblem(t *testing.T) {
	err := sqldb.PostgresConfig{Schema: "Bad; DROP", MaxConns: 1, StatementTimeout: -1, IdleTimeout: -1, ConnectTimeout: -1}.Validate()
	for _, field := range []string{"URL", "Schema", "MaxConns", "StatementTimeout", "IdleTimeout", "ConnectTimeout"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}

func TestAPasswordIsInNoError(t *testing.T) {
	for _, url := range []string{
		"postgres://user:hunter2@127.0.0.1:1/db", "postgres://user:hunter2@127.0.0.1:port/db", "host=127.0.0.1 port=x password=hunter2",
	} {
		_, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: url, Schema: "test"})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	}
}

// Two services, and testpsp, may share a database; each sees its own tables. Replicas migrate at the same time.
func TestStoresShareADatabase(t *testing.T) {
	url := pgtest.Database(t)
	var wg sync.WaitGroup
	for _, schema := range []string{"one", "two", "one", "two", "one"} {
		wg.Go(func() {
			db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: url, Schema: schema})
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			if err := db.Migrate(t.Context(), migrations); err != nil {
				t.Error(err)
			}
			if err := increment(t.Context(), db); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for schema, want := range map[string]int{"one": 3, "two": 2} {
		db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: url, Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if got := count(t, db); got != want {
			t.Errorf("%s: got %d, want %d", schema, got, want)
		}
	}
}

// One text for both engines: BLOB is what SQLite calls BYTEA.
func TestBlobsComeBackAsTheyWere(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		err := db.Migrate(t.Context(), fstest.MapFS{
			"00001_counter.sql": migrations["00001_counter.sql"],
			"00002_blob.sql":    {Data: []byte("-- +goose Up\nCREATE TABLE things (id BLOB PRIMARY KEY);\n")},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []byte{0, 255, '\\', 'x', 0}
		if err := db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO things (id) VALUES ($1)", want)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var got []byte
		if err := db.Read().QueryRowContext(t.Context(), "SELECT id FROM things WHERE id = $1", want).Scan(&got); err != nil || string(got) != string(want) {
			t.Errorf("got %x, %v, want %x", got, err, want)
		}
	})
}

// A boolean is an INTEGER, and in Go a bool.
func TestBooleansAreIntegers(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		for _, want := range []bool{true, false} {
			if err := db.Write(t.Context(), func(tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), "UPDATE counter SET n = $1 WHERE n IN (0, 1)", want)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			var got bool
			if err := db.Read().QueryRowContext(t.Context(), "SELECT n FROM counter WHERE n = $1", want).Scan(&got); err != nil || got != want {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		}
	})
}

// Two transactions look for a row, find none and insert it. On SQLite they come one after the other; on PostgreSQL one of
// them violates the key, runs again, and finds it.
func TestARowThatTwoInsertAtOnceIsFoundByOneOfThem(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		var wg sync.WaitGroup
		results := make(chan string, 8)
		for range cap(results) {
			wg.Go(func() {
				result := ""
				err := db.Write(t.Context(), func(tx *sql.Tx) error {
					var n int
					err := tx.QueryRowContext(t.Context(), "SELECT n FROM counter WHERE name = 'new'").Scan(&n)
					if err == nil {
						result = "found"
						return nil
					}
					if !errors.Is(err, sql.ErrNoRows) {
						return err
					}
					result = "made"
					_, err = tx.ExecContext(t.Context(), "INSERT INTO counter (name, n) VALUES ('new', 1)")
					return err
				})
				if err != nil {
					t.Error(err)
				}
				results <- result
			})
		}
		wg.Wait()
		close(results)
		made := 0
		for r := range results {
			if r == "made" {
				made++
			}
		}
		if made != 1 {
			t.Errorf("made %d times", made)
		}
	})
}

// Transactions that take rows in opposite orders block each other; one of them runs again.
func TestADeadlockIsRunAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO counter (name, n) VALUES ('b', 0)")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
			wg.Go(func() {
				for range 5 {
					if err := db.Write(t.Context(), func(tx *sql.Tx) error {
						for _, name := range order {
							if _, err := tx.ExecContext(t.Context(), "UPDATE counter SET n = n + 1 WHERE name = $1", name); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := count(t, db); got != 10 {
			t.Errorf("got %d, want 10", got)
		}
	})
}

// A server that goes away is an error of its own, for reads and writes; what comes later finds it again.
func TestAServerThatGoesAway(t *testing.T) {
	server := pgtest.Start(t)
	db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: server.Database(t), Schema: "test", ConnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(t.Context(), migrations); err != nil {
		t.Fatal(err)
	}
	db.OnBroken = func(err error) { t.Errorf("broken: %v", err) }
	for want, stop := range []func(testing.TB){server.Kill, server.Stop} {
		var once sync.Once
		err := db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "UPDATE counter SET n = 99")
			once.Do(func() { stop(t) })
			return err
		})
		if !sqldb.IsUnavailable(err) {
			t.Errorf("a commit without a server: got %v", err)
		}
		if err := increment(t.Context(), db); !sqldb.IsUnavailable(err) {
			t.Errorf("a transaction without a server: got %v", err)
		}
		if err := db.Read().QueryRowContext(t.Context(), "SELECT n FROM counter").Scan(new(int)); !sqldb.IsUnavailable(err) {
			t.Errorf("a read without a server: got %v", err)
		}
		server.Resume(t)
		if err := increment(t.Context(), db); err != nil {
			t.Errorf("with a server again: %v", err)
		}
		if got := count(t, db); got != want+1 {
			t.Errorf("got %d, want %d", got, want+1)
		}
	}
}

func TestOrdinaryErrorsAreNotAnOutage(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		err := db.Read().QueryRowContext(t.Context(), "SELECT nothing").Scan(new(int))
		if err == nil || sqldb.IsUnavailable(err) || sqldb.IsUnavailable(nil) || sqldb.IsUnavailable(sql.ErrNoRows) {
			t.Errorf("got %v as an outage", err)
		}
	})
}

package sqldb_test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/rimlight/rimlight/internal/sqldb"
)

// While the rows of a text are read, the same text is asked again: the two must not share a statement.
func TestATextMayBeAskedWhileItsRowsAreOpen(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		if !db.Alone() {
			t.Skip("not with PostgreSQL, which does one thing at a time on a connection")
		}
		const list = "SELECT name FROM counter WHERE n < $1 ORDER BY name"
		err := db.Write(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), "INSERT INTO counter (name, n) VALUES ('b', 1), ('c', 2)"); err != nil {
				return err
			}
			for range 2 { // the second time from the cache
				var pairs []string
				outer, err := tx.QueryContext(t.Context(), list, 10)
				if err != nil {
					return err
				}
				defer outer.Close()
				for outer.Next() {
					var a, b string
					if err := outer.Scan(&a); err != nil {
						return err
					}
					if err := tx.QueryRowContext(t.Context(), list, 1).Scan(&b); err != nil {
						return err
					}
					pairs = append(pairs, a+b)
				}
				if err := outer.Err(); err != nil {
					return err
				}
				if got := fmt.Sprint(pairs); got != "[aa ba ca]" {
					t.Errorf("got %s", got)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A statement that failed works again, and a text that does not parse fails each time.
func TestAFailedStatementWorksAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		insert := func(name string) error {
			return db.Write(t.Context(), func(tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), "INSERT INTO counter (name, n) VALUES ($1, 0)", name)
				return err
			})
		}
		if err := errors.Join(insert("x"), insert("y")); err != nil {
			t.Fatal(err)
		}
		if err := insert("x"); !sqldb.IsUnique(err) {
			t.Errorf("got %v, want a unique violation", err)
		}
		if err := insert("z"); err != nil {
			t.Errorf("after a failure: %v", err)
		}
		for range 2 {
			var n int
			if err := db.Read().QueryRowContext(t.Context(), "SELEKT 1").Scan(&n); err == nil {
				t.Error("nonsense was understood")
			}
		}
	})
}

// A commit that is refused leaves nothing behind, not even its transaction: the next one begins.
func TestARefusedCommitEndsItsTransaction(t *testing.T) {
	db, err := sqldb.OpenMemory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	insert := func(query string) error { // each time as another process, since one that cannot commit stops
		return db.Reopen().Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), query)
			return err
		})
	}
	for _, ddl := range []string{
		"CREATE TABLE parents (n BIGINT PRIMARY KEY)",
		"CREATE TABLE children (n BIGINT REFERENCES parents (n) DEFERRABLE INITIALLY DEFERRED)",
	} {
		if err := insert(ddl); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := insert("INSERT INTO children (n) VALUES (1)"); err == nil {
			t.Fatal("a child without a parent was committed")
		}
	}
	if err := insert("INSERT INTO parents (n) VALUES (2)"); err != nil {
		t.Errorf("after a refused commit: %v", err)
	}
	var children int
	if err := db.Read().QueryRowContext(t.Context(), "SELECT COUNT(*) FROM children").Scan(&children); err != nil || children != 0 {
		t.Errorf("%d children, %v; want none", children, err)
	}
}

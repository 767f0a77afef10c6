package pgtest_test

import (
	"database/sql"
	"testing"

	"github.com/rimlight/rimlight/internal/pgtest"
)

func count(t *testing.T, url string) (n int) {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE IF NOT EXISTS t (n BIGINT)`); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRowContext(t.Context(), `WITH ins AS (INSERT INTO t VALUES (1)) SELECT COUNT(*) FROM t`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDatabasesAreApartAndEmpty(t *testing.T) {
	for range 2 {
		if n := count(t, pgtest.Database(t)); n != 0 {
			t.Errorf("got %d rows in a new database", n)
		}
	}
}

func TestAServerKeepsItsRowsOverACrash(t *testing.T) {
	s := pgtest.Start(t)
	url := s.Database(t)
	for want := range 3 {
		if n := count(t, url); n != want {
			t.Errorf("got %d rows, want %d", n, want)
		}
		s.Kill(t)
		s.Resume(t)
	}
}

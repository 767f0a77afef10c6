package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"testing/fstest"

	"github.com/rimlight/rimlight/internal/sqldb"
)

func migratedTemplate(t *testing.T) *sqldb.Template {
	t.Helper()
	family := fstest.MapFS{
		"00001_counter.sql": migrations["00001_counter.sql"],
		// "a" references "z", and itself: neither names nor the order of making say which comes first.
		"00002_family.sql": {Data: []byte("-- +goose Up\nCREATE TABLE a (id INTEGER PRIMARY KEY, z BIGINT REFERENCES z (id), a BIGINT REFERENCES a (id));\n" +
			"CREATE TABLE z (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);\nINSERT INTO z (name) VALUES ('first');\nINSERT INTO a (z) VALUES (1);\n")},
	}
	template, err := sqldb.NewTemplate(t.Context(), func(ctx context.Context, db *sqldb.DB) error { return db.Migrate(ctx, family) })
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// Whatever happened to the database before, each one begins alike: rows, counters of rows, and foreign keys that hold.
func TestEveryDatabaseOfATemplateBeginsAlike(t *testing.T) {
	template := migratedTemplate(t)
	for round := range 3 {
		db, err := template.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		other, err := template.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := increment(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		if n := count(t, db); n != 0 {
			t.Errorf("round %d: counts %d, want 0", round, n)
		}
		var as, zs, id int
		if err := db.Read().QueryRowContext(t.Context(), "SELECT (SELECT COUNT(*) FROM a), (SELECT COUNT(*) FROM z)").Scan(&as, &zs); err != nil || as != 1 || zs != 1 {
			t.Errorf("round %d: got %d and %d rows, %v; want 1 and 1", round, as, zs, err)
		}
		write := func(query string, args ...any) error {
			return db.Write(t.Context(), func(tx *sql.Tx) error { return tx.QueryRowContext(t.Context(), query, args...).Scan(&id) })
		}
		if err := write("INSERT INTO z (name) VALUES ('more') RETURNING id"); err != nil || id != 2 {
			t.Errorf("round %d: got row %d, %v; want 2", round, id, err)
		}
		if err := write("INSERT INTO a (z, a) VALUES (2, 1) RETURNING id"); err != nil || id != 2 {
			t.Errorf("round %d: got row %d, %v; want 2", round, id, err)
		}
		if err := write("INSERT INTO a (z) VALUES (9) RETURNING id"); err == nil {
			t.Errorf("round %d: foreign keys do not hold", round)
		}
		if err := errors.Join(increment(t.Context(), db), db.Close(), other.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

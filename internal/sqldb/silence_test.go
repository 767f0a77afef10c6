package sqldb_test

import (
	"context"
	"database/sql"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// stoppable passes connections to a server's socket on until it is told to pass nothing more, and to close nothing either: so a
// host that lost its power looks to its clients, but for the packets that TCP answers by itself.
type stoppable struct {
	stop  chan struct{}
	conns sync.WaitGroup
}

func startStoppable(t *testing.T, socket string) (*stoppable, string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stoppable{stop: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = lis.Close(); s.conns.Wait() })
	s.conns.Go(func() {
		for {
			client, err := lis.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			behind, err := d.DialContext(ctx, "unix", socket)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = client.Close(), behind.Close() })
			s.conns.Go(func() { s.pass(behind, client) })
			s.conns.Go(func() { s.pass(client, behind) })
		}
	})
	return s, lis.Addr().String()
}

// pass copies until it is stopped; then it reads, and passes nothing on.
func (s *stoppable) pass(to, from net.Conn) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		select {
		case <-s.stop:
		default:
			if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
				_, _ = to.Close(), from.Close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A server that falls silent with its connections open is an outage, and ends: loops ask without a deadline.
func TestAServerThatFallsSilent(t *testing.T) {
	where, err := url.Parse(pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy, addr := startStoppable(t, filepath.Join(where.Query().Get("host"), ".s.PGSQL.5432"))
	where.Host, where.User, where.RawQuery = addr, url.User("postgres"), "sslmode=disable"
	open := func(timeout time.Duration) *sqldb.DB {
		for give := time.Now().Add(time.Minute); ; {
			db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: where.String(), Schema: "test", StatementTimeout: timeout})
			if err == nil {
				t.Cleanup(func() { _ = db.Close() })
				return db
			}
			if time.Now().After(give) { // a busy machine
				t.Fatal(err)
			}
		}
	}
	if err := open(0).Migrate(t.Context(), migrations); err != nil {
		t.Fatal(err)
	}
	db := open(500 * time.Millisecond)
	err = db.Write(context.Background(), func(tx *sql.Tx) error {
		var n int
		err := tx.QueryRow("SELECT n FROM counter").Scan(&n)
		if err != nil {
			return err
		}
		close(proxy.stop)
		return tx.QueryRow("SELECT n FROM counter").Scan(&n)
	})
	if !sqldb.IsUnavailable(err) {
		t.Errorf("a write at a server that says nothing: got %v", err)
	}
}

// A replica that stands still in the middle of a transaction holds its rows, which may be every other transaction's, too,
// for IdleTimeout and no longer. When it goes on, nothing of what it had done is there.
func TestAReplicaThatStandsStillHoldsItsRowsForAMoment(t *testing.T) {
	where := pgtest.Database(t)
	open := func(idle time.Duration) *sqldb.DB {
		db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: where, Schema: "test", IdleTimeout: idle})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	other := open(0)
	if err := other.Migrate(t.Context(), migrations); err != nil {
		t.Fatal(err)
	}
	still := open(100 * time.Millisecond)
	holds, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var once sync.Once
		ended <- still.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "UPDATE counter SET n = 99")
			once.Do(func() { close(holds); <-goOn })
			return err
		})
	}()
	<-holds
	if err := increment(t.Context(), other); err != nil {
		t.Errorf("beside a replica that stands still: %v", err)
	}
	close(goOn)
	if err := <-ended; !sqldb.IsUnavailable(err) {
		t.Errorf("the replica that went on: %v", err)
	}
	if got := count(t, other); got != 1 {
		t.Errorf("counted %d, want 1", got)
	}
}

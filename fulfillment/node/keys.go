package node

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"time"

	"github.com/rimlight/rimlight/internal/sealed"
)

const (
	// keyAge is how old the current key may be when the node starts. Who steals a copy of the inbox reads what was sealed
	// to the keys in it: at half, clients that were away for a while seal to an older key twice as often; at double, twice
	// as much can be read.
	keyAge = 30 * 24 * time.Hour
	// keyKept is how long a key is kept after it was replaced: longer than a drop, its settlement and an order's wait for a
	// node take. Any shorter than that, and the last orders of a drop cannot be opened.
	keyKept = 30 * 24 * time.Hour
)

// keys reads the keys that the node can open details with, the current one first. It makes one at the first start, and when
// the current one is old.
func (b inbox) keys(ctx context.Context, now time.Time, random io.Reader) (all []*sealed.Key, err error) {
	fresh, err := sealed.NewKey(random)
	if err != nil {
		return nil, err
	}
	private, err := fresh.Private()
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	err = b.db.Write(ctx, func(tx *sql.Tx) error {
		all = nil
		stamp := now.UnixMicro()
		if _, err := tx.ExecContext(ctx, `UPDATE delivery_keys SET replace_time_us = $1 WHERE replace_time_us = 0 AND make_time_us < $2`,
			stamp, now.Add(-keyAge).UnixMicro()); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM delivery_keys WHERE replace_time_us > 0 AND replace_time_us < $1`, now.Add(-keyKept).UnixMicro()); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO delivery_keys (private, make_time_us, replace_time_us)
			SELECT $1, $2, 0 WHERE NOT EXISTS (SELECT 1 FROM delivery_keys WHERE replace_time_us = 0)`, private, stamp); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT private FROM delivery_keys ORDER BY replace_time_us <> 0, replace_time_us DESC LIMIT 8`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var raw []byte
			if err := rows.Scan(&raw); err != nil {
				return err
			}
			k, err := sealed.ParseKey(raw)
			if err != nil {
				return err
			}
			all = append(all, k)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("reading the node's keys: %w", err)
	}
	return all, nil
}

// publicKeys are what fulfillment tells clients to seal to, and routes by.
func (n *Node) publicKeys() [][]byte {
	public := make([][]byte, len(n.keys))
	for i, k := range n.keys {
		public[i] = k.Public()
	}
	return public
}

// open reads where an order goes.
func (n *Node) open(details []byte, drop, purchase string) ([]byte, error) {
	return sealed.Open(details, n.keys, sealed.Purchase{DropID: drop, ID: purchase})
}

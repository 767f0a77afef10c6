package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// CountOffers keeps how many offers a node's process life made of drops so far. The largest number stands, so that
// heartbeats may be lost, repeated and overtake each other. Drops that are not known are passed over.
func (s *Store) CountOffers(ctx context.Context, c Caller, offers map[ID]int64) error {
	if len(offers) == 0 {
		return nil
	}
	err := s.db.DB.Write(ctx, func(tx *sql.Tx) error {
		for drop, n := range offers {
			if _, err := tx.ExecContext(ctx, `INSERT INTO offers_made (drop_id, node_id, boot_id, offers)
				SELECT d.drop_id, n.node_id, n.boot_id, CAST($1 AS BIGINT) FROM drops d CROSS JOIN nodes n
				WHERE d.drop_id = $2 AND n.node_id = $3 AND n.boot_id = $4
				ON CONFLICT (drop_id, node_id, boot_id) DO UPDATE SET offers = excluded.offers WHERE offers_made.offers < excluded.offers`,
				n, drop[:], c.NodeID[:], c.BootID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("counting offers: %w", err)
	}
	return nil
}

// Offers sums the offers of drops over all nodes; drops without any are missing.
func (s *Store) Offers(ctx context.Context, drops []ID) (map[ID]int64, error) {
	all := make(map[ID]int64, len(drops))
	if len(drops) == 0 {
		return all, nil
	}
	args, places := make([]any, len(drops)), make([]string, len(drops))
	for i, id := range drops {
		args[i], places[i] = id[:], fmt.Sprintf("$%d", i+1)
	}
	type sum struct {
		drop []byte
		n    int64
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT drop_id, SUM(offers) FROM offers_made WHERE drop_id IN (`+
		strings.Join(places, ", ")+`) GROUP BY drop_id`, args...)
	sums, err := collect(rows, err, func(rows *sql.Rows) (x sum, err error) { return x, rows.Scan(&x.drop, &x.n) })
	if err != nil {
		return nil, fmt.Errorf("summing offers: %w", err)
	}
	for _, x := range sums {
		all[ID(x.drop)] = x.n
	}
	return all, nil
}

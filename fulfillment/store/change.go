package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// SignTimeBack makes the signed text of the time that a schedule gives back.
type SignTimeBack func(ID, catalog.Schedule) (string, error)

// ChangeDrop changes a drop's schedule, once per request id, and keeps who asked. The same request again gets the drop
// as it is now; another request under its id gets ErrReplayed. change may refuse with an error of its own.
func (s *Store) ChangeDrop(ctx context.Context, req *fulfillmentv1.ChangeDropRequest, id ID, role string, now time.Time,
	change func(catalog.Schedule) (catalog.Schedule, error), sign SignTimeBack) (before, after Drop, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		if before, err = getDropHeld(ctx, tx, id, s.db.ForUpdate()); err != nil {
			return err
		}
		after = before
		var earlier []byte
		err := tx.QueryRowContext(ctx, `SELECT request FROM drop_changes WHERE request_id = $1`, req.GetRequestId()).Scan(&earlier)
		if err == nil {
			var first fulfillmentv1.ChangeDropRequest
			if err := proto.Unmarshal(earlier, &first); err != nil {
				return fmt.Errorf("decoding an earlier request: %w", err)
			}
			if !proto.Equal(&first, req) {
				return ErrReplayed
			}
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		schedule, err := change(before.Schedule)
		if err != nil {
			return err
		}
		if err := recordChange(ctx, tx, req, id, role, now); err != nil {
			return err
		}
		if schedule == before.Schedule {
			return nil
		}
		after.Reschedule(schedule)
		return reschedule(ctx, tx, after, now, sign)
	})
	if err != nil {
		return Drop{}, Drop{}, fmt.Errorf("changing a drop: %w", err)
	}
	return before, after, nil
}

// reschedule stores a drop's new schedule, with its next revision.
func reschedule(ctx context.Context, tx *sql.Tx, d Drop, now time.Time, sign SignTimeBack) error {
	if d.TimeBack > 0 {
		var err error
		if d.Terms.Drop.TimeBack, err = sign(d.ID, d.Schedule); err != nil {
			return err
		}
	}
	var paused any
	if d.Paused {
		paused = now.UnixMicro()
	}
	_, err := tx.ExecContext(ctx, `UPDATE drops SET open_time_us = $1, close_time_us = $2, over_time_us = $3, time_back_us = $4, paused_time_us = $5
		WHERE drop_id = $6`,
		d.OpenTime.UnixMicro(), d.CloseTime.UnixMicro(), d.OverTime.UnixMicro(), d.TimeBack.Microseconds(), paused, d.ID[:])
	if err != nil {
		return err
	}
	return revise(ctx, tx, d)
}

func recordChange(ctx context.Context, tx *sql.Tx, req *fulfillmentv1.ChangeDropRequest, id ID, role string, now time.Time) error {
	request, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO drop_changes (request_id, drop_id, role, change_time_us, request) VALUES ($1, $2, $3, $4, $5)`,
		req.GetRequestId(), id[:], role, now.UnixMicro(), request)
	return err
}

// Holders counts the nodes, and their regions, that hold units of a drop.
func (s *Store) Holders(ctx context.Context, id ID) (nodes, regions uint32, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT COUNT(DISTINCT n.node_id), COUNT(DISTINCT n.region)
		FROM leases l JOIN nodes n ON n.node_id = l.node_id
		WHERE l.drop_id = $1 AND EXISTS (SELECT 1 FROM units u WHERE u.lease_id = l.lease_id AND u.state = $2)`, id[:], leased).Scan(&nodes, &regions)
	if err != nil {
		return 0, 0, fmt.Errorf("counting who holds units of drop %v: %w", id, err)
	}
	return nodes, regions, nil
}

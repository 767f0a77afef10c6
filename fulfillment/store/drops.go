package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
)

// Drop is one drop as it is stored.
type Drop struct {
	ID ID
	// Terms carry the revision. State and availability are not set: they depend on when one asks.
	Terms *fulfillmentv1.CatalogDrop
	// Schedule says where it is in its life.
	catalog.Schedule
	// SettleTime is when it was SETTLED; zero before.
	SettleTime time.Time
}

const (
	scheduleColumns = `open_time_us, close_time_us, over_time_us, time_back_us, paused_time_us IS NOT NULL, COALESCE(settled_time_us, 0)`
	dropColumns     = `drop_id, terms, ` + scheduleColumns
)

// scheduleScan collects scheduleColumns.
type scheduleScan struct {
	open, closing, over, back, settled int64
	paused                             bool
}

func (s *scheduleScan) columns() []any {
	return []any{&s.open, &s.closing, &s.over, &s.back, &s.paused, &s.settled}
}

func (s *scheduleScan) schedule() catalog.Schedule {
	return catalog.Schedule{
		OpenTime: fromMicros(s.open), CloseTime: fromMicros(s.closing), OverTime: fromMicros(s.over),
		TimeBack: time.Duration(s.back) * time.Microsecond, Paused: s.paused, Settled: s.settled != 0,
	}
}

// Reschedule gives the drop another schedule, in its terms, too. What time back is signed for is not the new one's.
func (d *Drop) Reschedule(s catalog.Schedule) {
	d.Schedule, d.Terms = s, proto.CloneOf(d.Terms)
	shown := d.Terms.GetDrop()
	shown.OpenTime, shown.CloseTime, shown.PlannedCloseTime, shown.TimeBack = timestamppb.New(s.OpenTime), timestamppb.New(s.CloseTime), nil, ""
	if s.TimeBack > 0 {
		shown.PlannedCloseTime = timestamppb.New(s.PlannedClose())
	}
}

type scanner interface{ Scan(...any) error }

func scanDrop(row scanner) (Drop, error) {
	var d Drop
	var id, terms []byte
	var schedule scheduleScan
	if err := row.Scan(append([]any{&id, &terms}, schedule.columns()...)...); err != nil {
		return Drop{}, err
	}
	d.ID, d.Schedule = ID(id), schedule.schedule()
	if schedule.settled != 0 {
		d.SettleTime = fromMicros(schedule.settled)
	}
	d.Terms = &fulfillmentv1.CatalogDrop{}
	if err := proto.Unmarshal(terms, d.Terms); err != nil {
		return Drop{}, fmt.Errorf("decoding the terms of drop %v: %w", d.ID, err)
	}
	return d, nil
}

func scanDropRows(rows *sql.Rows) (Drop, error) { return scanDrop(rows) }

// CreateDrop stores a new drop with all its units FREE, once per request id. However many they are, it is one row: units
// get theirs when they are lent. plan completes it, and runs only if the
// request id is new; the same request again gets the drop that it made, another request under its id gets ErrReplayed.
func (s *Store) CreateDrop(ctx context.Context, req *fulfillmentv1.CreateDropRequest, id ID, plan func() (*fulfillmentv1.CatalogDrop, catalog.Schedule, error)) (Drop, error) {
	var d Drop
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		var before, dropID []byte
		err := tx.QueryRowContext(ctx, `SELECT request, drop_id FROM create_requests WHERE request_id = $1`, req.GetRequestId()).Scan(&before, &dropID)
		if err == nil {
			var first fulfillmentv1.CreateDropRequest
			if err := proto.Unmarshal(before, &first); err != nil {
				return fmt.Errorf("decoding an earlier request: %w", err)
			}
			if !proto.Equal(&first, req) {
				return ErrReplayed
			}
			d, err = getDrop(ctx, tx, ID(dropID))
			return err
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		terms, schedule, err := plan()
		if err != nil {
			return err
		}
		d = Drop{ID: id, Terms: terms, Schedule: schedule}
		return insertDrop(ctx, tx, req, d)
	})
	if err != nil {
		return Drop{}, fmt.Errorf("creating a drop: %w", err)
	}
	return d, nil
}

func insertDrop(ctx context.Context, tx *sql.Tx, req *fulfillmentv1.CreateDropRequest, d Drop) error {
	revision, err := draw(ctx, tx, catalogRevision, 1)
	if err != nil {
		return err
	}
	d.Terms.Drop.Revision = revision
	if d.Terms.Depots, err = depotsFor(ctx, tx, d.Terms.GetSku()); err != nil { // after the revision is drawn: see noteDepot
		return err
	}
	terms, err := proto.Marshal(d.Terms)
	if err != nil {
		return fmt.Errorf("encoding the terms: %w", err)
	}
	request, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO drops (drop_id, channel_id, open_time_us, close_time_us, over_time_us, units, revision, terms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, d.ID[:], d.Terms.Drop.ChannelId,
		d.OpenTime.UnixMicro(), d.CloseTime.UnixMicro(), d.OverTime.UnixMicro(), d.Terms.Units, revision, terms)
	if err != nil {
		return fmt.Errorf("inserting the drop: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO create_requests (request_id, request, drop_id) VALUES ($1, $2, $3)`, req.GetRequestId(), request, d.ID[:])
	if err != nil {
		return fmt.Errorf("inserting the request: %w", err)
	}
	return nil
}

// querier is a transaction or a read pool.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func getDrop(ctx context.Context, q querier, id ID) (Drop, error) { return getDropHeld(ctx, q, id, "") }

// getDropHeld reads a drop that stays as it is until the transaction ends; hold is sqldb's ForUpdate or ForShare.
func getDropHeld(ctx context.Context, q querier, id ID, hold string) (Drop, error) {
	d, err := scanDrop(q.QueryRowContext(ctx, `SELECT `+dropColumns+` FROM drops WHERE drop_id = $1`+hold, id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return Drop{}, &DropNotFoundError{id}
	}
	if err != nil {
		return Drop{}, fmt.Errorf("reading drop %v: %w", id, err)
	}
	return d, nil
}

// GetDrop reads one drop.
func (s *Store) GetDrop(ctx context.Context, id ID) (Drop, error) {
	return getDrop(ctx, s.db.Read(), id)
}

// DropQuery selects drops, latest opening first.
type DropQuery struct {
	// ChannelID empty: all channels.
	ChannelID string
	// States empty: all states, as they are at Now.
	States []dropclock.State
	Now    time.Time
	// After is the last one of the page before; zero: from the beginning.
	AfterOpenTime time.Time
	AfterID       ID
	Limit         int
}

// ListDrops answers a query.
func (s *Store) ListDrops(ctx context.Context, q DropQuery) ([]Drop, error) {
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	where := []string{"1 = 1"}
	if q.ChannelID != "" {
		where = append(where, "channel_id = "+arg(q.ChannelID))
	}
	if !q.AfterOpenTime.IsZero() {
		open := arg(q.AfterOpenTime.UnixMicro())
		where = append(where, "(open_time_us < "+open+" OR open_time_us = "+open+" AND drop_id < "+arg(q.AfterID[:])+")")
	}
	if len(q.States) > 0 {
		// PostgreSQL refuses a parameter that the text does not use.
		now := sync.OnceValue(func() string { return arg(q.Now.UnixMicro()) })
		armed := sync.OnceValue(func() string { return arg(q.Now.Add(dropclock.Lead).UnixMicro()) }) // open - Lead <= now, written so that the index serves it
		var either []string
		for _, state := range q.States {
			either = append(either, stateClause(state, now, armed))
		}
		where = append(where, "("+strings.Join(either, " OR ")+")")
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+dropColumns+` FROM drops WHERE `+strings.Join(where, " AND ")+
		` ORDER BY open_time_us DESC, drop_id DESC LIMIT CAST(`+arg(q.Limit)+` AS BIGINT)`, args...)
	drops, err := collect(rows, err, scanDropRows)
	if err != nil {
		return nil, fmt.Errorf("listing drops: %w", err)
	}
	return drops, nil
}

// stateClause is dropclock.StateAt in SQL; a test holds the two together.
func stateClause(state dropclock.State, now, armed func() string) string {
	const unsettled = "settled_time_us IS NULL AND "
	const running = unsettled + "paused_time_us IS NULL AND "
	switch state {
	case dropclock.Planned:
		return running + "open_time_us > " + armed()
	case dropclock.Armed:
		return running + "open_time_us <= " + armed() + " AND open_time_us > " + now()
	case dropclock.Open:
		return running + "open_time_us <= " + now() + " AND close_time_us > " + now()
	case dropclock.Paused:
		return unsettled + "paused_time_us IS NOT NULL AND over_time_us > " + now()
	case dropclock.Draining:
		return running + "open_time_us <= " + now() + " AND close_time_us <= " + now() + " AND over_time_us > " + now()
	case dropclock.Closed:
		return unsettled + "over_time_us <= " + now()
	case dropclock.Settled:
		return "settled_time_us IS NOT NULL"
	default:
		return "1 = 0"
	}
}

// Changes lists drops whose last change came after a revision, in the order of revisions, without those that were settled
// at settledUpTo or before: a snapshot leaves them out and still misses nothing that is settled while it is being read.
func (s *Store) Changes(ctx context.Context, after, settledUpTo int64, limit int) ([]Drop, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+dropColumns+` FROM drops
		WHERE revision > $1 AND (settled_time_us IS NULL OR revision > $2) ORDER BY revision LIMIT CAST($3 AS BIGINT)`, after, settledUpTo, limit)
	drops, err := collect(rows, err, scanDropRows)
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue after revision %d: %w", after, err)
	}
	return drops, nil
}

// Revision is the catalogue's last one.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.drawn(ctx, catalogRevision) }

// SettleDrop stores that a drop is SETTLED, once: the clock must say CLOSED and no unit may be leased, else
// NotSettleableError. A repeat changes nothing.
func (s *Store) SettleDrop(ctx context.Context, id ID, now time.Time) (Drop, error) {
	var d Drop
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		var err error
		if d, err = getDropHeld(ctx, tx, id, s.db.ForUpdate()); err != nil || d.Settled {
			return err
		}
		levels, err := levels(ctx, tx, []ID{id})
		if err != nil {
			return err
		}
		if state, leased := d.State(now), levels[id].Leased+levels[id].Quarantined; state != dropclock.Closed || leased > 0 {
			return &NotSettleableError{id, state, leased}
		}
		d.Settled, d.SettleTime = true, now
		if _, err := tx.ExecContext(ctx, `UPDATE drops SET settled_time_us = $1 WHERE drop_id = $2`, now.UnixMicro(), id[:]); err != nil {
			return err
		}
		return revise(ctx, tx, d)
	})
	if err != nil {
		return Drop{}, fmt.Errorf("settling a drop: %w", err)
	}
	return d, nil
}

// revise gives a changed drop its next revision, so that nodes hear of it.
func revise(ctx context.Context, tx *sql.Tx, d Drop) error {
	revision, err := draw(ctx, tx, catalogRevision, 1)
	if err != nil {
		return err
	}
	d.Terms.Drop.Revision = revision
	terms, err := proto.Marshal(d.Terms)
	if err != nil {
		return fmt.Errorf("encoding the terms: %w", err)
	}
	_, err = tx.ExecContext(ctx, `UPDATE drops SET revision = $1, terms = $2 WHERE drop_id = $3`, revision, terms, d.ID[:])
	return err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

const (
	// depotKept is how long a node that does not greet any more still counts: what is sealed to it waits for it. At half, a
	// depot that is closed for a long weekend is forgotten; at double, a drop is sold for twice as long that nobody sends.
	depotKept = 7 * 24 * time.Hour
	// depotRefresh is how old a node's stamp must be before a greeting renews it: nodes greet every few minutes.
	depotRefresh = time.Hour
	// maxDepots is how many a drop names: far more than the keys that a client seals to, so that each region finds some that
	// deliver for it.
	maxDepots = 64
)

// Greet notes what a microfulfillment node can, and forgets those that were not heard of for depotKept. Drops that should
// name other depots now get a revision; changed counts them.
func (s *Store) Greet(ctx context.Context, h *fulfillmentv1.NodeHello, now time.Time) (changed int, err error) {
	if err := s.noteDepot(ctx, h, now); err != nil {
		return 0, fmt.Errorf("noting a microfulfillment node: %w", err)
	}
	return s.nameAllDepots(ctx)
}

// nameAllDepots gives each drop that is not settled the depots that it should name, and counts those that it changed.
func (s *Store) nameAllDepots(ctx context.Context) (changed int, err error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+dropColumns+` FROM drops WHERE settled_time_us IS NULL ORDER BY drop_id`)
	drops, err := collect(rows, err, scanDropRows)
	if err != nil {
		return 0, fmt.Errorf("listing what nodes may send: %w", err)
	}
	for _, d := range drops {
		if d.Terms.GetSku() == "" {
			continue
		}
		revised, err := s.nameDepots(ctx, d.ID)
		if err != nil {
			return changed, fmt.Errorf("telling the depots of drop %v: %w", d.ID, err)
		}
		if revised {
			changed++
		}
	}
	return changed, nil
}

func (s *Store) noteDepot(ctx context.Context, h *fulfillmentv1.NodeHello, now time.Time) error {
	told := &fulfillmentv1.NodeHello{Zones: h.GetZones(), Skus: h.GetSkus(), DeliveryKeys: h.GetDeliveryKeys()}
	hello, err := proto.MarshalOptions{Deterministic: true}.Marshal(told)
	if err != nil {
		return fmt.Errorf("encoding a greeting: %w", err)
	}
	return s.db.Write(ctx, func(tx *sql.Tx) error {
		var before []byte
		var seen int64
		err := tx.QueryRowContext(ctx, `SELECT hello, seen_time_us FROM depots WHERE node_id = $1`, h.GetNodeId()).Scan(&before, &seen)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil && slices.Equal(before, hello) && now.Sub(fromMicros(seen)) < depotRefresh {
			return nil
		}
		// A drop that is being planned is there when this is committed, or reads the depots after it.
		if _, err := tx.ExecContext(ctx, `UPDATE counters SET value = value WHERE name = $1`, catalogRevision); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO depots (node_id, hello, first_time_us, seen_time_us) VALUES ($1, $2, $3, $3)
			ON CONFLICT (node_id) DO UPDATE SET hello = excluded.hello, seen_time_us = excluded.seen_time_us`, h.GetNodeId(), hello, now.UnixMicro()); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM depots WHERE seen_time_us < $1`, now.Add(-depotKept).UnixMicro())
		return err
	})
}

// nameDepots gives a drop the depots that it should name.
func (s *Store) nameDepots(ctx context.Context, id ID) (revised bool, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		revised = false
		d, err := getDropHeld(ctx, tx, id, s.db.ForUpdate())
		if err != nil || d.Settled {
			return err
		}
		depots, err := depotsFor(ctx, tx, d.Terms.GetSku())
		if err != nil || slices.EqualFunc(depots, d.Terms.GetDepots(), func(a, b *fulfillmentv1.Depot) bool { return proto.Equal(a, b) }) {
			return err
		}
		d.Terms.Depots, revised = depots, true
		return revise(ctx, tx, d)
	})
	return revised, err
}

// depotsFor lists the depots that have a good; none for a digital one.
func depotsFor(ctx context.Context, tx *sql.Tx, sku string) ([]*fulfillmentv1.Depot, error) {
	if sku == "" {
		return nil, nil
	}
	var depots []*fulfillmentv1.Depot
	err := each(ctx, tx, func(r *sql.Rows) error {
		var raw []byte
		if err := r.Scan(&raw); err != nil {
			return err
		}
		var h fulfillmentv1.NodeHello
		if err := proto.Unmarshal(raw, &h); err != nil {
			return fmt.Errorf("decoding a greeting: %w", err)
		}
		if slices.Contains(h.GetSkus(), sku) && len(h.GetDeliveryKeys()) > 0 && len(depots) < maxDepots {
			depots = append(depots, &fulfillmentv1.Depot{PublicKey: h.GetDeliveryKeys()[0], Zones: h.GetZones()})
		}
		return nil
	}, `SELECT hello FROM depots ORDER BY first_time_us DESC, node_id`)
	return depots, err
}

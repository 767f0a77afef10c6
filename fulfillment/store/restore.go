package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/fulfillment/stock"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/mutant"
)

const (
	// lost is more revisions and events than can have been lost with what the backup lacks: what readers remember of those
	// stays behind every new one.
	lost = 1 << 32
	// lostEpochs is more disks than a node can have had meanwhile: none gets an epoch again that a lost one had.
	lostEpochs = 1 << 20
	// frozenEpoch is the epoch of leases that nobody was granted: see freeze.
	frozenEpoch = 0
)

// Restore is the last time at which the store was restored; zeros: never.
type Restore struct {
	// Time and End are microseconds; End is 0 while what was lost is being rebuilt.
	Time, End int64
	// After is the last token that the verifier has told of; nil: none. Complete: it has told of all.
	After    []byte
	Complete bool
}

// Recovering tells that it is not over.
func (r Restore) Recovering() bool { return r.Time != 0 && r.End == 0 }

// MarkRestored notes that the store is an old copy: the next process rebuilds what was lost before it acts.
func (s *Store) MarkRestored(ctx context.Context, now time.Time) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		if err := forgetTold(ctx, tx); err != nil {
			return err
		}
		for _, sequence := range []string{catalogRevision, orderCursor} {
			if _, err := draw(ctx, tx, sequence, lost); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO restore_nodes (node_id, backup_epoch, wanted_epoch, told_epoch, fresh)
			SELECT node_id, epoch, epoch, -1, 0 FROM nodes`); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE restores SET end_time_us = $1 WHERE end_time_us = 0`, now.UnixMicro()); err != nil { // begun again
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO restores (restore_time_us, end_time_us, after_token, complete) VALUES ($1, 0, $2, 0)
			ON CONFLICT DO NOTHING`, now.UnixMicro(), []byte{})
		return err
	})
	if err != nil {
		return fmt.Errorf("marking the store as restored: %w", err)
	}
	return nil
}

func forgetTold(ctx context.Context, tx *sql.Tx) error {
	for _, table := range []string{"restore_nodes", "restore_seals", "restore_leases", "restore_facts", "restore_orders"} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table); err != nil {
			return fmt.Errorf("emptying %s: %w", table, err)
		}
	}
	return nil
}

// Restore reads it.
func (s *Store) Restore(ctx context.Context) (Restore, error) { return restoreOf(ctx, s.db.Read()) }

func restoreOf(ctx context.Context, q querier) (Restore, error) {
	var r Restore
	err := q.QueryRowContext(ctx, `SELECT restore_time_us, end_time_us, after_token, complete <> 0 FROM restores ORDER BY restore_time_us DESC LIMIT 1`).
		Scan(&r.Time, &r.End, &r.After, &r.Complete)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return Restore{}, fmt.Errorf("reading when the store was restored: %w", err)
	}
	return r, nil
}

// Report is what a node says of itself during a restore, or a part of it.
type Report struct {
	Node     Node
	Leases   []*fulfillmentv1.HeldSerials
	Drops    []*fulfillmentv1.CatalogDrop
	Keys     []*offerv1.SigningKey // other nodes'
	Complete bool
}

// Report keeps what a node holds, and makes it the node again that it was: its epoch never goes back. After the restore it
// changes nothing. Errors: as Join's.
func (s *Store) Report(ctx context.Context, r Report, now time.Time) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		restore, err := restoreOf(ctx, tx)
		if err != nil || !restore.Recovering() {
			return err
		}
		epoch, fresh, err := placeReporter(ctx, tx, r.Node, now)
		if err != nil {
			return err
		}
		if !fresh {
			if err := addKey(ctx, tx, r.Node.ID[:], r.Node.Key); err != nil {
				return err
			}
			if err := keepHoldings(ctx, tx, r); err != nil {
				return err
			}
		}
		if err := tellNodes(ctx, tx, Told{Keys: r.Keys}); err != nil {
			return err
		}
		for _, d := range r.Drops {
			if err := mergeDrop(ctx, tx, d, now); err != nil {
				return fmt.Errorf("drop %s: %w", d.GetDrop().GetDropId(), err)
			}
		}
		if !r.Complete {
			return nil
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO restore_nodes (node_id, backup_epoch, wanted_epoch, told_epoch, fresh) VALUES ($1, 0, 0, $2, $3)
			ON CONFLICT (node_id) DO UPDATE SET told_epoch = excluded.told_epoch, fresh = excluded.fresh`, r.Node.ID[:], epoch, number(fresh))
		return err
	})
	if err != nil {
		return fmt.Errorf("taking a node's report: %w", err)
	}
	return nil
}

// placeReporter finds out which process of a node reports, and its epoch. fresh: one that never joined from its disk, and has
// nothing.
func placeReporter(ctx context.Context, tx *sql.Tx, n Node, now time.Time) (epoch int64, fresh bool, err error) {
	var disk, boot string
	var life int64
	err = tx.QueryRowContext(ctx, `UPDATE nodes SET seen_time_us = $1 WHERE node_id = $2 RETURNING disk_id, epoch, life, boot_id`, now.UnixMicro(), n.ID[:]).
		Scan(&disk, &epoch, &life, &boot)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, false, err
	}
	same := err == nil && disk == n.DiskID
	switch {
	case same && (n.Life < life || n.Life == life && n.BootID != boot):
		return 0, false, &SupersededError{n.ID}
	case !same && n.Epoch <= epoch: // else it joined from this disk after the backup
		var before bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM node_disks WHERE node_id = $1 AND disk_id = $2)`, n.ID[:], n.DiskID).Scan(&before); err != nil {
			return 0, false, err
		}
		if before {
			return 0, false, &DiskChangedError{n.ID}
		}
		return n.Epoch, true, nil
	}
	epoch = max(n.Epoch, epoch)
	if _, err := tx.ExecContext(ctx, `INSERT INTO nodes (node_id, disk_id, epoch, region, seen_time_us, life, boot_id) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (node_id) DO UPDATE SET disk_id = excluded.disk_id, epoch = excluded.epoch, region = excluded.region, life = excluded.life, boot_id = excluded.boot_id`,
		n.ID[:], n.DiskID, epoch, n.Region, now.UnixMicro(), n.Life, n.BootID); err != nil {
		return 0, false, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO node_disks (node_id, disk_id, epoch) VALUES ($1, $2, $3) ON CONFLICT (node_id, disk_id) DO NOTHING`,
		n.ID[:], n.DiskID, epoch); err != nil {
		return 0, false, err
	}
	return epoch, false, nil
}

func keepHoldings(ctx context.Context, tx *sql.Tx, r Report) error {
	for _, h := range r.Leases {
		l := h.GetLease()
		lease, err := ParseID(l.GetLeaseId())
		if err != nil {
			return err
		}
		drop, err := ParseID(l.GetDropId())
		if err != nil {
			return err
		}
		held, err := proto.Marshal(h)
		if err != nil {
			return fmt.Errorf("encoding a lease: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO restore_leases (lease_id, drop_id, node_id, epoch, held) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (lease_id) DO UPDATE SET held = excluded.held`, lease[:], drop[:], r.Node.ID[:], l.GetEpoch(), held); err != nil {
			return err
		}
	}
	return nil
}

// mergeDrop takes a drop as a node serves it, if it is newer than what is here.
func mergeDrop(ctx context.Context, tx *sql.Tx, told *fulfillmentv1.CatalogDrop, now time.Time) error {
	id, err := ParseID(told.GetDrop().GetDropId())
	if err != nil {
		return err
	}
	before, err := getDrop(ctx, tx, id)
	missing := (*DropNotFoundError)(nil)
	if err != nil && !errors.As(err, &missing) {
		return err
	}
	if missing == nil && (before.Settled || before.Terms.GetDrop().GetRevision() >= told.GetDrop().GetRevision()) {
		return nil
	}
	terms := catalog.Terms{OpenTime: told.GetDrop().GetOpenTime().AsTime(), CloseTime: told.GetDrop().GetCloseTime().AsTime()}
	for _, a := range told.GetArms() {
		terms.Arms = append(terms.Arms, catalog.Arm{TokenTTL: a.GetTokenTtl().AsDuration()})
	}
	schedule := terms.Schedule()
	if schedule.OverTime.Before(before.OverTime) {
		schedule.OverTime = before.OverTime
	}
	if planned := told.GetDrop().GetPlannedCloseTime(); planned != nil {
		schedule.TimeBack = schedule.CloseTime.Sub(planned.AsTime())
	}
	var paused, settled any
	switch told.GetDrop().GetState() {
	case offerv1.DropState_DROP_STATE_PAUSED:
		paused = now.UnixMicro()
	case offerv1.DropState_DROP_STATE_SETTLED:
		settled = now.UnixMicro()
	}
	next := proto.CloneOf(told)
	next.Drop.State, next.Drop.Availability = 0, 0
	raw, err := proto.Marshal(next)
	if err != nil {
		return fmt.Errorf("encoding the terms: %w", err)
	}
	revision, err := draw(ctx, tx, catalogRevision, 1) // in the row alone: of the terms, which node's are newest still matters
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO drops (drop_id, channel_id, open_time_us, close_time_us, over_time_us, units, revision, terms, paused_time_us, settled_time_us, time_back_us)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (drop_id) DO UPDATE SET open_time_us = excluded.open_time_us,
		close_time_us = excluded.close_time_us, over_time_us = excluded.over_time_us, revision = excluded.revision, terms = excluded.terms,
		paused_time_us = excluded.paused_time_us, settled_time_us = excluded.settled_time_us, time_back_us = excluded.time_back_us`,
		id[:], next.GetDrop().GetChannelId(), schedule.OpenTime.UnixMicro(), schedule.CloseTime.UnixMicro(), schedule.OverTime.UnixMicro(),
		next.GetUnits(), revision, raw, paused, settled, schedule.TimeBack.Microseconds())
	return err
}

// Told is a page of what the verifier knows.
type Told struct {
	// Restore is the one that it is about.
	Restore  int64
	Facts    []UnitFact
	Orders   []*fulfillmentv1.Order
	After    []byte
	Complete bool
	Keys     []*offerv1.SigningKey
	Nodes    []ID
	Seals    []Seal
}

// UnitFact is what the verifier knows of one redemption.
type UnitFact struct {
	Claim
	Standing stock.Standing
	WasSold  bool
}

// Seal is the end of a journal, which the verifier has read up to there.
type Seal struct {
	NodeID ID
	Epoch  int64
}

// ErrOtherRestore means: the page belongs to a restore that is over, or was begun again.
var ErrOtherRestore = errors.New("store: told of another restore")

// Tell keeps a page of what the verifier knows. Error: ErrOtherRestore.
func (s *Store) Tell(ctx context.Context, t Told) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		r, err := restoreOf(ctx, tx)
		if err != nil {
			return err
		}
		if !r.Recovering() || r.Time != t.Restore {
			return ErrOtherRestore
		}
		for _, f := range t.Facts {
			if _, err := tx.ExecContext(ctx, `INSERT INTO restore_facts (token_id, drop_id, serial, lease_id, standing, was_sold) VALUES ($1, $2, $3, $4, $5, $6)
				ON CONFLICT (token_id, drop_id, serial, lease_id) DO UPDATE SET standing = excluded.standing, was_sold = excluded.was_sold`,
				f.TokenID[:], f.DropID[:], f.Serial, f.LeaseID[:], int(f.Standing), number(f.WasSold)); err != nil {
				return err
			}
		}
		for _, o := range t.Orders {
			id, err := ParseID(o.GetOrderId())
			if err != nil {
				return err
			}
			raw, err := proto.Marshal(o)
			if err != nil {
				return fmt.Errorf("encoding an order: %w", err)
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO restore_orders (order_id, told) VALUES ($1, $2) ON CONFLICT (order_id) DO UPDATE SET told = excluded.told`,
				id[:], raw); err != nil {
				return err
			}
		}
		if err := tellNodes(ctx, tx, t); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE restores SET after_token = $1, complete = CASE WHEN complete <> 0 THEN 1 ELSE $2 END WHERE restore_time_us = $3`,
			append([]byte{}, t.After...), number(t.Complete), r.Time)
		return err
	})
	if err != nil {
		return fmt.Errorf("taking what the verifier tells: %w", err)
	}
	return nil
}

// tellNodes makes nodes known that joined after the backup. A key of a known node that is not known is another disk's: of
// that node only a report under a later epoch counts.
func tellNodes(ctx context.Context, tx *sql.Tx, t Told) error {
	expect := func(node ID, region string) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO nodes (node_id, disk_id, epoch, region, seen_time_us) VALUES ($1, '', 0, $2, 0) ON CONFLICT (node_id) DO NOTHING`,
			node[:], region); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO restore_nodes (node_id, backup_epoch, wanted_epoch, told_epoch, fresh) VALUES ($1, 0, 1, -1, 0)
			ON CONFLICT (node_id) DO UPDATE SET wanted_epoch = restore_nodes.backup_epoch + 1`, node[:])
		return err
	}
	for _, k := range t.Keys {
		node, err := ParseID(k.GetNodeId())
		if err != nil {
			return err
		}
		var known bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM signing_keys WHERE key_id = $1)`, k.GetKeyId()).Scan(&known); err != nil {
			return err
		}
		if known {
			continue
		}
		if err := expect(node, k.GetRegion()); err != nil {
			return err
		}
		if err := addKey(ctx, tx, node[:], k); err != nil {
			return err
		}
	}
	for _, node := range t.Nodes {
		var known bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM nodes WHERE node_id = $1)`, node[:]).Scan(&known); err != nil {
			return err
		}
		if known {
			continue
		}
		if err := expect(node, ""); err != nil {
			return err
		}
	}
	for _, seal := range t.Seals {
		if _, err := tx.ExecContext(ctx, `INSERT INTO restore_seals (node_id, epoch) VALUES ($1, $2) ON CONFLICT DO NOTHING`, seal.NodeID[:], seal.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// Unreported lists the nodes that are still waited for, but for those that nobody waits for. One that retired has nothing,
// and what it sold the verifier knows.
func (s *Store) Unreported(ctx context.Context, without []ID) ([]ID, error) {
	return unreported(ctx, s.db.Read(), without)
}

func unreported(ctx context.Context, q querier, without []ID) ([]ID, error) {
	rows, err := q.QueryContext(ctx, `SELECT r.node_id FROM restore_nodes r WHERE r.fresh = 0 AND r.told_epoch < r.wanted_epoch
		AND NOT EXISTS (SELECT 1 FROM restore_seals s WHERE s.node_id = r.node_id AND s.epoch >= r.wanted_epoch) ORDER BY r.node_id`)
	nodes, err := collect(rows, err, func(rows *sql.Rows) (id []byte, err error) { return id, rows.Scan(&id) })
	if err != nil {
		return nil, fmt.Errorf("listing nodes that have not reported: %w", err)
	}
	var missing []ID
	for _, n := range nodes {
		if id := ID(n); !slices.Contains(without, id) && !mutant.On(mutant.SilentUnfrozen) {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

func number(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

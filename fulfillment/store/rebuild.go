package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/stock"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// Rebuilding is how to end a restore.
type Rebuilding struct {
	// Without are nodes that are gone for good, as an operator says.
	Without []ID
	// NewID names leases of frozen units.
	NewID func() (ID, error)
	// PackUntil is until when a depot that was given a parcel may keep it.
	PackUntil time.Time
}

// Rebuilt is what came of it.
type Rebuilt struct {
	Sold, Leased, Free, Frozen int
	// Lost are nodes of which a disk is lost, or that are gone: because of them units are frozen.
	Lost []ID
	// Unknown are drops that the verifier has purchases of and nobody knows.
	Unknown []ID
	// Contradicted units are sold to purchases that the verifier does not have.
	Contradicted int
	// Placed orders are placed again; Dead ones may be with a depot or not, and their viewers choose.
	Placed, Dead int
}

// Rebuild ends the restore when the verifier has told everything and every node has reported; done is false before. From here
// on every unit is what stock.Rebuild says it is.
func (s *Store) Rebuild(ctx context.Context, b Rebuilding, now time.Time) (out Rebuilt, done bool, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		out, done = Rebuilt{}, false
		// Written before it is read: another replica's comes before all of this or after it.
		n, err := affected(tx.ExecContext(ctx, `UPDATE restores SET end_time_us = $1 WHERE end_time_us = 0 AND complete <> 0`, now.UnixMicro()))
		if err != nil || n == 0 {
			return err
		}
		waited, err := unreported(ctx, tx, b.Without)
		if err != nil {
			return err
		}
		if len(waited) > 0 {
			_, err := tx.ExecContext(ctx, `UPDATE restores SET end_time_us = 0 WHERE end_time_us = $1`, now.UnixMicro())
			return err
		}
		done = true
		return rebuild(ctx, tx, b, &out, now)
	})
	if err != nil {
		return Rebuilt{}, false, fmt.Errorf("rebuilding what was lost: %w", err)
	}
	return out, done, nil
}

func rebuild(ctx context.Context, tx *sql.Tx, b Rebuilding, out *Rebuilt, now time.Time) error {
	restore, err := restoreOf(ctx, tx)
	if err != nil {
		return err
	}
	if err := endHolders(ctx, tx, b, out, now); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO releases (token_id, drop_id, serial, lease_id, was_sold, release_time_us)
		SELECT token_id, drop_id, serial, lease_id, was_sold, $1 FROM restore_facts WHERE standing = $2 ON CONFLICT DO NOTHING`,
		now.UnixMicro(), int(stock.Released)); err != nil {
		return fmt.Errorf("rebuilding releases: %w", err)
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+dropColumns+` FROM drops WHERE settled_time_us IS NULL OR settled_time_us >= $1 ORDER BY drop_id`, restore.Time)
	drops, err := collect(rows, err, scanDropRows)
	if err != nil {
		return fmt.Errorf("listing drops: %w", err)
	}
	for _, d := range drops {
		if err := insertLeases(ctx, tx, d.ID, now); err != nil {
			return fmt.Errorf("drop %v: %w", d.ID, err)
		}
		r := rebuilder{tx: tx, b: b, out: out, drop: d, now: now}
		if err := r.run(ctx, fromMicros(restore.Time)); err != nil {
			return fmt.Errorf("drop %v: %w", d.ID, err)
		}
		if err := revise(ctx, tx, d); err != nil { // so that every node hears of it
			return err
		}
	}
	if err := rebuildOrders(ctx, tx, b, out, now); err != nil {
		return err
	}
	rows, err = tx.QueryContext(ctx, `SELECT DISTINCT f.drop_id FROM restore_facts f LEFT JOIN drops d ON d.drop_id = f.drop_id WHERE d.drop_id IS NULL ORDER BY f.drop_id`)
	if out.Unknown, err = collect(rows, err, scanID); err != nil {
		return fmt.Errorf("looking for drops that nobody knows: %w", err)
	}
	return forgetTold(ctx, tx)
}

func scanID(rows *sql.Rows) (ID, error) {
	var id []byte
	if err := rows.Scan(&id); err != nil {
		return ID{}, err
	}
	return ID(id), nil
}

// endHolders puts leases aside whose nodes are gone, or came back without them, and finds those that may have had leases
// which nobody told of: whose disk was lost after the backup, or which an operator gave up. A sealed journal had none.
func endHolders(ctx context.Context, tx *sql.Tx, b Rebuilding, out *Rebuilt, now time.Time) error {
	type holder struct {
		id                           ID
		epoch, backup, wanted, seals int64
		told, fresh                  bool
	}
	rows, err := tx.QueryContext(ctx, `SELECT r.node_id, n.epoch, r.backup_epoch, r.wanted_epoch, r.told_epoch >= r.wanted_epoch, r.fresh <> 0,
			(SELECT COUNT(*) FROM restore_seals s WHERE s.node_id = r.node_id AND s.epoch >= r.backup_epoch AND s.epoch < n.epoch)
			+ (SELECT COUNT(*) FROM restore_seals s WHERE s.node_id = r.node_id AND s.epoch >= n.epoch)
		FROM restore_nodes r JOIN nodes n ON n.node_id = r.node_id ORDER BY r.node_id`)
	holders, err := collect(rows, err, func(rows *sql.Rows) (h holder, err error) {
		var id []byte
		if err := rows.Scan(&id, &h.epoch, &h.backup, &h.wanted, &h.told, &h.fresh, &h.seals); err != nil {
			return h, err
		}
		h.id = ID(id)
		return h, nil
	})
	if err != nil {
		return fmt.Errorf("listing who held units: %w", err)
	}
	for _, h := range holders {
		switch passed := h.epoch - max(h.backup, 1); {
		case h.fresh: // its Join raises the epoch; the disk that it was heard of with is lost, unless that was sealed
			if _, err := quarantine(ctx, tx, h.id, nil, now); err != nil {
				return err
			}
			if h.seals < max(passed+1, 1) {
				out.Lost = append(out.Lost, h.id)
			}
		case !h.told && slices.Contains(b.Without, h.id):
			out.Lost = append(out.Lost, h.id)
			if _, err := tx.ExecContext(ctx, `UPDATE nodes SET epoch = epoch + $1 WHERE node_id = $2`, lostEpochs, h.id[:]); err != nil {
				return err
			}
			if _, err := quarantine(ctx, tx, h.id, nil, now); err != nil {
				return err
			}
		case h.told && h.seals < passed:
			out.Lost = append(out.Lost, h.id)
		}
	}
	// Units of a disk that another one took the place of, or of a journal that was sealed.
	_, err = tx.ExecContext(ctx, `UPDATE leases SET state = $1, quarantine_time_us = $2 WHERE state = $3
		AND EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = leases.node_id AND (n.epoch > leases.epoch
			OR EXISTS (SELECT 1 FROM restore_seals s WHERE s.node_id = n.node_id AND s.epoch >= leases.epoch)))`,
		quarantinedLease, now.UnixMicro(), activeLease)
	return err
}

// insertLeases stores the leases of a drop that nodes reported and the backup does not know.
func insertLeases(ctx context.Context, tx *sql.Tx, drop ID, now time.Time) error {
	type lease struct {
		id, node []byte
		epoch    int64
		held     []byte
		current  bool
	}
	rows, err := tx.QueryContext(ctx, `SELECT r.lease_id, r.node_id, r.epoch, r.held, r.epoch = n.epoch FROM restore_leases r
		JOIN nodes n ON n.node_id = r.node_id WHERE r.drop_id = $1`, drop[:])
	all, err := collect(rows, err, func(rows *sql.Rows) (l lease, err error) {
		return l, rows.Scan(&l.id, &l.node, &l.epoch, &l.held, &l.current)
	})
	if err != nil {
		return fmt.Errorf("listing reported leases: %w", err)
	}
	for _, l := range all {
		var held fulfillmentv1.HeldSerials
		if err := proto.Unmarshal(l.held, &held); err != nil {
			return fmt.Errorf("decoding a reported lease: %w", err)
		}
		raw, err := proto.Marshal(held.GetLease())
		if err != nil {
			return fmt.Errorf("encoding a lease: %w", err)
		}
		granted, ok := ids.MadeAt(held.GetLease().GetLeaseId())
		if !ok {
			granted = now
		}
		state, aside := activeLease, any(nil)
		if !l.current {
			state, aside = quarantinedLease, now.UnixMicro()
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO leases (lease_id, drop_id, node_id, epoch, grant_time_us, lease, state, quarantine_time_us)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (lease_id) DO NOTHING`,
			l.id, drop[:], l.node, l.epoch, granted.UnixMicro(), raw, state, aside); err != nil {
			return fmt.Errorf("inserting a lease: %w", err)
		}
	}
	return nil
}

// rebuilder rebuilds the units of one drop.
type rebuilder struct {
	tx   *sql.Tx
	b    Rebuilding
	out  *Rebuilt
	drop Drop
	now  time.Time

	units    map[uint32]stock.Unit // of the backup
	evidence map[uint32]*stock.Evidence
	reported map[ID]bool // leases
}

func (r *rebuilder) of(serial uint32) *stock.Evidence {
	e := r.evidence[serial]
	if e == nil {
		e = &stock.Evidence{Backup: stock.Unit{State: stock.Free}}
		r.evidence[serial] = e
	}
	return e
}

func (r *rebuilder) run(ctx context.Context, restored time.Time) error {
	if err := r.collect(ctx); err != nil {
		return err
	}
	var made uint32
	for serial := range r.units {
		made = max(made, serial)
	}
	most := made
	for serial := range r.evidence {
		most = max(most, serial)
	}
	freeze := len(r.out.Lost) > 0 && !r.drop.Settled && dropclock.StateAt(r.drop.OpenTime, r.drop.CloseTime, 0, restored) != dropclock.Planned
	if freeze {
		most = max(most, r.drop.Terms.GetUnits())
	}
	if err := makeUnits(ctx, r.tx, r.drop.ID, int(most)-int(made)); err != nil {
		return err
	}
	var changed []uint32
	next := map[uint32]stock.Unit{}
	var frozen []uint32
	for serial := uint32(1); serial <= most; serial++ {
		was, known := r.units[serial]
		if !known {
			was = stock.Unit{State: stock.Free}
		}
		e := r.of(serial)
		e.Reported = r.reported[was.Lease]
		u, contradicted := stock.Rebuild(*e)
		if r.drop.Settled && u.State == stock.Leased {
			u = stock.Unit{State: stock.Free}
		}
		if contradicted {
			r.out.Contradicted++
		}
		switch {
		case u.State == stock.Sold:
			r.out.Sold++
		case u.State == stock.Leased:
			r.out.Leased++
		case freeze:
			frozen = append(frozen, serial)
			continue
		default:
			r.out.Free++
		}
		if u != was {
			changed, next[serial] = append(changed, serial), u
		}
	}
	if len(frozen) > 0 {
		lease, err := r.freeze(ctx, frozen)
		if err != nil {
			return err
		}
		for _, serial := range frozen {
			changed, next[serial] = append(changed, serial), stock.Unit{State: stock.Leased, Lease: lease}
		}
	}
	return r.write(ctx, changed, next)
}

// collect reads all that is known of the drop's units.
func (r *rebuilder) collect(ctx context.Context) error {
	r.units, r.evidence, r.reported = map[uint32]stock.Unit{}, map[uint32]*stock.Evidence{}, map[ID]bool{}
	err := each(ctx, r.tx, func(rows *sql.Rows) error {
		var serial uint32
		var state int
		var lease, token []byte
		if err := rows.Scan(&serial, &state, &lease, &token); err != nil {
			return err
		}
		u := stock.Unit{State: stock.State(state)}
		copy(u.Lease[:], lease)
		copy(u.Token[:], token)
		r.units[serial] = u
		r.of(serial).Backup = u
		return nil
	}, `SELECT serial, state, lease_id, token_id FROM units WHERE drop_id = $1`, r.drop.ID[:])
	if err != nil {
		return fmt.Errorf("reading units: %w", err)
	}
	err = each(ctx, r.tx, func(rows *sql.Rows) error {
		var id, raw []byte
		var state int
		if err := rows.Scan(&id, &raw, &state); err != nil {
			return err
		}
		var held fulfillmentv1.HeldSerials
		if err := proto.Unmarshal(raw, &held); err != nil {
			return fmt.Errorf("decoding a reported lease: %w", err)
		}
		r.reported[ID(id)] = true
		if state == closedLease { // nothing of it settles any more
			return nil
		}
		back := map[uint32]bool{}
		for _, serial := range held.GetGivenBack() {
			back[serial] = true
		}
		for _, serial := range held.GetLease().GetSerials() {
			if !back[serial] && serial >= 1 && serial <= r.drop.Terms.GetUnits() {
				e := r.of(serial)
				e.Holders = append(e.Holders, ID(id))
			}
		}
		return nil
	}, `SELECT r.lease_id, r.held, l.state FROM restore_leases r JOIN leases l ON l.lease_id = r.lease_id WHERE r.drop_id = $1`, r.drop.ID[:])
	if err != nil {
		return fmt.Errorf("reading what nodes reported: %w", err)
	}
	err = each(ctx, r.tx, func(rows *sql.Rows) error {
		var token, lease []byte
		var serial uint32
		var standing int
		if err := rows.Scan(&token, &serial, &lease, &standing); err != nil {
			return err
		}
		if serial <= r.drop.Terms.GetUnits() {
			e := r.of(serial)
			e.Facts = append(e.Facts, stock.Fact{Lease: ID(lease), Token: ID(token), Standing: stock.Standing(standing)})
		}
		return nil
	}, `SELECT token_id, serial, lease_id, standing FROM restore_facts WHERE drop_id = $1`, r.drop.ID[:])
	if err != nil {
		return fmt.Errorf("reading what the verifier told: %w", err)
	}
	return nil
}

// freeze makes a quarantined lease of the units that may have been lent to a holder who is lost. It is closed like any other
// such lease, when nobody who was lent one of them can come any more; a genuine receipt takes its unit out (thaw).
func (r *rebuilder) freeze(ctx context.Context, serials []uint32) (ID, error) {
	id, err := r.b.NewID()
	if err != nil {
		return ID{}, err
	}
	r.out.Frozen += len(serials)
	holder := r.out.Lost[0]
	raw, err := proto.Marshal(&fulfillmentv1.Lease{
		LeaseId: id.String(), DropId: r.drop.ID.String(), NodeId: holder.String(), Epoch: frozenEpoch, Serials: serials,
	})
	if err != nil {
		return ID{}, fmt.Errorf("encoding a lease: %w", err)
	}
	_, err = r.tx.ExecContext(ctx, `INSERT INTO leases (lease_id, drop_id, node_id, epoch, grant_time_us, lease, state, quarantine_time_us)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $5)`, id[:], r.drop.ID[:], holder[:], frozenEpoch, r.now.UnixMicro(), raw, quarantinedLease)
	if err != nil {
		return ID{}, fmt.Errorf("freezing units: %w", err)
	}
	return id, nil
}

// write stores units that are not what they were: first all as free, since two may change their tokens.
func (r *rebuilder) write(ctx context.Context, changed []uint32, next map[uint32]stock.Unit) error {
	for _, serial := range changed {
		if _, err := r.tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = NULL, token_id = NULL WHERE drop_id = $2 AND serial = $3`,
			free, r.drop.ID[:], serial); err != nil {
			return fmt.Errorf("rebuilding unit %d: %w", serial, err)
		}
	}
	for _, serial := range changed {
		u := next[serial]
		if u.State == stock.Free {
			continue
		}
		var token any
		if u.State == stock.Sold {
			token = u.Token[:]
		}
		if _, err := r.tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = $2, token_id = $3 WHERE drop_id = $4 AND serial = $5`,
			int(u.State), u.Lease[:], token, r.drop.ID[:], serial); err != nil {
			return fmt.Errorf("rebuilding unit %d: %w", serial, err)
		}
	}
	return nil
}

// rebuildOrders takes over how orders ended, and places those again that did not. A parcel is its holder's or nobody's: what a
// depot was given by the backup is still its own; whether another order has one is not known, so nobody else gets it.
func rebuildOrders(ctx context.Context, tx *sql.Tx, b Rebuilding, out *Rebuilt, now time.Time) error {
	rows, err := tx.QueryContext(ctx, `SELECT told FROM restore_orders ORDER BY order_id`)
	told, err := collect(rows, err, func(rows *sql.Rows) (*fulfillmentv1.Order, error) {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return nil, err
		}
		o := &fulfillmentv1.Order{}
		return o, proto.Unmarshal(raw, o)
	})
	if err != nil {
		return fmt.Errorf("reading what the verifier told of orders: %w", err)
	}
	rows, err = tx.QueryContext(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.sku <> '' AND o.state IN ($1, $2)`, orders.Ready, orders.Leased)
	parcels, err := collect(rows, err, func(rows *sql.Rows) (Order, error) { return scanOrder(rows) })
	if err != nil {
		return fmt.Errorf("listing parcels: %w", err)
	}
	next := map[ID]Order{}
	for _, o := range parcels {
		if o.State == orders.Ready {
			o.Order = orders.Order{State: orders.Dead, Attempt: o.Attempt, Until: now}
			out.Dead++
		} else {
			o.State, o.Until = orders.Acked, b.PackUntil
		}
		next[o.ID] = o
	}
	for _, t := range told {
		if err := tellOrder(ctx, tx, t, next, out, now); err != nil {
			return fmt.Errorf("order %s: %w", t.GetOrderId(), err)
		}
	}
	list := make([]Order, 0, len(next))
	for _, id := range sortedIDs(next) {
		list = append(list, next[id])
	}
	// Dead ones first: their units may have been sold again.
	slices.SortStableFunc(list, func(a, b Order) int { return bytes.Compare(dead(a), dead(b)) })
	return storeOrders(ctx, tx, list, now)
}

func dead(o Order) []byte {
	if o.State == orders.Dead {
		return []byte{0}
	}
	return []byte{1}
}

// tellOrder adds to next what an order is by the verifier's word.
func tellOrder(ctx context.Context, tx *sql.Tx, t *fulfillmentv1.Order, next map[ID]Order, out *Rebuilt, now time.Time) error {
	id, err := ParseID(t.GetOrderId())
	if err != nil {
		return err
	}
	drop, err := ParseID(t.GetDropId())
	if err != nil {
		return err
	}
	known, err := getOrders(ctx, tx, []ID{id}, "")
	if err != nil {
		return err
	}
	o, there := known[id]
	if !there {
		d, err := getDrop(ctx, tx, drop)
		if err != nil { // named among the unknown
			return ignoreMissing(err)
		}
		o = Order{ID: id, PurchaseID: t.GetPurchaseId(), DropID: drop, Serial: t.GetSerial(), SKU: d.Terms.GetSku(), PlaceTime: now}
	}
	state := orders.State(t.GetState())
	switch {
	case state != orders.Ready && o.State == state, state == orders.Ready && there: // as it was, or above
		return nil
	case state == orders.Ready && o.Physical():
		state = orders.Dead
		out.Dead++
	case state == orders.Ready:
		out.Placed++
	}
	o.Order = orders.Order{State: state, Attempt: o.Attempt, Worker: o.Worker, Until: now}
	if state == orders.Delivered {
		o.LicenceKey = t.GetLicenceKey()
	}
	next[id] = o
	return nil
}

func storeOrders(ctx context.Context, tx *sql.Tx, list []Order, now time.Time) error {
	if len(list) == 0 {
		return nil
	}
	cursor, err := draw(ctx, tx, orderCursor, len(list))
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].Position == 0 {
			list[i].Position = cursor + int64(i)
		}
		if list[i].State != orders.Ready && list[i].Physical() {
			if _, err := tx.ExecContext(ctx, `DELETE FROM order_details WHERE order_id = $1`, list[i].ID[:]); err != nil {
				return err
			}
		}
	}
	for some := range sqldb.Pieces(list) {
		if _, err := tx.ExecContext(ctx, insertOrder+sqldb.Values(len(some), orderFields)+` ON CONFLICT (order_id) DO UPDATE SET
			state = excluded.state, worker = excluded.worker, attempt = excluded.attempt, until_us = excluded.until_us,
			state_time_us = excluded.state_time_us, licence_key = excluded.licence_key`, orderRows(some, now)...); err != nil {
			return fmt.Errorf("storing orders: %w", err)
		}
	}
	return insertEvents(ctx, tx, cursor, list, now)
}

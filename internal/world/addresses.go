package world

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/journal"
)

// An address is sealed by its viewer and opened by a depot. Whatever is stored in between is searched for it afterwards.

func (w *world) newViewer(p *viewerPlan, draws *rand.Rand) *viewer {
	return &viewer{viewerPlan: p, w: w, draws: draws, route: p.Regions, envelopes: map[string][]byte{}}
}

// seal makes the envelope of a wish; none for a viewer who has nothing sent.
func (v *viewer) seal(requestID string, keys [][]byte) []byte {
	if v.Details == "" || mutant.On(mutant.AddressInClear) {
		return []byte(v.Details)
	}
	drop, err := ids.Bytes(v.w.drops[v.Drop])
	if err != nil {
		panic("world: " + err.Error()) // fulfillment made it
	}
	purchase := token.PurchaseID(token.DeriveTokenID(v.Session[:], drop, requestID))
	envelope, err := sealed.Seal([]byte(v.Details), keys, sealed.Purchase{DropID: v.w.drops[v.Drop], ID: purchase})
	if err != nil {
		v.w.watch.surprise("a viewer could not seal to %d keys: %v", len(keys), err)
	}
	return envelope
}

// watchKeys learns from the drops as they are shown whom details are sealed to: who claims has no offer that says so.
func (v *viewer) watchKeys(ctx context.Context) (keys [][]byte, ok bool) {
	if v.Details == "" {
		return nil, true
	}
	_, err := v.roam(ctx, func(ctx context.Context, region string) error {
		stream, err := v.at(region).WatchDrops(ctx, &offerv1.WatchDropsRequest{})
		if err != nil {
			return err
		}
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		drops := m.GetSnapshot().GetDrops()
		i := slices.IndexFunc(drops, func(d *offerv1.Drop) bool { return d.GetDropId() == v.w.drops[v.Drop] })
		if i < 0 || len(drops[i].GetDeliveryKeys()) == 0 {
			return errNoKeys
		}
		keys = drops[i].GetDeliveryKeys()
		return nil
	})
	if err != nil {
		v.leave(ctx, "WatchDrops", err)
	}
	return keys, err == nil
}

// errNoKeys is tried elsewhere, like every answer of a node that has not heard of something yet.
var errNoKeys = status.Error(codes.Unavailable, "no key is known yet")

// addressForms are the spellings in which an address could be stored.
func addressForms() [][]byte {
	const text = canary + "-details-"
	forms := [][]byte{[]byte(text), fmt.Appendf(nil, "%x", text)}
	for shift := range 3 {
		raw := append(bytes.Repeat([]byte("x"), shift), text...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			form := encoding.EncodeToString(raw)
			forms = append(forms, []byte(form[shift+min(shift, 1):len(form)-1])) // its ends mix with what is beside it
		}
	}
	return forms
}

// searchStores looks for addresses in every record of every journal and in every row of the centre's stores; the depots' own
// are for those who pack.
func (w *world) searchStores(ctx context.Context, e *Evidence) error {
	forms, found := addressForms(), map[string]bool{}
	look := func(where string, what []byte) {
		if !found[where] && slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Contains(what, f) }) {
			found[where] = true
			e.Readable = append(e.Readable, where)
		}
	}
	for _, n := range w.allNodes() {
		for _, disk := range append([]*journal.Disk{n.disk}, n.lost...) {
			records, err := readDisk(ctx, disk)
			if err != nil {
				return err
			}
			for _, r := range records {
				look("the journal of "+n.name, r.Payload)
			}
		}
	}
	var errs []error
	for name, db := range map[string]*sqldb.DB{"fulfillment": w.centre.stockDB, "the verifier": w.centre.verifierDB, "the payment provider": w.centre.paymentDB} {
		errs = append(errs, searchStore(ctx, db, func(table string, cell []byte) { look("table "+table+" of "+name, cell) }))
	}
	slices.Sort(e.Readable)
	return errors.Join(errs...)
}

func searchStore(ctx context.Context, db *sqldb.DB, look func(table string, cell []byte)) error {
	var tables []string
	if err := rows(ctx, db, &tables, func(scan func(...any) error) (name string, err error) { return name, scan(&name) },
		`SELECT name FROM sqlite_master WHERE type = 'table'`); err != nil {
		return err
	}
	for _, table := range tables {
		r, err := db.Read().QueryContext(ctx, `SELECT * FROM `+table)
		if err != nil {
			return fmt.Errorf("searching table %s: %w", table, err)
		}
		columns, err := r.Columns()
		cells, into := make([]sql.RawBytes, len(columns)), make([]any, len(columns))
		for i := range cells {
			into[i] = &cells[i]
		}
		for err == nil && r.Next() {
			if err = r.Scan(into...); err == nil {
				for _, cell := range cells {
					look(table, cell)
				}
			}
		}
		if err := errors.Join(err, r.Err(), r.Close()); err != nil {
			return fmt.Errorf("searching table %s: %w", table, err)
		}
	}
	return nil
}

package world

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/region/journal"
)

// readJournals reads the disks themselves, lost ones too: what they promised is promised.
func (w *world) readJournals(ctx context.Context, e *Evidence) error {
	for _, n := range w.allNodes() {
		for _, lost := range n.lost {
			if err := readJournal(ctx, e, Journal{Host: n.name, Node: n.id, Lost: true}, lost); err != nil {
				return err
			}
		}
		if err := readJournal(ctx, e, Journal{Host: n.name, Node: n.id, Disk: n.identity.DiskID, Lost: n.isFenced(), Stopped: n.isFenced()}, n.disk); err != nil {
			return err
		}
	}
	return nil
}

func readJournal(ctx context.Context, e *Evidence, j Journal, disk *journal.Disk) error {
	records, err := readDisk(ctx, disk)
	if err != nil {
		return err
	}
	for _, r := range records {
		var m regionv1.JournalRecord
		if err := proto.Unmarshal(r.Payload, &m); err != nil {
			return fmt.Errorf("decoding record %d of %s: %w", r.Sequence, j.Host, err)
		}
		entry := Entry{Sequence: r.Sequence}
		switch m := m.GetRecord().(type) {
		case *regionv1.JournalRecord_Leased:
			entry.Kind, entry.Drop, entry.Lease, entry.Serials = "leased", m.Leased.GetDropId(), m.Leased.GetLeaseId(), m.Leased.GetSerials()
		case *regionv1.JournalRecord_Returned:
			entry.Kind, entry.Lease, entry.Serials = "returned", m.Returned.GetLeaseId(), m.Returned.GetSerials()
		case *regionv1.JournalRecord_Redeemed:
			entry.Kind, entry.Receipt = "redeemed", m.Redeemed
		case *regionv1.JournalRecord_Sealed:
			j.Lost, j.Sealed = false, m.Sealed.GetEpoch()
			continue
		default:
			continue
		}
		j.Entries = append(j.Entries, entry)
	}
	e.Journals = append(e.Journals, j)
	return nil
}

// readLeases reads them in the order of their grants.
func (w *world) readLeases(ctx context.Context, e *Evidence) error {
	return rows(ctx, w.centre.stockDB, &e.Leases, func(scan func(...any) error) (l Lease, err error) {
		var id, drop, node, raw []byte
		if err := scan(&id, &drop, &node, &l.Epoch, &l.State, &l.Quarantined, &raw); err != nil {
			return l, err
		}
		var m fulfillmentv1.Lease
		l.ID, l.Drop, l.Node, err = uuid(id), uuid(drop), uuid(node), proto.Unmarshal(raw, &m)
		l.Serials = m.GetSerials()
		return l, err
	}, `SELECT lease_id, drop_id, node_id, epoch, state, quarantine_time_us IS NOT NULL, lease FROM leases ORDER BY rowid`)
}

func (w *world) readTombstones(ctx context.Context, e *Evidence) error {
	e.Tombstones = map[string]time.Duration{}
	var all []struct{}
	return rows(ctx, w.centre.verifierDB, &all, func(scan func(...any) error) (none struct{}, err error) {
		var lease []byte
		var at int64
		err = scan(&lease, &at)
		e.Tombstones[uuid(lease)] = time.UnixMicro(at).Sub(w.start)
		return none, err
	}, `SELECT lease_id, tombstone_time FROM tombstones`)
}

// newsOfKeys bounds how long a key takes to every node: a few heartbeats after its own node joined.
const newsOfKeys = 15 * time.Second

// askKeys gets the public keys the way clients do. Every node must know every key soon: one may just have joined.
func (w *world) askKeys(ctx context.Context, e *Evidence) error {
	var joined int
	if err := w.centre.stockDB.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM signing_keys`).Scan(&joined); err != nil {
		return fmt.Errorf("counting keys: %w", err)
	}
	want, asked := joined+1, time.Now() // the verifier's, too
	for _, n := range w.allNodes() {
		client := offerv1.NewOfferServiceClient(w.net.Conn("operator", n.name))
		for !n.isFenced() {
			answer, err := client.ListKeys(ctx, &offerv1.ListKeysRequest{PageSize: 1000})
			if err == nil && len(answer.GetKeys()) >= want {
				e.Keys = append(e.Keys, answer.GetKeys()...)
				break
			}
			if time.Since(asked) > newsOfKeys {
				w.watch.surprise("%s lists %d keys, there are %d: %v", n.name, len(answer.GetKeys()), want, err)
				break
			}
			sleep(ctx, time.Second)
		}
	}
	return nil
}

package world

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
)

// copyNode starts another process of a region's first node on a copy of its data directory, as a backup does that is
// restored beside the living node. On the same machine nothing but the lock in the directory tells the two apart, and the
// copy has a lock of its own; on another machine the copy is another disk.
func (w *world) copyNode(f Fault) error {
	original, count := w.nodeAt(f.Host), 0
	w.mu.Lock()
	identity, disk := original.identity, original.disk.Copy()
	w.mu.Unlock()
	if sealed, err := isSealed(disk.Copy()); sealed || err != nil { // it would refuse to start, as the original does
		return err
	}
	for _, n := range w.allNodes() {
		if n.region == original.region {
			count++
		}
	}
	n := w.newNodeHost(fmt.Sprintf("%s~%d", f.Host, count), original.region, original.id)
	n.identity, n.disk = identity, disk
	if f.Nth > 0 { // as another machine's id makes it
		n.identity.DiskID += fmt.Sprintf(" on machine %d", count)
	}
	w.mu.Lock()
	w.disksOf[original.region]++ // it knows other things than the first
	w.mu.Unlock()
	w.background.Go(func() { w.mendRegion(original.region) })
	return w.startNode(n)
}

// isSealed tells disks of nodes that retired.
func isSealed(disk *journal.Disk) (bool, error) {
	records, err := readDisk(context.Background(), disk)
	for _, r := range records { // outcomes may follow the seal
		var m regionv1.JournalRecord
		if err := proto.Unmarshal(r.Payload, &m); err != nil {
			return false, fmt.Errorf("decoding record %d: %w", r.Sequence, err)
		}
		if m.GetSealed() != nil {
			return true, nil
		}
	}
	return false, err
}

// mendRegion is what an operator does where each process of a node stopped for another one: the node begins again as itself
// in an empty directory.
func (w *world) mendRegion(name string) {
	for sleep(w.life, time.Second) {
		all := slices.DeleteFunc(w.allNodes(), func(n *node) bool { return n.region != name })
		if !slices.ContainsFunc(all, func(n *node) bool { return !n.isFenced() }) {
			if err := w.replace(name); err != nil && w.life.Err() == nil {
				w.watch.surprise("%v", err)
			}
		}
	}
}

// gaveWay tells the ends of a node that found out that it must not go on beside another process: of its disk's successor,
// of a copy of its directory, or of one that the verifier has heard more of.
func gaveWay(err error) bool {
	return errors.Is(err, region.ErrDiskChanged) || errors.Is(err, region.ErrSuperseded) || errors.Is(err, region.ErrJournalBehind)
}

// copied tells regions that had a copied directory.
func (c Config) copied(region string) bool {
	return slices.ContainsFunc(c.Schedule, func(f Fault) bool { return f.Kind == Copy && f.Host == region })
}

func copiesGiveWay(e *Evidence, _ *index, broken func(string, ...any)) {
	serving := map[string]string{}
	for _, j := range e.Journals {
		if j.Disk == "" || j.Stopped {
			continue
		}
		if other, taken := serving[j.Node]; taken && e.Config.copied(strings.Split(j.Host, "~")[0]) {
			broken("%s and %s serve as one node", other, j.Host)
		}
		serving[j.Node] = j.Host
	}
}

// torn are the units, as "lease/serial", that copies of one directory disagree about: sold by both to different viewers,
// or given back by one and sold by the other. Until a copy gives way only one of their buyers can have one.
func (e *Evidence) torn(x *index) map[string]bool {
	said, torn := map[string]string{}, map[string]bool{} // node, lease and serial to the buyer's token; empty: given back
	for _, j := range e.Journals {
		if !e.Config.copied(strings.Split(j.Host, "~")[0]) {
			continue
		}
		say := func(lease string, serial uint32, what string) {
			unit := unitOf(lease, serial)
			if other, known := said[unit]; known && other != what {
				torn[unit] = true
			}
			said[unit] = what
		}
		for _, entry := range j.Entries {
			switch entry.Kind {
			case "returned":
				for _, serial := range entry.Serials {
					say(entry.Lease, serial, "")
				}
			case "redeemed":
				if r, genuine := x.receipts[entry.Receipt]; genuine {
					say(r.lease, r.serial, r.token)
				}
			}
		}
	}
	return torn
}

func unitOf(lease string, serial uint32) string { return fmt.Sprintf("%s/%d", lease, serial) }

func (c *Candidate) unit() string { return unitOf(c.Lease, c.Serial) }

// is tells whether a receipt is of the same redemption: two copies of a directory may sell the same unit to the same viewer,
// each with a text of its own, which are one redemption.
func (c *Candidate) is(r opened) bool { return c.Lease == r.lease && c.Serial == r.serial }

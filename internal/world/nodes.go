package world

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	"github.com/rimlight/rimlight/region/journal"
)

// claims are short, so that what a lost disk held is for sale again before a world ends.
var claims = fulfillment.ClaimsWindows{Reusable: 20 * time.Second, Physical: 20 * time.Second, Digital: 20 * time.Second}

// node is a region's node with its disk, and those that it lost.
type node struct {
	*host
	region   string
	id       string
	identity journal.Identity
	disk     *journal.Disk
	lost     []*journal.Disk
	retiring bool // its next life is its last
}

// addNode starts a node on an empty disk; id is that of a node which it takes the place of, or empty.
func (w *world) addNode(host, region, id string) error {
	n := w.newNodeHost(host, region, id)
	if err := n.newDisk(); err != nil {
		return err
	}
	return w.startNode(n)
}

func (w *world) newNodeHost(host, region, id string) *node {
	n := &node{host: w.newHost(host), region: region, id: id}
	n.begin = func(life int) (service, error) { return w.newNode(n, life) }
	n.loseDisk = n.newDisk
	return n
}

func (w *world) startNode(n *node) error {
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n.start()
}

// newDisk puts an empty disk into a node that is down. Its first one makes it the node that it is.
func (n *node) newDisk() error {
	if n.disk != nil {
		n.lost = append(n.lost, n.disk)
	}
	identity, err := journal.NewIdentity(time.Now(), n.w.random(n.name+" identity", len(n.lost)))
	if err != nil {
		return fmt.Errorf("making a disk for %s: %w", n.name, err)
	}
	if n.id == "" {
		n.id = identity.NodeID
	}
	identity.NodeID = n.id
	n.w.mu.Lock()
	n.identity, n.disk = identity, &journal.Disk{} // somebody may be copying the one before
	n.w.disksOf[n.region]++
	n.w.mu.Unlock()
	return nil
}

// replace starts another process of a region's first node beside it.
func (w *world) replace(region string) error {
	id, count := "", 0
	for _, n := range w.allNodes() {
		if n.region == region {
			id = n.id
			count++
		}
	}
	return w.addNode(fmt.Sprintf("%s~%d", region, count), region, id)
}

// allNodes are those that there are by now.
func (w *world) allNodes() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// reach names a host of a region, of those that say they are its node: another one for each turn, in no order that could
// be in step with its caller's and meet the same dead one for ever.
func (w *world) reach(region string, turn int) string {
	var hosts []string
	for _, n := range w.allNodes() {
		if n.region == region {
			hosts = append(hosts, n.name)
		}
	}
	const golden = 0x9e3779b97f4a7c15 // Fibonacci hashing
	return hosts[uint64(turn)*golden>>32%uint64(len(hosts))]
}

// disks is how many disks a region's node has had.
func (w *world) disks(region string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disksOf[region]
}

// isFenced tells whether the host ended itself because another disk has its place.
func (h *host) isFenced() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fenced
}

// readDisk reads all that is durable on a disk.
func readDisk(ctx context.Context, d *journal.Disk) ([]journal.Record, error) {
	disk := d.OpenMemory(journal.MemoryOptions{})
	var all []journal.Record
	err := journal.Replay(ctx, disk, 0, func(r journal.Record) error {
		all = append(all, r)
		return nil
	})
	return all, errors.Join(err, disk.Close())
}

package region

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/region/journal"
)

// lookForRoom is the pause between two looks at a full disk. Shorter wears the disk, longer keeps a node out of service
// that could sell.
const lookForRoom = time.Second

// room is what a node does while its disk is full: it makes no offers, accepts nothing and takes no stock, since nothing
// of that could be written down. It goes on to forward what it sold, to tell viewers what became of it, and to answer for
// it; routers hear of it with the next probe.
type room struct {
	full   atomic.Bool
	missed atomic.Bool // the verifier's stream told something that the journal lacks: the stream begins anew
	poke   chan struct{}
}

func newRoom() *room { return &room{poke: make(chan struct{}, 1)} }

// errJournalFull is the answer to whoever would need a record.
func errJournalFull() error {
	return refuse(errorsv1.Reason_REASON_JOURNAL_FULL, "the node's disk is full, nothing was promised; another region may take it").retry(lookForRoom)
}

// miss notes that something of the verifier's stream found no room.
func (n *Node) miss() {
	n.room.missed.Store(true)
	poke(n.room.poke)
}

// ranOut notes that a record found no room.
func (n *Node) ranOut(err error) {
	if !n.room.full.Swap(true) {
		n.log.Error("the disk is full: the node accepts nothing until there is room", "error", err)
	}
	poke(n.room.poke)
}

// keepRoom brings a node back to work when its disk has room again, until ctx ends.
func (n *Node) keepRoom(ctx context.Context) error {
	for {
		select {
		case <-n.room.poke:
		case <-ctx.Done():
			return nil
		}
		for n.room.full.Load() || n.room.missed.Load() {
			select {
			case <-time.After(lookForRoom):
			case <-ctx.Done():
				return nil
			}
			err := n.resume(ctx)
			switch {
			case errors.Is(err, journal.ErrNoSpace) || ctx.Err() != nil:
				continue
			case err != nil:
				err = fmt.Errorf("going on after the disk was full: %w", err)
				n.fail(err)
				return err
			case n.room.missed.Load(): // the next stream begins where the journal is
				if end := n.endStream.Load(); end != nil {
					(*end)()
				}
			}
		}
	}
}

// resume lets the journal take records again if there is room. Receipts are chained by hash to those before them, so the
// chain first goes back to the last one that is durable; the journal takes nothing until then, so that none can be made on
// one which is lost.
func (n *Node) resume(ctx context.Context) error {
	if !n.room.full.Load() {
		return nil
	}
	t := n.till
	t.mu.Lock()
	waiting, last := t.waiting, t.lastSale
	t.mu.Unlock()
	if waiting > 0 { // their callers have yet to take them back
		return nil
	}
	var hash []byte
	if last > 0 {
		text, err := n.readReceipt(ctx, last)
		if err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(text))
		hash = sum[:]
	}
	t.mu.Lock()
	if !mutant.On(mutant.FullChainKept) {
		t.lastHash = hash
	}
	t.mu.Unlock()
	if err := n.deps.Journal.Resume(ctx); err != nil {
		return err
	}
	if mutant.On(mutant.FullForEver) {
		return nil
	}
	n.room.full.Store(false)
	n.log.Info("the disk has room again: the node goes on")
	poke(n.pokeStock)
	return nil
}

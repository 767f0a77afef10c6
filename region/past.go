package region

import (
	"sort"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/region/shorthand"
)

// past is what a node keeps in memory of the sales that a snapshot stands for: enough to know a K again, to count what a
// session bought and to find the texts in the journal. A sale may be in till.sales as well, and then that is newer. It
// holds no pointers, so the garbage collector does not look into it. Guarded by till.mu.
type past struct {
	index     table        // by purchase id, places in the blocks, from 1
	blocks    [][]pastSale // by sequence; in blocks, so that growing copies nothing
	count     int          // of sales in the blocks
	drops     []pastDrop
	dropIndex map[[16]byte]uint32
	loaded    int // how many were there when the process began
}

type pastSale struct {
	session  [16]byte
	sequence int64
	outcome  int64 // the newest record of what became of it; 0: none
	drop     uint32
	state    offerv1.PurchaseState // as that record says
}

type pastDrop struct {
	id      string
	settled bool
}

// blockSales is how many sales a block has: 160 KiB.
const blockSales = 4096

func newPast() past {
	return past{index: newTable(), dropIndex: map[[16]byte]uint32{}}
}

func (p *past) at(place int) *pastSale { return &p.blocks[place/blockSales][place%blockSales] }

// find gives the sale to be read or changed in place; nil: there is none.
func (p *past) find(id shorthand.PurchaseID) *pastSale {
	place := p.index.get(id)
	if place == 0 {
		return nil
	}
	return p.at(int(place) - 1)
}

// add takes a sale in, and tells the place of its drop.
func (p *past) add(sequence int64, s shorthand.Sale) (drop uint32) {
	drop = p.dropOf(s.Drop)
	if p.count%blockSales == 0 {
		p.blocks = append(p.blocks, make([]pastSale, 0, blockSales))
	}
	block := &p.blocks[len(p.blocks)-1]
	*block = append(*block, pastSale{session: s.Session, sequence: sequence, drop: drop})
	p.count++
	p.index.set(s.Purchase, uint32(p.count))
	return drop
}

func (p *past) dropOf(id [16]byte) uint32 {
	drop, ok := p.dropIndex[id]
	if !ok {
		drop = uint32(len(p.drops))
		p.dropIndex[id] = drop
		p.drops = append(p.drops, pastDrop{id: ids.Text(id[:])})
	}
	return drop
}

// settle notes that a drop is over.
func (p *past) settle(drop string) {
	id, err := ids.Bytes(drop)
	if err != nil {
		return // no sale names it
	}
	p.drops[p.dropOf([16]byte(id))].settled = true
}

// loadedBeyond is how many of the sales that the process began with have a sequence above one.
func (p *past) loadedBeyond(sequence int64) int {
	return p.loaded - sort.Search(p.loaded, func(i int) bool { return p.at(i).sequence > sequence })
}

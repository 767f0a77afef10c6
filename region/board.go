package region

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// aliveEvery is the pause after which a quiet stream gets a sign of life; clients are told 15 s.
const aliveEvery = 10 * time.Second

// board shows viewers the drops. Every change gets a version, and a watcher asks for what came after the version that it
// has. So a slow watcher needs no queue: it skips what was overtaken and gets each drop as it is when it asks, and after
// a drop disappeared it gets everything anew.
type board struct {
	boot string // versions of another process life mean nothing here

	mu      sync.Mutex
	version int64
	posted  map[string]post // by drop
	removed int64           // version of the last removal
	changed chan struct{}   // closed at the next change
}

type post struct {
	drop    *offerv1.Drop // never changed, only replaced
	version int64
}

func newBoard(boot string) *board {
	return &board{boot: boot, posted: map[string]post{}, changed: make(chan struct{})}
}

// put replaces everything on the board and tells whether any drop's state changed.
func (b *board) put(drops []*offerv1.Drop) (moved bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.version
	kept := map[string]bool{}
	for _, d := range drops {
		kept[d.GetDropId()] = true
		was, known := b.posted[d.GetDropId()]
		if known && proto.Equal(was.drop, d) {
			continue
		}
		moved = moved || was.drop.GetState() != d.GetState()
		b.version++
		b.posted[d.GetDropId()] = post{d, b.version}
	}
	for id := range b.posted {
		if !kept[id] {
			delete(b.posted, id)
			b.removed = b.version + 1
		}
	}
	if b.removed > b.version {
		b.version = b.removed
	}
	if b.version != before {
		close(b.changed)
		b.changed = make(chan struct{})
	}
	return moved
}

// view is what a watcher that has seen a version must be told.
type view struct {
	whole   bool   // posts replace everything seen before
	posts   []post // otherwise by version, so that each is a place to go on from
	version int64
	changed <-chan struct{} // closed when there is more
}

// since is what came after a version; a negative one has seen nothing.
func (b *board) since(version int64, channel string) view {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := view{whole: version < 0 || version > b.version || version < b.removed, version: b.version, changed: b.changed}
	for _, p := range b.posted {
		if (v.whole || p.version > version) && (channel == "" || p.drop.GetChannelId() == channel) {
			v.posts = append(v.posts, p)
		}
	}
	slices.SortFunc(v.posts, func(a, b post) int {
		if !v.whole {
			return cmp.Compare(a.version, b.version)
		}
		return cmp.Or(a.drop.GetOpenTime().AsTime().Compare(b.drop.GetOpenTime().AsTime()),
			cmp.Compare(a.drop.GetDropId(), b.drop.GetDropId()))
	})
	return v
}

// token and seen translate a version to what clients hand back.
func (b *board) token(version int64) string { return b.boot + "." + strconv.FormatInt(version, 10) }

func (b *board) seen(token string) int64 {
	boot, text, _ := strings.Cut(token, ".")
	version, err := strconv.ParseInt(text, 10, 64)
	if err != nil || boot != b.boot {
		return -1 // unknown tokens get a snapshot
	}
	return version
}

// keepBoard shows the drops as the catalogue, the clock and fulfillment's word change them, until ctx ends.
func (n *Node) keepBoard(ctx context.Context) error {
	clock := time.NewTimer(aliveEvery)
	defer clock.Stop()
	for ctx.Err() == nil {
		wait := aliveEvery // at least, since the node's clock may be set while package time goes on
		if at, ok := n.postDrops(); ok {
			wait = min(wait, max(at.Sub(n.deps.Now()), 0))
		}
		clock.Reset(wait)
		select {
		case <-clock.C:
		case <-n.pokeBoard:
		case <-ctx.Done():
		}
	}
	return nil
}

// postDrops puts the drops on the board as they are now, and says when the clock changes the next one.
func (n *Node) postDrops() (next time.Time, ok bool) {
	now := n.deps.Now()
	var faces []face
	for _, d := range n.catalogue.Load().sorted() {
		if at, more := n.terms(d).Next(now); more && (!ok || at.Before(next)) {
			next, ok = at, true
		}
		faces = append(faces, n.face(d, now))
	}
	if slices.Equal(faces, n.faces) { // nearly always: each sale asks
		return next, ok
	}
	n.faces = faces
	var drops []*offerv1.Drop
	for _, f := range faces {
		drops = append(drops, f.viewerDrop(n.cfg.Region))
	}
	if n.board.put(drops) {
		poke(n.pokeStock)
	}
	return next, ok
}

// face is all that decides how viewers see a drop.
type face struct {
	drop         *knownDrop
	state        offerv1.DropState
	closesLater  bool // by what was given back
	availability offerv1.Availability
}

func (n *Node) face(d *knownDrop, now time.Time) face {
	terms := n.terms(d)
	f := face{drop: d, state: offerv1.DropState(terms.State(now)), closesLater: terms.Back != 0}
	n.till.mu.Lock()
	defer n.till.mu.Unlock()
	switch {
	case n.till.soldOut(d.id):
		f.availability = offerv1.Availability_AVAILABILITY_SOLD_OUT
	case n.till.words[d.id].heard || n.till.book.Untouched(d.id) > 0:
		f.availability = offerv1.Availability_AVAILABILITY_AVAILABLE
	}
	return f
}

// viewerDrop is the drop as viewers in a region see it.
func (f face) viewerDrop(region string) *offerv1.Drop {
	m := proto.CloneOf(f.drop.msg.GetDrop())
	m.State, m.Availability = f.state, f.availability
	if !f.closesLater && m.GetPlannedCloseTime() != nil {
		m.CloseTime, m.PlannedCloseTime, m.TimeBack = m.GetPlannedCloseTime(), nil, ""
	}
	m.Physical, m.DeliveryKeys = f.drop.physical(), f.drop.deliveryKeys(region)
	return m
}

// watchDrops feeds one watcher until its stream or the node ends.
func (n *Node) watchDrops(ctx context.Context, channel, resume string, send func(*offerv1.WatchDropsResponse) error) error {
	version := n.board.seen(resume)
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	say := func(m *offerv1.WatchDropsResponse, version int64) error {
		alive.Reset(aliveEvery)
		m.ResumeToken = n.board.token(version)
		m.ServerTime = timestamppb.New(n.deps.Now())
		return send(m)
	}
	quiet := resume != "" // a resumed stream says at once that it lives
	for {
		v := n.board.since(version, channel)
		var err error
		switch {
		case v.whole:
			err = say(&offerv1.WatchDropsResponse{Event: &offerv1.WatchDropsResponse_Snapshot{Snapshot: snapshot(v.posts)}}, v.version)
		case len(v.posts) == 0 && quiet:
			err = say(&offerv1.WatchDropsResponse{Event: &offerv1.WatchDropsResponse_Heartbeat{Heartbeat: &offerv1.Heartbeat{}}}, v.version)
		default:
			for _, p := range v.posts {
				if err = say(&offerv1.WatchDropsResponse{Event: &offerv1.WatchDropsResponse_Changed{Changed: p.drop}}, p.version); err != nil {
					break
				}
			}
		}
		if err != nil {
			return err
		}
		version, quiet = v.version, false
		select {
		case <-v.changed:
		case <-alive.C:
			quiet = true
		case <-n.gate.closing():
			return errDraining()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func snapshot(posts []post) *offerv1.DropSnapshot {
	m := &offerv1.DropSnapshot{}
	for _, p := range posts {
		m.Drops = append(m.Drops, p.drop)
	}
	return m
}

package gossip

import (
	"cmp"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
)

// Role is what a member is.
type Role string

// The roles of the ring.
const (
	RoleRouter Role = "router"
	RoleRegion Role = "region"
)

// State is what gossip thinks of a member.
type State string

// The states of a member.
const (
	// StateAlive: it answers somebody's probes.
	StateAlive State = "alive"
	// StateSuspect: it left this member's own probe unanswered, directly and through others, and not answered since.
	StateSuspect State = "suspect"
	// StateDead: it stayed silent through its suspicion.
	StateDead State = "dead"
	// StateLeft: it said goodbye.
	StateLeft State = "left"
)

// Member is one member of the ring. Its texts come from the member itself.
type Member struct {
	// MemberName is role/name/boot id.
	MemberName string
	// Role is what it is.
	Role Role
	// Name is the router's or region's name.
	Name string
	// NodeID is the region node's id; empty for a router.
	NodeID string
	// GossipAddr is where it gossips, host:port.
	GossipAddr string
	// RPCAddress is where it serves RPCs, host:port.
	RPCAddress string
	// Zones are its residency zones.
	Zones []string
	// Version is its program's version.
	Version string
	// Mode is what an operator wants of it.
	Mode regionv1.RegionMode
	// CatalogRevision is the catalogue that it serves.
	CatalogRevision int64
	// State is what gossip thinks of it.
	State State
	// Since is when it entered State, on this process's clock.
	Since time.Time
}

// memberName is role/name/boot id. Boot ids are UUIDv7, so that a later boot sorts after an earlier one.
type memberName struct {
	role Role
	name string
	boot string
}

func (n memberName) String() string { return string(n.role) + "/" + n.name + "/" + n.boot }

func parseMemberName(text string) (memberName, bool) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return memberName{}, false
	}
	n := memberName{role: Role(parts[0]), name: parts[1], boot: parts[2]}
	_, err := ids.Bytes(n.boot)
	return n, err == nil && validName(n.name) && (n.role == RoleRouter || n.role == RoleRegion)
}

var namePattern = regexp.MustCompile(`^[a-z0-9.-]{1,63}$`)

func validName(name string) bool { return namePattern.MatchString(name) }

// tombstone is how long the dead and the departed stay in view: long enough for an operator to see what went.
const tombstone = 10 * time.Minute

// record is one boot of one member.
type record struct {
	Member
	leaving bool // it announced that it is about to leave: memberlist tells the departed from the dead, but not to us
}

// identity is what stays the same from boot to boot.
type identity struct {
	role         Role
	name, nodeID string
}

func (r record) identity() identity { return identity{r.Role, r.Name, r.NodeID} }

func (r record) present() bool { return r.State == StateAlive || r.State == StateSuspect }

// view turns memberlist's events into snapshots. memberlist calls it with its own lock held: it never calls back.
type view struct {
	log      *slog.Logger
	snapshot atomic.Pointer[[]Member]
	changes  chan struct{} // size 1

	mu      sync.Mutex
	records map[string]record // by member name
}

func newView(log *slog.Logger) *view {
	v := &view{log: log, changes: make(chan struct{}, 1), records: map[string]record{}}
	v.snapshot.Store(&[]Member{})
	return v
}

// NotifyJoin implements memberlist.EventDelegate.
func (v *view) NotifyJoin(n *memberlist.Node) { v.put(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (v *view) NotifyUpdate(n *memberlist.Node) { v.put(n, false) }

// NotifyLeave implements memberlist.EventDelegate.
func (v *view) NotifyLeave(n *memberlist.Node) {
	v.change(n.Name, func(r *record) bool {
		state := StateDead
		if r.leaving {
			state = StateLeft
		}
		return r.enter(state)
	})
}

// NotifyPingComplete implements memberlist.PingDelegate: whoever answers is no longer suspect.
func (v *view) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	v.change(n.Name, func(r *record) bool { return r.State == StateSuspect && r.enter(StateAlive) })
}

// AckPayload implements memberlist.PingDelegate.
func (*view) AckPayload() []byte { return nil }

// suspect notes that this member's probe went unanswered.
func (v *view) suspect(name string) {
	v.change(name, func(r *record) bool { return r.State == StateAlive && r.enter(StateSuspect) })
}

func (r *record) enter(state State) bool {
	if r.State == state {
		return false
	}
	r.State, r.Since = state, time.Now()
	return true
}

func (v *view) put(n *memberlist.Node, joined bool) {
	name, ok := parseMemberName(n.Name)
	if !ok {
		v.log.Debug("gossip: ignoring a member with a foreign name")
		return
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		v.log.Debug("gossip: ignoring what a member says of itself", "member", n.Name, "error", err)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.records[n.Name]
	r.Member = Member{
		MemberName: n.Name, Role: name.role, Name: name.name, NodeID: m.nodeID,
		GossipAddr: n.Address(), RPCAddress: m.rpcAddress, Zones: m.zones, Version: m.version,
		Mode: m.mode, CatalogRevision: m.revision, State: r.State, Since: r.Since,
	}
	r.leaving = m.leaving
	if joined || r.State == "" {
		r.enter(StateAlive)
	}
	v.records[n.Name] = r
	v.publish()
}

func (v *view) change(name string, f func(*record) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.records[name]
	if !ok || !f(&r) {
		return
	}
	v.records[name] = r
	v.publish()
}

// publish is called with the mutex held.
func (v *view) publish() {
	newest := map[identity]Member{}
	for _, r := range v.records {
		if id := r.identity(); r.MemberName > newest[id].MemberName { // role and name are equal, boot ids sort by time
			newest[id] = r.Member
		}
	}
	maps.DeleteFunc(v.records, func(name string, r record) bool {
		return !r.present() && newest[r.identity()].MemberName != name
	})
	members := make([]Member, 0, len(newest))
	for _, m := range newest {
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name), cmp.Compare(a.NodeID, b.NodeID))
	})
	v.snapshot.Store(&members)
	signal(v.changes)
}

// forget drops the dead and the departed whose time in view is over.
func (v *view) forget(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := len(v.records)
	maps.DeleteFunc(v.records, func(_ string, r record) bool {
		return !r.present() && now.Sub(r.Since) > tombstone
	})
	if len(v.records) != before {
		v.publish()
	}
}

// absent gives the addresses worth joining: seeds at which nobody is present, and one of the dead, in case the
// partition that hid it has healed and no seed was on its side.
func (v *view) absent(seeds []string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	present := map[string]bool{}
	for _, r := range v.records {
		if r.present() {
			present[r.GossipAddr] = true
		}
	}
	var addrs []string
	for _, seed := range seeds {
		if !present[seed] {
			addrs = append(addrs, seed)
		}
	}
	for _, r := range v.records { // the map's order picks one at random
		if r.State == StateDead && !present[r.GossipAddr] && !slices.Contains(addrs, r.GossipAddr) {
			return append(addrs, r.GossipAddr)
		}
	}
	return addrs
}

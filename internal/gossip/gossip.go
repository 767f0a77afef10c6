// Package gossip says who is in the ring: routers and regional nodes, where they serve, their version and their mode.
//
//	memberlist (probe 1 s, timeout 600 ms, suspicion x4)
//	   │ join, update, leave, probe results
//	   v
//	view: newest boot of each member ──> Members(): immutable snapshot, Changes(): "look again"
//
// Gossip lowers a rank or confirms a death; the data plane detects failures itself, and load travels with answers and
// probes, never here. A member's name is role/name/boot id, because memberlist refuses a dead member's name from a new
// address: every boot is a new member, and the view shows the newest boot only.
//
// Partitions that heal do not merge by themselves: memberlist stops talking to the dead. Run therefore joins the seeds
// and the members that died again, every 10 s.
//
// It does not authenticate members one by one: whoever holds the key, or reaches the port of a ring without one, is in.
package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/ids"
)

const (
	// Simulated at 150 ms RTT and 1 % loss: a median of 5.8 s to detect a death, and no false leaves.
	probeInterval = time.Second
	probeTimeout  = 600 * time.Millisecond
	suspicionMult = 4

	streamTimeout  = 3 * time.Second        // a silent seed must not hold back the next one, nor the shutdown
	rejoinInterval = 10 * time.Second       // half of it is the jitter's range
	announceDelay  = 200 * time.Millisecond // so that a drain of mode and catalogue together is one broadcast
	announceBound  = 2 * time.Second
	leaveBound     = time.Second
)

// Config describes this member.
type Config struct {
	// Role is what this process is: RoleRouter or RoleRegion.
	Role Role
	// Name is the router's or the region's name: 1 to 63 of a-z, 0-9, "-" and ".". Nodes of one region share it.
	Name string
	// NodeID is the region node's id; empty for a router.
	NodeID string
	// BindAddr is the IP and port for UDP and TCP. Port 0 takes a free one, see Addr.
	BindAddr string
	// AdvertiseAddr is the IP and port that others are told, when it differs from BindAddr (address translation).
	AdvertiseAddr string
	// Seeds are addresses (host:port) of members to join. None: wait for others to join this one.
	Seeds []string
	// RPCAddress is where this member serves RPCs to the platform, host:port.
	RPCAddress string
	// Zones are the residency zones of a region.
	Zones []string
	// Version is the program's version.
	Version string
	// Mode is announced from the first message on. Zero: REGION_MODE_SERVING.
	Mode regionv1.RegionMode
	// Keys encrypt the ring when given: 16, 24 or 32 bytes each; the first encrypts, all decrypt. See SetKeys.
	Keys [][]byte
	// Random makes the boot id. nil: crypto/rand.
	Random io.Reader
	// Now stamps the boot id, which tells the newest boot. nil: time.Now.
	Now func() time.Time
	// Log receives memberlist's lines at debug, and this package's. nil: slog.Default().
	Log *slog.Logger
	// Transport replaces UDP and TCP, in tests. BindAddr is then only what others are told.
	Transport memberlist.Transport
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var problems []error
	report := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Role != RoleRouter && c.Role != RoleRegion {
		report("role %q: must be %q or %q", c.Role, RoleRouter, RoleRegion)
	}
	if !validName(c.Name) {
		report("name %q: must be 1 to 63 of a-z, 0-9, - and .", c.Name)
	}
	if _, _, err := splitAddr(c.BindAddr); err != nil {
		report("bind address: %w", err)
	}
	if c.AdvertiseAddr != "" {
		if _, port, err := splitAddr(c.AdvertiseAddr); err != nil {
			report("advertise address: %w", err)
		} else if port == 0 {
			report("advertise address %s: needs a port", c.AdvertiseAddr)
		}
	}
	for i, key := range c.Keys {
		if err := memberlist.ValidateKey(key); err != nil {
			report("key %d: must be 16, 24 or 32 bytes", i) // never the key itself
		}
	}
	if _, err := c.meta().encode(); err != nil {
		report("metadata: %w", err)
	}
	return errors.Join(problems...)
}

func (c Config) meta() meta {
	mode := c.Mode
	if mode == regionv1.RegionMode_REGION_MODE_UNSPECIFIED {
		mode = regionv1.RegionMode_REGION_MODE_SERVING
	}
	return meta{mode: mode, nodeID: c.NodeID, rpcAddress: c.RPCAddress, version: c.Version, zones: c.Zones}
}

// Ring is this process's membership.
type Ring struct {
	cfg   Config
	self  string
	list  *memberlist.Memberlist
	keys  *memberlist.Keyring // nil: the ring is not encrypted
	view  *view
	dirty chan struct{} // size 1: metadata changed since it was last announced

	mode     atomic.Int32
	revision atomic.Int64
	leaving  atomic.Bool

	closing sync.Once
	closed  error
}

// New binds the addresses and makes this process a ring of one. Run joins the seeds.
func New(cfg Config) (*Ring, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	self := memberName{role: cfg.Role, name: cfg.Name, boot: ids.NewV7(cfg.Now(), cfg.Random)}.String()
	r := &Ring{cfg: cfg, self: self, view: newView(cfg.Log), dirty: make(chan struct{}, 1)}
	r.mode.Store(int32(cfg.meta().mode))

	list := memberlist.DefaultLANConfig()
	list.Name = self
	list.BindAddr, list.BindPort, _ = splitAddr(cfg.BindAddr) // checked by Validate, like the next one
	list.AdvertisePort = list.BindPort
	if cfg.AdvertiseAddr != "" {
		list.AdvertiseAddr, list.AdvertisePort, _ = splitAddr(cfg.AdvertiseAddr)
	}
	list.Transport = cfg.Transport
	list.TCPTimeout = streamTimeout
	list.ProbeInterval, list.ProbeTimeout, list.SuspicionMult = probeInterval, probeTimeout, suspicionMult
	list.Delegate, list.Events, list.Ping = delegate{r}, r.view, r.view
	list.Logger = log.New(logWriter{r}, "", 0)
	if len(cfg.Keys) > 0 {
		keyring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
		if err != nil {
			return nil, errors.New("gossip: the keyring refused a key")
		}
		r.keys, list.Keyring = keyring, keyring
	}
	made, err := memberlist.Create(list)
	if err != nil {
		return nil, fmt.Errorf("gossip: starting on %s: %w", cfg.BindAddr, err)
	}
	r.list = made
	return r, nil
}

// Name is this member's name in the ring: role/name/boot id.
func (r *Ring) Name() string { return r.self }

// Addr is the address that others are told, host:port: the seed to give to them.
func (r *Ring) Addr() string { return r.list.LocalNode().Address() }

// Members is the ring as this member sees it, itself included, by role, name and node id. The slice is never changed.
func (r *Ring) Members() []Member { return *r.view.snapshot.Load() }

// Changes says that Members changed since the last receive. It is for one reader.
func (r *Ring) Changes() <-chan struct{} { return r.view.changes }

// SetMode announces an operator's wish for this node. It returns at once; Run spreads it.
func (r *Ring) SetMode(mode regionv1.RegionMode) {
	if r.mode.Swap(int32(mode)) != int32(mode) {
		signal(r.dirty)
	}
}

// SetCatalogRevision announces the catalogue revision that this node serves. It returns at once; Run spreads it.
func (r *Ring) SetCatalogRevision(revision int64) {
	if r.revision.Swap(revision) != revision {
		signal(r.dirty)
	}
}

// SetKeys replaces the encryption keys; the first one encrypts. To rotate without a split, give every member first
// (old, new), then (new, old), then (new). It fails on a ring that was started without keys.
func (r *Ring) SetKeys(keys [][]byte) error {
	if r.keys == nil {
		return errors.New("gossip: the ring was started without keys")
	}
	if len(keys) == 0 {
		return errors.New("gossip: at least one key is needed")
	}
	keep := map[string]bool{}
	for i, key := range keys {
		if err := r.keys.AddKey(key); err != nil {
			return fmt.Errorf("gossip: key %d: must be 16, 24 or 32 bytes", i)
		}
		keep[string(key)] = true
	}
	if err := r.keys.UseKey(keys[0]); err != nil {
		return errors.New("gossip: the keyring refused the first key")
	}
	for _, key := range r.keys.GetKeys() {
		if !keep[string(key)] {
			if err := r.keys.RemoveKey(key); err != nil {
				return errors.New("gossip: the keyring kept an old key")
			}
		}
	}
	return nil
}

// Run joins the seeds, keeps the ring whole and spreads changes. When ctx ends it leaves the ring and returns, within
// leaving's bounds and one attempt to join. What is left of memberlist's goroutines ends within a probe's time of that.
func (r *Ring) Run(ctx context.Context) error {
	var joining sync.WaitGroup
	joining.Go(func() { r.keepWhole(ctx) })
	defer joining.Wait()
	var announce <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return r.Close()
		case <-r.dirty:
			if announce == nil {
				announce = time.After(announceDelay)
			}
		case <-announce:
			announce = nil
			if err := r.list.UpdateNode(announceBound); err != nil {
				r.cfg.Log.Debug("gossip: the change is still spreading", "error", err)
			}
		}
	}
}

// keepWhole exchanges states with absent seeds and dead members, again and again.
func (r *Ring) keepWhole(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		for _, addr := range r.view.absent(r.cfg.Seeds) {
			if ctx.Err() != nil {
				return
			}
			if _, err := r.list.Join([]string{addr}); err != nil {
				r.cfg.Log.Debug("gossip: joining", "address", addr, "error", err)
			}
		}
		r.view.forget(time.Now())
		next.Reset(rejoinInterval*3/4 + mathrand.N(rejoinInterval/2))
	}
}

// Close leaves the ring and closes the sockets. Run does it by itself; call it when Run was never called.
func (r *Ring) Close() error {
	r.closing.Do(func() {
		r.leaving.Store(true)
		if err := r.list.UpdateNode(leaveBound); err != nil {
			r.cfg.Log.Debug("gossip: announcing the leave", "error", err)
		}
		if err := r.list.Leave(leaveBound); err != nil {
			r.cfg.Log.Debug("gossip: leaving unheard", "error", err) // the others will find out by probing
		}
		if err := r.list.Shutdown(); err != nil {
			r.closed = fmt.Errorf("gossip: closing: %w", err)
		}
	})
	return r.closed
}

// delegate gives memberlist this member's metadata.
type delegate struct{ ring *Ring }

func (d delegate) NodeMeta(limit int) []byte {
	m := d.ring.cfg.meta()
	m.mode = regionv1.RegionMode(d.ring.mode.Load())
	m.revision, m.leaving = d.ring.revision.Load(), d.ring.leaving.Load()
	b, err := m.encode()
	if err != nil || len(b) > limit { // Validate encoded it with the longest revision
		d.ring.cfg.Log.Error("gossip: the metadata does not fit", "error", err, "limit_bytes", limit)
		return nil
	}
	return b
}

func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

// logWriter turns memberlist's lines into debug records. They name members and addresses, never keys. One of them is
// the only sign of a suspicion that memberlist gives: its API hides the state.
type logWriter struct{ ring *Ring }

func (w logWriter) Write(line []byte) (int, error) {
	const maxLine = 512 // some lines print a peer's metadata
	text := strings.TrimSpace(string(line[:min(len(line), maxLine)]))
	if rest, ok := strings.CutPrefix(text, "[INFO] memberlist: Suspect "); ok {
		if name, ok := strings.CutSuffix(rest, " has failed, no acks received"); ok {
			w.ring.view.suspect(name)
		}
	}
	w.ring.cfg.Log.Debug("gossip: memberlist", "line", text)
	return len(line), nil
}

func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	if net.ParseIP(host) == nil {
		return "", 0, fmt.Errorf("%q is not an IP address", host) // memberlist would bind to every interface
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port", text)
	}
	return host, int(number), nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/gossip"
)

const delay = 75 * time.Millisecond // an RTT of 150 ms, as in the simulation that chose the intervals

// process is a running member.
type process struct {
	*gossip.Ring
	addr string
	stop func()
}

func start(t *testing.T, l *links, cfg gossip.Config) *process {
	t.Helper()
	return startOn(t, l.newTransport(), cfg)
}

func startOn(t *testing.T, tr *transport, cfg gossip.Config) *process {
	t.Helper()
	cfg.Transport, cfg.BindAddr = tr, tr.addr.String()
	if cfg.Random == nil {
		cfg.Random = rand.NewChaCha8([32]byte{byte(tr.addr.IP[15])})
	}
	ring, err := gossip.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ring.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	p := &process{Ring: ring, addr: ring.Addr(), stop: func() { cancel(); running.Wait() }}
	t.Cleanup(p.stop)
	return p
}

func (p *process) crash(t *testing.T) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	p.stop()
}

// await waits for the view to satisfy a condition, and says how long that took.
func (p *process) await(t *testing.T, what string, limit time.Duration, ok func([]gossip.Member) bool) time.Duration {
	t.Helper()
	begin := time.Now()
	timeout := time.After(limit)
	for !ok(p.Members()) {
		select {
		case <-p.Changes():
		case <-timeout:
			t.Fatalf("%s: not within %s; %s sees\n%s", what, limit, p.Name(), describe(p.Members()))
		}
	}
	return time.Since(begin)
}

func describe(members []gossip.Member) string {
	var b strings.Builder
	for _, m := range members {
		fmt.Fprintf(&b, "  %s %s %s %s %s r%d\n", m.MemberName, m.NodeID, m.State, m.Mode, m.GossipAddr, m.CatalogRevision)
	}
	return b.String()
}

func find(members []gossip.Member, name string) gossip.Member {
	for _, m := range members {
		if m.Name == name {
			return m
		}
	}
	return gossip.Member{}
}

func in(name string, state gossip.State) func([]gossip.Member) bool {
	return func(members []gossip.Member) bool { return find(members, name).State == state }
}

func region(name string, seeds ...string) gossip.Config {
	return gossip.Config{
		Role: gossip.RoleRegion, Name: name, NodeID: "node-" + name, RPCAddress: "10.1.0.1:9000",
		Zones: []string{"eu", "uk"}, Version: "v1.2.3", Seeds: seeds,
	}
}

func router(name string, seeds ...string) gossip.Config {
	return gossip.Config{Role: gossip.RoleRouter, Name: name, RPCAddress: "10.1.0.9:9000", Version: "v1.2.3", Seeds: seeds}
}

// trio is a router and two regions that see each other.
func trio(t *testing.T, l *links) (r, a, b *process) {
	t.Helper()
	r = start(t, l, router("hub"))
	a = start(t, l, region("a", r.addr))
	b = start(t, l, region("b", r.addr))
	for _, p := range []*process{r, a, b} {
		p.await(t, "three members", 5*time.Second, func(m []gossip.Member) bool { return len(m) == 3 })
	}
	return r, a, b
}

func TestMembersSayWhoTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, _ := trio(t, newLinks(t, delay))
		got := find(r.Members(), "a")
		if got.MemberName != a.Name() || got.NodeID != "node-a" || got.RPCAddress != "10.1.0.1:9000" ||
			strings.Join(got.Zones, " ") != "eu uk" || got.Version != "v1.2.3" || got.State != gossip.StateAlive ||
			got.Mode != regionv1.RegionMode_REGION_MODE_SERVING || got.GossipAddr != a.addr {
			t.Errorf("got %+v", got)
		}
		var order []string
		for _, m := range r.Members() {
			order = append(order, string(m.Role)+"/"+m.Name)
		}
		if strings.Join(order, " ") != "region/a region/b router/hub" {
			t.Errorf("members in the order %v", order)
		}
	})
}

func TestASilentDeathIsSuspectedThenConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, b := trio(t, newLinks(t, delay))
		a.crash(t)
		r.await(t, "suspicion", 10*time.Second, in("a", gossip.StateSuspect))
		for _, p := range []*process{r, b} {
			took := p.await(t, "death", 15*time.Second, in("a", gossip.StateDead))
			t.Logf("%s: dead %s after the suspicion", p.Name(), took)
		}
		if in("b", gossip.StateAlive)(r.Members()) == false {
			t.Errorf("the living suffered:\n%s", describe(r.Members()))
		}
	})
}

func TestAGoodbyeIsNotADeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, b := trio(t, newLinks(t, delay))
		begin := time.Now()
		a.stop()
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("leaving took %s", took)
		}
		for _, p := range []*process{r, b} {
			p.await(t, "goodbye", 3*time.Second, in("a", gossip.StateLeft))
		}
	})
}

func TestTheDepartedLeaveTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, _ := trio(t, newLinks(t, delay))
		stopped := time.Now()
		a.stop()
		r.await(t, "goodbye", 3*time.Second, in("a", gossip.StateLeft))
		r.await(t, "forgetting", gossip.Tombstone+time.Minute, func(m []gossip.Member) bool { return len(m) == 2 })
		if took := time.Since(stopped); took < gossip.Tombstone {
			t.Errorf("forgotten after %s", took)
		}
	})
}

func TestHealedPartitionsMergeByRejoining(t *testing.T) {
	for name, cut := range map[string]func(r, a, b *process) []string{
		"the seed alone":                 func(r, _, _ *process) []string { return []string{r.addr} },
		"a region alone":                 func(_, a, _ *process) []string { return []string{a.addr} },
		"the router and one region":      func(r, a, _ *process) []string { return []string{r.addr, a.addr} },
		"the regions, and the seed dies": func(_, a, _ *process) []string { return []string{a.addr} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLinks(t, delay)
				r, a, b := trio(t, l)
				l.split(1, cut(r, a, b)...)
				all := []*process{r, a, b}
				if strings.HasSuffix(name, "dies") {
					r.crash(t)
					all = []*process{a, b}
				}
				for _, p := range all {
					p.await(t, "the split", 30*time.Second, func(m []gossip.Member) bool {
						for _, q := range m {
							if q.State == gossip.StateDead {
								return true
							}
						}
						return false
					})
				}
				time.Sleep(time.Minute) // past memberlist's own gossip to the dead
				l.heal()
				for _, p := range all {
					p.await(t, "the merge", 3*gossip.RejoinInterval, func(m []gossip.Member) bool {
						for _, q := range all {
							if !in(strings.Split(q.Name(), "/")[1], gossip.StateAlive)(m) {
								return false
							}
						}
						return true
					})
				}
			})
		})
	}
}

func TestASeedThatStartsLaterIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(t, delay)
		seed := l.newTransport()
		a := start(t, l, region("a", seed.addr.String()))
		time.Sleep(time.Minute)
		startOn(t, seed, router("hub"))
		a.await(t, "the seed", 3*gossip.RejoinInterval, in("hub", gossip.StateAlive))
	})
}

func TestModeAndRevisionSpreadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, b := trio(t, newLinks(t, delay))
		for revision := range int64(100) {
			a.SetCatalogRevision(revision + 1)
		}
		a.SetMode(regionv1.RegionMode_REGION_MODE_DRAINED)
		for _, p := range []*process{r, a, b} {
			p.await(t, "the mode", 5*time.Second, func(m []gossip.Member) bool {
				got := find(m, "a")
				return got.Mode == regionv1.RegionMode_REGION_MODE_DRAINED && got.CatalogRevision == 100
			})
		}
	})
}

func TestANewBootOfTheSameNameIsAcceptedFromANewAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(t, delay)
		r, a, b := trio(t, l)
		a.crash(t)
		time.Sleep(time.Second) // before anybody noticed
		again := start(t, l, region("a", r.addr))
		for _, p := range []*process{r, b, again} {
			p.await(t, "the new boot", 10*time.Second, func(m []gossip.Member) bool {
				got := find(m, "a")
				return got.MemberName == again.Name() && got.GossipAddr == again.addr && got.State == gossip.StateAlive
			})
		}
		time.Sleep(time.Minute)
		if got := find(r.Members(), "a"); got.MemberName != again.Name() || got.State != gossip.StateAlive {
			t.Errorf("the old boot's death hit the new one: %+v", got)
		}
	})
}

func TestSnapshotsDoNotChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, _ := trio(t, newLinks(t, delay))
		before := r.Members()
		text := describe(before)
		a.crash(t)
		r.await(t, "death", 20*time.Second, in("a", gossip.StateDead))
		if describe(before) != text {
			t.Errorf("the old snapshot became\n%s", describe(before))
		}
	})
}

func TestKeysRotateWithoutASplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
		l := newLinks(t, delay)
		withKeys := func(cfg gossip.Config) gossip.Config { cfg.Keys = [][]byte{old}; return cfg }
		r := start(t, l, withKeys(router("hub")))
		a := start(t, l, withKeys(region("a", r.addr)))
		outsider := start(t, l, region("outsider", r.addr))
		both := []*process{r, a}
		for _, p := range both {
			p.await(t, "two members", 5*time.Second, func(m []gossip.Member) bool { return len(m) == 2 })
		}
		for _, keys := range [][][]byte{{old, fresh}, {fresh, old}, {fresh}} {
			for _, p := range both {
				if err := p.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
			}
		}
		time.Sleep(time.Minute)
		for _, p := range both {
			if m := p.Members(); len(m) != 2 || m[0].State != gossip.StateAlive || m[1].State != gossip.StateAlive {
				t.Errorf("after the rotation:\n%s", describe(m))
			}
		}
		if m := outsider.Members(); len(m) != 1 {
			t.Errorf("a member without the key got in:\n%s", describe(m))
		}
		if err := outsider.SetKeys([][]byte{fresh}); err == nil {
			t.Error("a ring without keys took some while running")
		}
	})
}

func TestNoKeyReachesTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := []byte("canary-key-canary-key-canary-key")
		var buf syncBuffer
		log := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
		l := newLinks(t, delay)
		cfg := router("hub")
		cfg.Keys, cfg.Log = [][]byte{key}, log
		r := start(t, l, cfg)
		start(t, l, region("a", r.addr)) // speaks in clear, so that decryption fails
		time.Sleep(time.Minute)
		if err := r.SetKeys([][]byte{key[:16]}); err != nil {
			t.Fatal(err)
		}
		if err := r.SetKeys([][]byte{[]byte("canary-short")}); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("a bad key gives %v", err)
		}
		if text := buf.String(); text == "" || strings.Contains(text, "canary") {
			t.Errorf("the log has %d bytes and may hold a key", len(text))
		}
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestValidateReportsEveryProblem(t *testing.T) {
	err := gossip.Config{
		Role: "poet", Name: "Bad Name", BindAddr: "localhost:1", AdvertiseAddr: "10.0.0.1:0",
		Keys: [][]byte{[]byte("canary")}, Version: strings.Repeat("v", 129),
	}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"role", "name", "bind address", "advertise address", "key 0", "metadata"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word about the %s in %q", want, err)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Error("the key is in the error")
	}
}

// The only test with sockets: the default transport's binding, joining and closing.
func TestRealSocketsOnLoopback(t *testing.T) {
	var rings []*gossip.Ring
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, cfg := range []gossip.Config{router("hub"), region("a")} {
		cfg.BindAddr = "127.0.0.1:0"
		if len(rings) > 0 {
			cfg.Seeds = []string{rings[0].Addr()}
		}
		ring, err := gossip.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		rings = append(rings, ring)
		running.Go(func() {
			if err := ring.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for _, ring := range rings {
		for len(ring.Members()) != 2 {
			<-ring.Changes() // the test's own timeout is the bound
		}
	}
}

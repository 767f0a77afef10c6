package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/cluster"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/viewers"
)

// member is a service that runs as a process of its own and comes back at the same address, on the same data.
type member struct {
	role, name string
	args       []string
	addr       string // empty before the first start
	*replica
}

func (m *member) start(t *testing.T) {
	t.Helper()
	m.replica = startProcess(t, append([]string{m.role, "--listen", cmp.Or(m.addr, "127.0.0.1:0")}, m.args...)...)
	m.addr = m.replica.addr
}

// stop asks it to end, and waits until it has, in order.
func (m *member) stop(t *testing.T) {
	t.Helper()
	m.signal(t, syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end", m.name)
	}
	if err := m.cmd.Wait(); err != nil {
		t.Errorf("%s ended with %v", m.name, err)
	}
}

func (m *member) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
}

// apart is a platform of which every service is a process: two routers, two regions, a verifier and fulfillment on
// SQLite. Viewers know both routers.
type apart struct {
	platform
	members map[string][]*member // by role
	dir     string               // what all of them keep
}

// startApart starts the processes, all of them with some more flags. dirOf says where a region keeps its journal; empty: in
// the test's directory.
func startApart(t *testing.T, dirOf map[string]string, flags ...string) *apart {
	t.Helper()
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "tokens.json")
	tokens, err := auth.LoadOrCreate(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	p := &apart{members: map[string][]*member{}, dir: dir}
	add := func(role, name string, args ...string) *member {
		m := &member{role: role, name: name, args: slices.Concat(args, []string{"--tokens", tokenFile}, flags)}
		m.start(t)
		p.members[role] = append(p.members[role], m)
		return m
	}
	fulfillment := add("fulfillment", "fulfillment", "--data", filepath.Join(dir, "centre"))
	verifier := add("verifier", "verifier", "--data", filepath.Join(dir, "centre"), "--fulfillment", fulfillment.addr)
	centre := []string{"--fulfillment", fulfillment.addr, "--verifier", verifier.addr}
	routes := centre
	for _, name := range []string{"europe-west3", "us-central1"} {
		data := cmp.Or(dirOf[name], filepath.Join(dir, name))
		r := add("region", name, append([]string{"--name", name, "--zones", cluster.Zone(name), "--data", data}, centre...)...)
		routes = append(routes, "--region", name+"="+r.addr)
	}
	p.Cluster = &cluster.Cluster{Tokens: tokens, Fulfillment: fulfillment.addr}
	for _, name := range []string{"router-a", "router-b"} {
		admin := freeAddress(t)
		add("router", name, append([]string{"--name", name, "--admin-listen", admin}, routes...)...)
		p.Routers = append(p.Routers, admin)
	}
	p.allReach(t, "the regions")
	return p
}

// freeAddress is one that nobody listens on, for a port of which a process does not say where it is.
func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

// audience starts viewers who know both routers, as clients know several addresses of one name.
func (p *apart) audience(t *testing.T, perMinute int) (a *viewers.Audience, leave func()) {
	t.Helper()
	var public []string
	for _, m := range p.members["router"] {
		public = append(public, m.addr)
	}
	var offers []offerv1.OfferServiceClient
	for range 4 {
		offers = append(offers, p.dial(t, strings.Join(public, ","), "").offers)
	}
	a = viewers.New(viewers.Config{
		Origins: []viewers.Origin{{Offers: offers}}, PerMinute: perMinute, AbandonRate: 0.2,
		Payments: []string{"tp_ok", "tp_ok", "tp_ok", "tp_decline", "tp_timeout_after", "tp_500_once"}, Keep: true,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var inside sync.WaitGroup
	inside.Go(func() { _ = a.Run(ctx) })
	leave = sync.OnceFunc(func() { cancel(); inside.Wait() })
	t.Cleanup(leave)
	return a, leave
}

// goOn waits until more viewers hold receipts than did. Their purchases may end much later.
func (p *apart) goOn(t *testing.T, a *viewers.Audience, what string) {
	t.Helper()
	receipts := func() int { return a.Stats().Calls["verify receipt"]["OK"] }
	enough := receipts() + 10
	p.until(t, "purchases go on "+what, func() bool { return receipts() >= enough })
}

// brokenCalls counts the calls that told a viewer of a fault. A stream that breaks is resumed: that it was shows in the
// receipts, which all settle.
func brokenCalls(s viewers.Stats) map[string]int {
	found := map[string]int{}
	for method, endings := range s.Calls {
		for ending, n := range endings {
			switch code, _, _ := strings.Cut(ending, "/"); code {
			case "Unavailable", "Internal", "Unknown", "DeadlineExceeded":
				if method != "WatchPurchase" && method != "WatchDrops" {
					found[method+" "+ending] += n
				}
			}
		}
	}
	return found
}

// Every role is killed under load, again and again, and comes back: what was acknowledged is present and ends, the books
// balance, and viewers do not see it when a node dies. RIMLIGHT_KILLS says how often; `make kill` does it a hundred times.
func TestEveryRoleIsKilledUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes half a minute; run without -short")
	}
	kills := 6
	if text := os.Getenv("RIMLIGHT_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("RIMLIGHT_KILLS: %v", err)
		}
	}
	begin := time.Now()
	p := startApart(t, nil)
	drop := p.createDrop(t, uint32(3000+200*kills), time.Hour)
	audience, leave := p.audience(t, 1200)
	p.goOn(t, audience, "at all")
	byRole := map[string]int{}
	for i := range kills {
		role := []string{"region", "verifier", "fulfillment", "router"}[i%4]
		victim := p.members[role][rand.IntN(len(p.members[role]))]
		before := brokenCalls(audience.Stats())
		victim.signal(t, syscall.SIGKILL)
		byRole[role]++
		p.goOn(t, audience, "without "+victim.name)
		victim.start(t)
		p.goOn(t, audience, "with "+victim.name)
		if role == "router" { // what was on its way through it is asked again through the other one
			continue
		}
		for call, n := range brokenCalls(audience.Stats()) {
			if n > before[call] {
				t.Errorf("%s was killed, and %d calls ended in %s", victim.name, n-before[call], call)
			}
		}
	}
	p.allIsWell(t, drop, audience, leave)
	if t.Failed() {
		return
	}
	receipts := len(audience.Stats().Receipts) // each of them was asked for and is final
	line, err := json.Marshal(struct {
		Kills        map[string]int `json:"kills"`
		Acknowledged int            `json:"acknowledged"`
		Present      int            `json:"present"`
		Audit        string         `json:"audit"`
		Seconds      float64        `json:"seconds"`
	}{byRole, receipts, receipts, "holds", math.Round(time.Since(begin).Seconds())})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line)) // for make kill
}

// allIsWell sends the viewers home and holds the platform to what it promised.
func (p *apart) allIsWell(t *testing.T, drop *offerv1.Drop, a *viewers.Audience, leave func()) {
	t.Helper()
	leave()
	stats := a.Stats()
	if stats.Unverified > 0 {
		t.Errorf("%d receipts or outcomes could not be verified", stats.Unverified)
	}
	p.everyReceiptSettles(t, drop, stats.Receipts)
	p.auditHolds(t)
}

// A node whose disk is full refuses and goes on. A process that stops, without dying, holds its connections: viewers go
// elsewhere, and it goes on where it was. Then every process is restarted in turn, as for a new version, and no viewer
// notices.
func TestProcessesFillUpStopAndAreRestarted(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes half a minute; run without -short")
	}
	disk := smallDisk(t)
	p := startApart(t, map[string]string{"us-central1": disk})
	drop := p.createDrop(t, 3000, 30*time.Minute)
	audience, leave := p.audience(t, 1200)
	p.goOn(t, audience, "at all")
	if disk != "" {
		p.fullDisk(t, p.members["region"][1], disk, audience)
	}
	for _, victim := range []*member{p.members["region"][0], p.members["verifier"][0], p.members["region"][1]} {
		victim.signal(t, syscall.SIGSTOP)
		t.Cleanup(func() { _ = victim.cmd.Process.Signal(syscall.SIGCONT) }) // a failed test leaves nothing stopped behind
		p.goOn(t, audience, "while "+victim.name+" is stopped")
		p.goOn(t, audience, "while "+victim.name+" is still stopped")
		victim.signal(t, syscall.SIGCONT)
		p.goOn(t, audience, "with "+victim.name)
	}
	for _, role := range []string{"region", "verifier", "fulfillment", "router"} {
		for _, m := range p.members[role] {
			before := audience.Stats()
			m.stop(t)
			p.goOn(t, audience, "without "+m.name)
			m.start(t)
			p.allReach(t, m.name)
			p.goOn(t, audience, "with "+m.name)
			if after := audience.Stats(); after.Failed > before.Failed {
				t.Errorf("%s was restarted, and %d visits failed: of calls, %v, before %v", m.name, after.Failed-before.Failed, brokenCalls(after), brokenCalls(before))
			}
		}
	}
	t.Logf("calls that were made again: %v", brokenCalls(audience.Stats()))
	p.allIsWell(t, drop, audience, leave)
}

// allReach waits until every router reaches every region: only then may the next process go.
func (p *apart) allReach(t *testing.T, what string) {
	t.Helper()
	for _, router := range p.Routers {
		p.until(t, "the routers reach "+what, func() bool {
			up := p.reachable(t, router)
			return up["europe-west3"] && up["us-central1"]
		})
	}
}

// One data directory serves one process, whichever role.
func (p *apart) refusesASecondProcess(t *testing.T) {
	t.Helper()
	for _, role := range []string{"fulfillment", "verifier", "region"} {
		first := p.members[role][0]
		second := append([]string{role, "--listen", "127.0.0.1:0"}, first.args...)
		var out, errOut bytes.Buffer
		if code := run(t.Context(), second, &out, &errOut); code == exitDone || !strings.Contains(errOut.String(), "is locked by process "+strconv.Itoa(first.cmd.Process.Pid)) {
			t.Errorf("a second %s: exit %d: %s", role, code, errOut.String())
		}
	}
}

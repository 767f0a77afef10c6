package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/webhook"
)

// devProcess is `rimlight dev` as a user starts it.
type devProcess struct {
	router  string // the first
	routers []string
	log     *safeBuffer
}

// safeBuffer is a buffer that a process writes and a test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func startDev(t *testing.T, args ...string) *devProcess {
	t.Helper()
	p := &devProcess{log: &safeBuffer{}}
	cmd := osexec.CommandContext(t.Context(), os.Args[0], append([]string{"dev", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = p.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("dev ended with %v: %s", err, p.log)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "routers "))
		if len(words) == 2 && strings.HasPrefix(words[0], "http") { // its URL and its name
			p.routers = append(p.routers, words[0])
			p.router = p.routers[0]
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			return p
		}
	}
	t.Fatalf("dev did not come up: %s", p.log)
	return nil
}

// asks runs a client verb and reads its JSON.
func (p *devProcess) asks(t *testing.T, into any, args ...string) (code int, errOut string) {
	t.Helper()
	var out, stderr bytes.Buffer
	code = run(t.Context(), append(args, "--router", p.router, "-o", "json"), &out, &stderr)
	if code == exitDone && into != nil {
		if err := json.Unmarshal(out.Bytes(), into); err != nil {
			t.Fatalf("%v printed %s: %v", args, &out, err)
		}
	}
	return code, stderr.String()
}

// eventually waits for what other processes do, which no channel tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(90 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not within 90 s: %s", what)
		}
	}
}

// faults is how many the routers tell of.
func (p *devProcess) faults(t *testing.T) (n int) {
	t.Helper()
	var got struct {
		Regions []struct{ Faults []struct{ Kind string } }
	}
	if code, errOut := p.asks(t, &got, "regions"); code != exitDone {
		t.Fatalf("regions: %d %s", code, errOut)
	}
	for _, r := range got.Regions {
		n += len(r.Faults)
	}
	return n
}

type drillSlips struct {
	Slips   []drillSlip
	Windows []struct {
		Scope, Name string
		Calls       int `json:",string"`
		LateCalls   int `json:",string"`
	}
}

func (p *devProcess) slips(t *testing.T) (got drillSlips) {
	t.Helper()
	if code, errOut := p.asks(t, &got, "slips"); code != exitDone {
		t.Fatalf("slips: %d %s", code, errOut)
	}
	return got
}

// busiest is the region with the most attempts in the last five seconds.
func (p *devProcess) busiest(t *testing.T) (name string, calls int) {
	t.Helper()
	for _, w := range p.slips(t).Windows {
		if w.Scope == "SLIP_SCOPE_REGION" && w.Calls > calls {
			name, calls = w.Name, w.Calls
		}
	}
	return name, calls
}

// attempts is how many a region got in the last five seconds.
func (p *devProcess) attempts(t *testing.T, region string) int {
	t.Helper()
	for _, w := range p.slips(t).Windows {
		if w.Scope == "SLIP_SCOPE_REGION" && w.Name == region {
			return w.Calls
		}
	}
	return 0
}

type drillSlip struct {
	Region, Rule, Cause, StartTime, EndTime, Explanation string
	ShareBefore, WorstShare, ShareAfter                  float64
	DropID, TimeLost                                     string
	DecisionIDs                                          []string `json:"decisionIds"`
}

// The drill of the operators' tour: a brownout of the busiest region is told in the CLI, the log, the metrics and the
// webhook, traffic moves away, and comes back afterwards. When every region is slow, the open drop closes later.
func TestABrownoutIsNoticedAndLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a platform with real delays for a minute; run without -short")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var mu sync.Mutex
	var hooked []string
	secretFile := filepath.Join(t.TempDir(), "secret")
	secret, err := webhook.LoadOrCreateSecret(secretFile)
	if err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		want := webhook.Sign(secret, r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
		if err != nil || r.Header.Get("webhook-signature") != want {
			t.Errorf("a webhook that is not genuine: %v %s", err, body)
		}
		mu.Lock()
		defer mu.Unlock()
		hooked = append(hooked, string(body))
	}))
	t.Cleanup(receiver.Close)
	p := startDev(t, "--drills", "--viewers", "600", "--webhook", receiver.URL, "--webhook-secret", secretFile)

	victim, before := "", 0
	eventually(t, "viewers buy", func() bool {
		victim, before = p.busiest(t)
		return before > 40
	})
	began := time.Now()
	if code, errOut := p.asks(t, nil, "fault", "brownout", victim, "--for", "30s", "--added", "1s"); code != exitDone {
		t.Fatalf("fault: %d %s", code, errOut)
	}
	find := func() drillSlip { return p.slipOf(t, victim, began) }
	eventually(t, "a slip of "+victim, func() bool { return find().Region == victim && find().WorstShare > 0.05 })
	t.Logf("a slip was told %.1f s after the brownout began", time.Since(began).Seconds())
	slip := find()
	if slip.StartTime == "" || slip.Explanation == "" || len(slip.DecisionIDs) == 0 {
		t.Errorf("got %+v", slip)
	} else if code, errOut := p.asks(t, nil, "explain", slip.DecisionIDs[0]); code != exitDone {
		t.Errorf("explain: %d %s", code, errOut)
	}
	if p.faults(t) == 0 {
		t.Error("regions does not tell of the drill")
	}
	eventually(t, "the webhook", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.ContainsFunc(hooked, func(body string) bool {
			return strings.Contains(body, `"slip.began"`) && strings.Contains(body, victim)
		})
	})
	if !strings.Contains(p.log.String(), "slip began") || !strings.Contains(p.log.String(), "name="+victim) {
		t.Error("the log does not tell of the slip")
	}
	answer, err := http.Get(p.router + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if page, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(page), `rimlight_router_slips_total{`) {
		t.Errorf("the metrics do not tell of the slip: %v", err)
	}
	eventually(t, "traffic moves", func() bool { return p.attempts(t, victim) < before/4 })
	eventually(t, "the slip is over, since traffic moved away or the drill ended", func() bool {
		s := find()
		return s.Region == "" || s.EndTime != ""
	})
	eventually(t, "the drill is over", func() bool { return p.faults(t) == 0 })
	eventually(t, "traffic is back", func() bool { return p.attempts(t, victim) > before/4 })
	var changes struct {
		Entries []struct{ Asked, Target, Role string }
	}
	if code, errOut := p.asks(t, &changes, "audit", "--operators"); code != exitDone || len(changes.Entries) != 1 ||
		changes.Entries[0].Target != victim || changes.Entries[0].Role != "sre" {
		t.Errorf("the audit log: %d %s %+v", code, errOut, changes)
	}
	if text := os.Getenv("RIMLIGHT_BROWNOUTS"); text != "" {
		runs, err := strconv.Atoi(text)
		if err != nil || runs < 1 {
			t.Fatalf("RIMLIGHT_BROWNOUTS: %q", text)
		}
		p.measureBrownouts(t, runs)
	}
	p.givesTimeBack(t)
}

// givesTimeBack slows down every region, so that nobody can make good for another, and waits until a slip tells of a drop's
// lost time and the drop closes later for it.
func (p *devProcess) givesTimeBack(t *testing.T) {
	t.Helper()
	var got struct{ Regions []struct{ Name string } }
	if code, errOut := p.asks(t, &got, "regions"); code != exitDone {
		t.Fatalf("regions: %d %s", code, errOut)
	}
	var names []string
	for _, r := range got.Regions { // a line per router
		names = append(names, r.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if code, errOut := p.asks(t, nil, "fault", "brownout", name, "--for", "5m", "--added", "1s"); code != exitDone {
			t.Fatalf("fault: %d %s", code, errOut)
		}
	}
	later := map[string]time.Duration{}
	eventually(t, "a drop closes later, and its slip says why", func() bool {
		var listed struct {
			Drops []struct {
				Drop struct {
					Drop struct{ DropID, CloseTime, PlannedCloseTime string }
				}
			}
		}
		if code, errOut := p.asks(t, &listed, "drops", "list"); code != exitDone {
			t.Fatalf("drops list: %d %s", code, errOut)
		}
		for _, listed := range listed.Drops {
			d := listed.Drop.Drop
			closes, err := time.Parse(time.RFC3339, d.CloseTime)
			planned, perr := time.Parse(time.RFC3339, d.PlannedCloseTime)
			if err == nil && perr == nil {
				later[d.DropID] = closes.Sub(planned)
			}
		}
		return slices.ContainsFunc(p.slips(t).Slips, func(s drillSlip) bool {
			lost, err := time.ParseDuration(cmp.Or(s.TimeLost, "0s"))
			return err == nil && lost > 0 && later[s.DropID] >= time.Second
		})
	})
	t.Logf("drops close later by %v", later)
}

// slipOf is the region's slip that lasts, or began after a moment; zero: there is none. One of the machine's own may have
// begun before.
func (p *devProcess) slipOf(t *testing.T, region string, after time.Time) (s drillSlip) {
	t.Helper()
	got := p.slips(t)
	i := slices.IndexFunc(got.Slips, func(s drillSlip) bool {
		start, err := time.Parse(time.RFC3339, s.StartTime)
		return err == nil && s.Region == region && (s.EndTime == "" || start.After(after))
	})
	if i >= 0 {
		s = got.Slips[i]
	}
	return s
}

func TestFaultIsRefusedWithoutDrills(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a platform; run without -short")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	p := startDev(t, "--viewers", "0", "--regions", "europe-west3", "--routers", "europe-west1")
	if code, errOut := p.asks(t, nil, "fault", "brownout", "europe-west3"); code != exitRefused || !strings.Contains(errOut, "DRILLS_OFF") {
		t.Errorf("got exit %d: %s", code, errOut)
	}
}

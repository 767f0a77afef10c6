package checkup_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/checkup"
)

const ms = time.Millisecond

// fleet is two routers and three nodes without any problem.
func fleet() ([]checkup.Member, []checkup.Path) {
	var members []checkup.Member
	for _, name := range []string{"router r1", "router r2", "region a", "region b", "region c"} {
		m := checkup.Member{Name: name, Version: "v9", ClockOffset: 400 * ms, ClockError: 75 * ms}
		if strings.HasPrefix(name, "region") {
			m.SyncP99, m.Syncs, m.FreeBytes, m.AllBytes = 10*ms, 1000, 20<<30, 1<<40
		}
		members = append(members, m)
	}
	var paths []checkup.Path
	for _, from := range members {
		for _, to := range members {
			if from.Name != to.Name {
				paths = append(paths, checkup.Path{From: from.Name, To: to.Name, RTT: 150 * ms, Sent: 5, Lost: 1})
			}
		}
	}
	return members, paths
}

func TestProblems(t *testing.T) {
	type world struct {
		members []checkup.Member
		paths   []checkup.Path
	}
	member := func(name string, change func(*checkup.Member)) func(*world) {
		return func(w *world) {
			change(&w.members[slices.IndexFunc(w.members, func(m checkup.Member) bool { return m.Name == name })])
		}
	}
	path := func(change func(*checkup.Path), match func(from, to string) bool) func(*world) {
		return func(w *world) {
			for i := range w.paths {
				if match(w.paths[i].From, w.paths[i].To) {
					change(&w.paths[i])
				}
			}
		}
	}
	lost := func(p *checkup.Path) { p.Lost, p.RTT = p.Sent, 0 }
	between := func(a, b string) func(from, to string) bool {
		return func(from, to string) bool { return from == a && to == b }
	}
	at := func(name string) func(from, to string) bool {
		return func(from, to string) bool { return from == name || to == name }
	}
	both := func(changes ...func(*world)) func(*world) {
		return func(w *world) {
			for _, c := range changes {
				c(w)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*world)
		want   []string // beginnings of "subject: sentence"
	}{
		{"nothing is wrong", func(*world) {}, nil},
		{"a region is down, and its paths are not told once more",
			both(member("region a", func(m *checkup.Member) { m.Silence = "connection refused" }), path(lost, at("region a"))),
			[]string{"region a: It does not answer: connection refused."}},
		{"a silent member's old figures are not judged",
			member("region a", func(m *checkup.Member) { m.Silence, m.FreeBytes, m.ClockOffset = "timeout", 0, time.Hour }), []string{"region a: It does not answer"}},
		{"a clock is off", member("region b", func(m *checkup.Member) { m.ClockOffset, m.ClockError = -3*time.Second, 80*ms }),
			[]string{"region b: Its clock is 3s behind the asked router's, give or take 80ms."}},
		{"a clock may be right, for all that can be known", member("region b", func(m *checkup.Member) { m.ClockOffset, m.ClockError = 600*ms, 150*ms }), nil},
		{"a disk is nearly full", member("region c", func(m *checkup.Member) { m.FreeBytes, m.AllBytes = 900<<20, 100<<30 }),
			[]string{"region c: Its disk is nearly full: 0.9 GiB are free, 1 % of it."}},
		{"a small share of much is enough", member("region c", func(m *checkup.Member) { m.FreeBytes, m.AllBytes = 40<<30, 2<<40 }), nil},
		{"a small share of little is not", member("region c", func(m *checkup.Member) { m.FreeBytes, m.AllBytes = 4<<30, 100<<30 }), []string{"region c: Its disk is nearly full"}},
		{"a disk is slow", member("region c", func(m *checkup.Member) { m.SyncP99 = 120 * ms }), []string{"region c: Its disk is slow: 99 % of its last 1000 commits took up to 120ms."}},
		{"a laptop's disk is no problem, while a decision has its 100 ms", member("region c", func(m *checkup.Member) { m.SyncP99 = 79 * ms }), nil},
		{"a few slow commits of a young node say nothing", member("region c", func(m *checkup.Member) { m.SyncP99, m.Syncs = 120*ms, 19 }), nil},
		{"a version differs", member("region a", func(m *checkup.Member) { m.Version = "v8" }), []string{"fleet: It runs 2 versions: v9 on 4; v8 on region a."}},
		{"an unknown version differs from nothing", member("region a", func(m *checkup.Member) { m.Version = "" }), nil},
		{"one way is lossy", path(func(p *checkup.Path) { p.Lost = 2 }, between("region a", "region b")),
			[]string{"region a: 2 of 5 pings from it to region b were lost."}},
		{"one way is slow", path(func(p *checkup.Path) { p.RTT = 450 * ms }, between("router r1", "region b")),
			[]string{"router r1: A ping from it to region b takes 450ms there and back."}},
		{"one member loses pings from and to all: it is to blame", path(lost, at("region c")), []string{"region c: Pings get lost on 8 of the 8 ways from and to it."}},
		{"one pair, both ways", path(lost, func(from, to string) bool { return at("region a")(from, to) && at("region b")(from, to) }),
			[]string{"region a: 5 of 5", "region b: 5 of 5"}},
		{"the worst comes first", both(member("region a", func(m *checkup.Member) { m.Version = "v8" }), member("region b", func(m *checkup.Member) { m.ClockOffset = time.Minute }),
			member("region c", func(m *checkup.Member) { m.Silence = "gone" })), []string{"region c", "region b", "fleet"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{}
			w.members, w.paths = fleet()
			tt.change(w)
			got := checkup.Problems(w.members, w.paths, 0)
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems, want %d: %v", len(got), len(tt.want), got)
			}
			for i, p := range got {
				if text := p.Subject + ": " + p.Sentence; !strings.HasPrefix(text, tt.want[i]) {
					t.Errorf("got %q, want %q", text, tt.want[i])
				}
				for _, text := range []string{p.Sentence, p.Fix} {
					if !strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
						t.Errorf("%q is not one sentence", text)
					}
				}
			}
		})
	}
}

func TestManyVersionsStayOneSentence(t *testing.T) {
	var members []checkup.Member
	for i := range 100 {
		members = append(members, checkup.Member{Name: fmt.Sprint("region ", i), Version: fmt.Sprint("v", i%2)})
	}
	if got := checkup.Problems(members, nil, 0); len(got) != 1 || got[0].Sentence != "It runs 2 versions: v0 on 50; v1 on 50." {
		t.Errorf("got %v", got)
	}
}

func TestWhoAsksSaysWhatASlowDiskIs(t *testing.T) {
	members := []checkup.Member{{Name: "region a", SyncP99: 30 * ms, Syncs: 100}, {Name: "region b", SyncP99: 29 * ms, Syncs: 100}}
	if got := checkup.Problems(members, nil, 30*ms); len(got) != 1 || got[0].Subject != "region a" {
		t.Errorf("got %+v", got)
	}
}

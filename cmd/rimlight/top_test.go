package main

import (
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc"
)

// hundred regions, some of them in trouble of every kind; the first has two nodes.
func hundredRegions() []*routerv1.RegionStatus {
	var all []*routerv1.RegionStatus
	for i := range 100 {
		r := &routerv1.RegionStatus{
			Name: fmt.Sprintf("region-%02d", i), NodeId: fmt.Sprintf("node-%02d", i), Mode: regionv1.RegionMode_REGION_MODE_SERVING,
			Reachable: true, OffersPerSecond: float64(i), Share: 0.01, InFlight: uint32(i % 7), Parallelism: 8, JournalLag: int64(i % 13),
			Median: durationpb.New(time.Duration(10+i) * time.Millisecond), P99: durationpb.New(time.Duration(20+3*i%97) * time.Millisecond),
			Stock: []*regionv1.DropStock{{Untouched: uint32(i)}, {Untouched: 1}},
		}
		switch i {
		case 5:
			r.Reachable, r.LastError = false, "connection\x1b[2J\nrefused"
		case 6:
			r.Ejected = true
		case 7:
			r.LateShare = 0.25
		case 8:
			r.Suspect = true
		case 9:
			r.Mode, r.Drained = regionv1.RegionMode_REGION_MODE_DRAINED, true
		}
		all = append(all, r)
	}
	second := &routerv1.RegionStatus{Name: "region-00", NodeId: "node-00b", Mode: regionv1.RegionMode_REGION_MODE_SERVING, Reachable: true, Ejected: true, OffersPerSecond: 2}
	return append(all, second)
}

func texts(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

func TestTopAtAHundredRegions(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 4, 5, 0, time.UTC)
	v := topView{router: "r1", rows: topRows(hundredRegions()), sort: "trouble", now: now, heard: now}
	golden(t, "top-24x100", texts(v.lines(100, 24)))
	for _, sort := range topSorts {
		for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {1, 1}, {300, 200}, {20, 3}} {
			v.sort = sort.name
			lines := v.lines(size[0], size[1])
			if len(lines) > size[1] {
				t.Errorf("%s at %v: %d lines", sort.name, size, len(lines))
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l.text) > size[0] || strings.ContainsAny(l.text, "\x1b\r\n\t") {
					t.Errorf("%s at %v: the line %q", sort.name, size, l.text)
				}
			}
		}
		first := strings.Fields(v.lines(0, 0)[2].text)[0]
		if want := map[string]string{"trouble": "region-05", "offers": "region-99", "p99": "region-32", "lag": "region-12", "name": "region-00"}[sort.name]; first != want {
			t.Errorf("by %s the first is %s, want %s", sort.name, first, want)
		}
	}
	v.problem, v.heard = io.EOF, now.Add(-12*time.Second)
	if text := texts(v.lines(200, 24)); !strings.Contains(text, "not answered for 12s") || strings.Count(text, "\n") > 24 {
		t.Errorf("without news it says %s", text)
	}
}

// BenchmarkTopUpdateAtAHundredRegions is a whole update, which is one a second: the router's message made, sent and read, and
// a frame of 50 lines in a terminal's buffer. What a router does to collect it is not in it.
func BenchmarkTopUpdateAtAHundredRegions(b *testing.B) {
	f := startFakeAdmin(b)
	f.set(func() { f.listed = &routerv1.ListRegionsResponse{Router: "r1", Regions: hundredRegions()} })
	conn, err := rpc.Dial(strings.TrimPrefix(f.url, "http://"), rpc.DialConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	master, slave, err := pty.Open()
	if err != nil {
		b.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 50, Cols: 120}); err != nil {
		b.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(io.Discard, master) }) // ends when the last terminal is closed
	admin, terminal := routerv1.NewRouterAdminServiceClient(conn), &screen{out: slave, colour: true}
	b.ReportAllocs()
	for b.Loop() {
		answer, err := admin.ListRegions(b.Context(), &routerv1.ListRegionsRequest{LocalOnly: true})
		if err != nil {
			b.Fatal(err)
		}
		now := time.Now()
		v := topView{router: answer.GetRouter(), rows: topRows(answer.GetRegions()), sort: "trouble", now: now, heard: now}
		if err := terminal.draw(v.lines); err != nil {
			b.Fatal(err)
		}
	}
	if err := slave.Close(); err != nil {
		b.Error(err)
	}
	reading.Wait()
	if err := master.Close(); err != nil {
		b.Error(err)
	}
}

// BenchmarkTopAtAHundredRegions is the frame alone.
func BenchmarkTopAtAHundredRegions(b *testing.B) {
	all, now := hundredRegions(), time.Date(2026, 11, 22, 12, 4, 5, 0, time.UTC)
	b.ReportAllocs()
	for b.Loop() {
		v := topView{router: "r1", rows: topRows(all), sort: "trouble", now: now, heard: now}
		v.lines(120, 50)
	}
}

func TestTopWithoutATerminalIsOneSnapshot(t *testing.T) {
	f := startFakeAdmin(t)
	f.set(func() { f.listed = &routerv1.ListRegionsResponse{Router: "r1", Regions: hundredRegions()[:8]} })
	code, out, errOut := f.verb(t, "top", "--sort", "name")
	if code != exitDone || errOut != "" {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	golden(t, "top", out)
	if code, out, errOut = f.verb(t, "top", "-o", "json"); code != exitDone || !strings.Contains(out, `"offersPerSecond": 7`) {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}

// terminalTest is `rimlight top` at a terminal of its own.
type terminalTest struct {
	cmd    *osexec.Cmd
	master *os.File
	shown  safeBuffer
	exited chan error
}

func (tt *terminalTest) shows(t *testing.T, what string) {
	t.Helper()
	eventually(t, fmt.Sprintf("it shows %q", what), func() bool { return strings.Contains(tt.shown.String(), what) })
}

func (tt *terminalTest) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := tt.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// At a terminal top draws in place, obeys its keys, fits the window, and leaves the terminal as it was, however it ends.
func TestTopAtATerminal(t *testing.T) {
	f := startFakeAdmin(t)
	f.set(func() {
		f.listed = &routerv1.ListRegionsResponse{Router: "r1", Regions: hundredRegions()}
		f.watch = []*routerv1.WatchRegionsResponse{{Regions: hundredRegions()}}
	})
	for _, end := range []struct {
		name string
		end  func(t *testing.T, tt *terminalTest)
	}{
		{"q", func(t *testing.T, tt *terminalTest) { tt.types(t, "q") }},
		{"ctrl-C", func(t *testing.T, tt *terminalTest) { tt.types(t, "\x03") }},
		{"SIGTERM", func(t *testing.T, tt *terminalTest) {
			if err := tt.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			master, slave, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 120}); err != nil {
				t.Fatal(err)
			}
			before, err := term.GetState(int(slave.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			tt := &terminalTest{master: master, exited: make(chan error, 1)}
			tt.cmd = osexec.CommandContext(t.Context(), os.Args[0], "top", "--router", f.url)
			tt.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir(), "NO_COLOR=")
			tt.cmd.Stdin, tt.cmd.Stdout, tt.cmd.Stderr = slave, slave, slave
			tt.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			var reading sync.WaitGroup
			reading.Go(func() { _, _ = io.Copy(&tt.shown, master) }) // ends when the last terminal is closed
			if err := tt.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { tt.exited <- tt.cmd.Wait() }()

			tt.shows(t, "r1: 100 regions, 6 in trouble")
			tt.shows(t, "... and 79 more")
			tt.types(t, "s")
			tt.shows(t, "by offers (s)")
			if err := pty.Setsize(master, &pty.Winsize{Rows: 10, Cols: 60}); err != nil {
				t.Fatal(err)
			}
			tt.shows(t, "... and 93 more")
			end.end(t, tt)
			if err := <-tt.exited; err != nil {
				t.Errorf("it ended with %v: %q", err, tt.shown.String())
			}
			after, err := term.GetState(int(slave.Fd()))
			if err != nil || !reflect.DeepEqual(before, after) {
				t.Errorf("the terminal was %v and is %v, %v", before, after, err)
			}
			if err := slave.Close(); err != nil {
				t.Error(err)
			}
			reading.Wait()
			shown := tt.shown.String()
			if !strings.HasPrefix(shown, enterScreen) || !strings.HasSuffix(shown, leaveScreen) || strings.Count(shown, enterScreen) != 1 {
				t.Errorf("it did not take the screen and give it back: it wrote %.40q...%q", shown, shown[max(0, len(shown)-40):])
			}
			if !strings.Contains(shown, styles[bad]) {
				t.Error("trouble has no colour")
			}
			if err := master.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

// Check implements routerv1.RouterAdminServiceServer.
func (f *fakeAdmin) Check(_ context.Context, q *routerv1.CheckRequest) (*routerv1.CheckResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slowDisk = q.GetSlowDisk().AsDuration()
	return proto.Clone(f.check).(*routerv1.CheckResponse), nil
}

func TestCheckIsToldWhatASlowDiskIs(t *testing.T) {
	f := startFakeAdmin(t)
	f.set(func() { f.check = &routerv1.CheckResponse{} })
	for flag, want := range map[string]time.Duration{"80ms": 80 * time.Millisecond, "5ms": 5 * time.Millisecond} {
		if code, _, errOut := f.verb(t, "check", "--slow-disk", flag); code != exitDone {
			t.Errorf("exit %d: %s", code, errOut)
		}
		f.set(func() {
			if f.slowDisk != want {
				t.Errorf("--slow-disk %s asks for %v", flag, f.slowDisk)
			}
		})
	}
	for _, flag := range []string{"0s", "-1s", "61s", "fast"} {
		if code, _, _ := f.verb(t, "check", "--slow-disk="+flag); code != exitUsage {
			t.Errorf("--slow-disk %s: exit %d", flag, code)
		}
	}
}

func TestCheckTellsProblemsAndFixes(t *testing.T) {
	f := startFakeAdmin(t)
	path := func(from, to string, rtt time.Duration, lost uint32) *routerv1.CheckedPath {
		p := &routerv1.CheckedPath{From: from, To: to, Sent: 5, Lost: lost}
		if rtt > 0 {
			p.Rtt = durationpb.New(rtt)
		}
		return p
	}
	found := &routerv1.CheckResponse{
		Members: []*routerv1.CheckedMember{
			{Name: "router r1", Version: "v9", ClockOffset: durationpb.New(0), ClockError: durationpb.New(0)},
			{Name: "region moon", Version: "v8", Address: "10.0.0.1:9000", ClockOffset: durationpb.New(-1500 * time.Millisecond), ClockError: durationpb.New(75 * time.Millisecond),
				Disk: &regionv1.DiskHealth{SyncP99: durationpb.New(8 * time.Millisecond), Syncs: 1024, FreeBytes: 3 << 30, TotalBytes: 1 << 40}},
			{Name: "region sun", Silence: "connection refused", Address: "10.0.0.2:9000"},
		},
		Paths: []*routerv1.CheckedPath{
			path("router r1", "region moon", 150*time.Millisecond, 0), path("router r1", "region sun", 0, 5), path("region moon", "router r1", 151*time.Millisecond, 2),
		},
	}
	f.set(func() { f.check = found })
	code, out, errOut := f.verb(t, "check")
	if code != exitDone || errOut != "" {
		t.Errorf("without a problem: exit %d, %s", code, errOut)
	}
	golden(t, "check", out)

	f.set(func() {
		found.Problems = []*routerv1.CheckProblem{
			{Subject: "region sun", Sentence: "It does not answer: connection refused.", Fix: "Start it."},
			{Subject: "fleet", Sentence: "It runs 2 versions.", Fix: "Finish the rolling update."},
		}
	})
	if code, out, errOut = f.verb(t, "check"); code != exitRefused || !strings.Contains(errOut, "there are 2 problems") ||
		!strings.Contains(out, "region sun: It does not answer: connection refused.\n  Start it.\nfleet: It runs") {
		t.Errorf("exit %d, %s%s", code, out, errOut)
	}
	var got struct {
		Problems []struct{ Subject, Sentence, Fix string }
	}
	code, out, _ = f.verb(t, "check", "-o", "json")
	if err := json.Unmarshal([]byte(out), &got); code != exitRefused || err != nil || len(got.Problems) != 2 || got.Problems[0].Fix != "Start it." {
		t.Errorf("exit %d, %v, %s", code, err, out)
	}

	f.set(func() {
		found.Paths = nil
		for i := range 100 {
			found.Paths = append(found.Paths, path("router r1", fmt.Sprintf("region %02d", i), time.Duration(i+1)*time.Millisecond, uint32(i/99)))
		}
	})
	if _, out, _ = f.verb(t, "check"); !strings.Contains(out, "router r1  region 99  100.0 (1/5 lost)\nrouter r1  region 98  99.0\n") || !strings.Contains(out, "The worst of 100 ways") {
		t.Errorf("of a hundred ways it printed %s", out)
	}
}

// checks has the running platform look at itself: what this machine's disk and clock are like is its own business.
func (p *platform) checks(t *testing.T, members int) {
	t.Helper()
	whole := func() bool {
		code, out, errOut := p.verb(t, "check", "--timeout", "1m")
		var got struct {
			Members []struct {
				Name, Silence, Version, ClockOffset string
				Disk                                *struct{ SyncP99, FreeBytes string }
			}
			Paths []struct{ From, To string }
		}
		if err := json.Unmarshal([]byte(out), &got); (code != exitDone && code != exitRefused) || err != nil {
			t.Fatalf("check: exit %d, %v: %s%s", code, err, out, errOut)
		}
		for _, m := range got.Members {
			disk := m.Disk != nil && m.Disk.SyncP99 != "" && m.Disk.FreeBytes != "0"
			if m.Silence != "" || m.Version != "test" || m.ClockOffset == "" || disk != strings.HasPrefix(m.Name, "region") {
				return false
			}
		}
		return len(got.Members) == members && len(got.Paths) == members*(members-1)
	}
	p.until(t, "check tells of all members, their disks, and the ways from each to each", whole)
}

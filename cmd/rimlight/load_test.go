package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestLoadCountsWhatViewersWaitedFor(t *testing.T) {
	p := startPlatform(t, t.TempDir(), []string{"us-central1", "europe-west3"}, []string{"us-central1"}, false)
	drop := p.createDrop(t, 500, 5*time.Minute)
	code, out, stderr := p.verb(t, "load", "-o", "json", "--viewers", "1200", "--duration", "4s", "--think", "0s",
		"--abandon-rate", "0.2", "--decline-rate", "0.2", "--origin", "near=0ms", "--origin", "far=250ms")
	if code != exitDone {
		t.Fatalf("load: exit %d: %s", code, stderr)
	}
	var r loadReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	var taps int64
	for _, tap := range r.Taps {
		taps += tap.Count
		// No answer is there before the last mile's round trip is over, and one that takes 250 ms is late by itself.
		if tap.P50Ms < tap.RTTMs || (tap.Origin == "far" && tap.Over200 != 1) {
			t.Errorf("taps from %s: median %.1f ms, %.2f over 200 ms, with a last mile of %.0f ms", tap.Origin, tap.P50Ms, tap.Over200, tap.RTTMs)
		}
	}
	if r.Accepted == 0 || taps != int64(r.Accepted) || r.Unverified != 0 {
		t.Errorf("%d accepted, %d taps timed, %d unverified", r.Accepted, taps, r.Unverified)
	}
	if ended := r.Outcomes["delivered"] + r.Outcomes["voucher"] + r.Outcomes["refused"]; ended != r.Accepted {
		t.Errorf("%d accepted, %d came to an end: %v", r.Accepted, ended, r.Outcomes)
	}
	if len(r.Drops) != 1 || r.Drops[0].DropID != drop.GetDropId() || int(r.Drops[0].Sold) != r.Outcomes["delivered"] {
		t.Errorf("drops %+v, want %s with %d sold", r.Drops, drop.GetDropId(), r.Outcomes["delivered"])
	}
}

func TestLoadRefusesWhatItCannotPlay(t *testing.T) {
	for wrong, args := range map[string][]string{
		"nobody":               {"--viewers", "0"},
		"more than a machine":  {"--viewers", "60001"},
		"a share over 1":       {"--abandon-rate", "1.5"},
		"a negative share":     {"--decline-rate", "-0.1"},
		"no time":              {"--duration", "0s"},
		"no call at all":       {"--tries", "0"},
		"an origin of no form": {"--origin", "tokyo"},
		"an origin's RTT":      {"--origin", "tokyo=1h"},
		"an origin twice":      {"--origin", "a=1ms", "--origin", "a=2ms"},
		"an origin's router":   {"--origin", "a=1ms@nowhere"},
	} {
		t.Run(wrong, func(t *testing.T) {
			code, _, stderr := exec(t, append([]string{"load"}, args...)...)
			if code != exitUsage || !strings.Contains(stderr, "rimlight: --") {
				t.Errorf("exit %d: %s", code, stderr)
			}
		})
	}
}

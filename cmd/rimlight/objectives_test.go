package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/slo"
)

func TestObjectivesOfFlows(t *testing.T) {
	const chat = "acme.Chat"
	for _, tt := range []struct {
		name string
		args map[string]string
		want slo.Config
		err  string
	}{
		{"nothing", nil, slo.Config{}, ""},
		{"for all", map[string]string{"all": "250ms,10%"}, slo.Config{Objective: 250 * time.Millisecond, LateShare: 0.1}, ""},
		{"a time alone", map[string]string{"RequestOffer": "100ms"}, slo.Config{Objectives: map[string]time.Duration{"RequestOffer": 100 * time.Millisecond}}, ""},
		{"a stream and a forwarded service", map[string]string{"WatchDrops": "1s,2.5%", chat: "2s"}, slo.Config{
			Objectives: map[string]time.Duration{"WatchDrops": time.Second, chat: 2 * time.Second}, LateShares: map[string]float64{"WatchDrops": 0.025},
		}, ""},
		{"an unknown flow", map[string]string{"RequestOfer": "1s"}, slo.Config{}, `no flow is called "RequestOfer"`},
		{"no time", map[string]string{"all": "5%"}, slo.Config{}, "not a time"},
		{"no time to speak of", map[string]string{"all": "0s"}, slo.Config{}, "not a time"},
		{"no share", map[string]string{"all": "1s,0.05"}, slo.Config{}, "not a share"},
		{"all of them", map[string]string{"all": "1s,100%"}, slo.Config{}, "not a share"},
		{"not a number", map[string]string{"all": "1s,NaN%"}, slo.Config{}, "not a share"},
	} {
		got, err := (&sloFlags{SLO: tt.args}).config([]string{chat})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want something about %s", tt.name, err, tt.err)
			}
			continue
		}
		if tt.want.Objectives == nil {
			tt.want.Objectives = map[string]time.Duration{}
		}
		if tt.want.LateShares == nil {
			tt.want.LateShares = map[string]float64{}
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) || got.Validate() != nil {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
	if code, _, errOut := exec(t, "router", "--region", "a=b:1", "--slo", "RequestOffer=100ms,x"); code != exitUsage || !strings.Contains(errOut, `"x" is not a share`) {
		t.Errorf("exit %d, %s", code, errOut)
	}
}

package router_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router"
)

func TestARouterStartsWithWhatItsLastLifeMeasured(t *testing.T) {
	near := func(age time.Duration) string {
		return fmt.Sprintf(`{"saved_time": %q, "regions": {"near": {"network_ns": 33000000, "service_ns": 1}}}`,
			time.Now().Add(-age).Format(time.RFC3339))
	}
	for _, tt := range []struct {
		rule string
		file func() string
		want time.Duration
	}{
		{"it is a first guess", func() string { return near(time.Hour) }, 33 * ms},
		{"after a week the paths are others", func() string { return near(8 * 24 * time.Hour) }, 0},
		{"a torn file stops nobody", func() string { return `{"saved_ti` }, 0},
		{"an absurd one wins nothing", func() string { return strings.Replace(near(0), "33000000", "-5", 1) }, 0},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "measured.json")
				if err := os.WriteFile(file, []byte(tt.file()), 0o600); err != nil {
					t.Fatal(err)
				}
				n := &network{t: t}
				r, err := router.New(router.Config{
					Name: "r1", MemoryFile: file, Regions: []router.Region{{Name: "near", Address: "near:1"}},
				}, router.Deps{Dial: n.dial})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				}()
				answer, err := r.ListRegions(t.Context(), &routerv1.ListRegionsRequest{LocalOnly: true})
				if err != nil || len(answer.GetRegions()) != 1 {
					t.Fatalf("got %v and %v", answer, err)
				}
				if g := answer.GetRegions()[0]; g.GetReachable() || g.GetNetwork().AsDuration() != tt.want {
					t.Errorf("got %v, want a network of %v", g, tt.want)
				}
			})
		})
	}
}

func TestARouterKeepsWhatItMeasured(t *testing.T) {
	file := filepath.Join(t.TempDir(), "measured.json")
	inFleetWith(t, func(c *router.Config, _ *router.Deps) {
		if c.Name == "r1" {
			c.MemoryFile = file
		}
	}, func(t *testing.T, _ *fleet) {
		time.Sleep(time.Minute + time.Second)
		raw, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(raw), `"near":{"network_ns":`) {
			t.Errorf("got %s and %v", raw, err)
		}
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(file); err != nil {
		t.Errorf("at the end nothing was kept: %v", err)
	}
	if left, err := filepath.Glob(file + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

package router_test

import (
	"strings"
	"testing"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router"
)

// r2 starts beside r1, and its own ways to the regions are black holes.
func TestAColdRouterGoesByWhatItsPeersMeasured(t *testing.T) {
	began := time.Time{}
	inFleetWith(t, func(c *router.Config, d *router.Deps) {
		if c.Name != "r2" {
			return
		}
		began = time.Now()
		dial := d.Dial
		d.Dial = func(name, address string) (router.Conn, error) {
			if strings.HasPrefix(name, "r") { // a router
				return dial(name, address)
			}
			return dial(name, "nowhere:1")
		}
	}, func(t *testing.T, f *fleet) {
		if took := time.Since(began); took > 400*ms {
			t.Errorf("the start took %v, hearing others must not delay it", took)
		}
		want := map[string]time.Duration{"near": 2 * ms, "far": 32 * ms} // r1 is next door
		check := func(when string) {
			t.Helper()
			answer, err := f.routers["r2"].ListRegions(t.Context(), &routerv1.ListRegionsRequest{LocalOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range answer.GetRegions() {
				if g.GetReachable() || g.GetEjected() || g.GetSuspect() || g.GetSuccessRate() != 1 || g.GetNetwork().AsDuration() != want[g.GetName()] {
					t.Errorf("%s: got %v, want a network of %v and nothing else", when, g, want[g.GetName()])
				}
			}
		}
		check("at first")
		time.Sleep(20 * time.Second) // what r1 says of its regions' slowness later is not asked for
		check("later")
	})
}

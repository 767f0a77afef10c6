package cluster

import (
	"net/http"
	"time"

	"github.com/rimlight/rimlight/web"
)

// storefront is the shop's page; nil if it is not asked for. Viewers may be wherever the matrix knows the way from.
func (c *Cluster) storefront() (http.Handler, error) {
	if !c.cfg.Storefront {
		return nil, nil //nolint:nilnil // without pages a router shows its own
	}
	var places []web.Place
	if c.cfg.Matrix != nil {
		for _, from := range c.cfg.Matrix.Names() {
			place := web.Place{Name: from, RTTMillis: map[string]float64{}}
			for _, to := range c.cfg.Routers {
				rtt, _ := c.cfg.Matrix.RTT(from, to) // both names are in it: Validate
				place.RTTMillis[to] = float64(rtt) / float64(time.Millisecond)
			}
			places = append(places, place)
		}
	}
	return web.Storefront(func() web.Platform {
		// Only called once the routers serve, and then all of them have their addresses.
		told := web.Platform{Places: places, Drills: c.cfg.Drills, Split: c.cfg.Split}
		for i, addr := range c.Routers {
			told.Routers = append(told.Routers, web.Router{Name: c.cfg.Routers[i], Addr: addr})
		}
		return told
	})
}

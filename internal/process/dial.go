package process

import (
	"context"
	"net"
	"time"

	"github.com/rimlight/rimlight/internal/wan"
)

// Delayed dials over TCP with a round trip added, half of it each way: one machine plays a wide area network. links cuts the
// path; nil: it is never cut.
func Delayed(rtt time.Duration, links *wan.Switch) Dialer {
	direct := func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	return Dialer(wan.Dialer(direct, wan.Path{RTT: func() time.Duration { return rtt }, Switch: links}))
}

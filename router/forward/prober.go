package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/router/measure"
)

// Prober implements measure.Prober over the same connections that calls take. A backend without RegionService is timed
// by health checks, and one without those by its refusal: that took a round trip, too.
type Prober struct {
	Router string                                    // whom the node's log names
	Conn   func(key string) grpc.ClientConnInterface // nil when the connection is gone
	// Probed, if set, hears of every probe's end: what was sent, and the answer or the error.
	Probed func(t measure.Target, sent *regionv1.ProbeRequest, answer *regionv1.ProbeResponse, err error)

	mu      sync.Mutex
	foreign map[string]bool // by key: the last answer was that Probe is not implemented
}

var errNoConnection = errors.New("no connection")

// Probe implements measure.Prober.
func (p *Prober) Probe(ctx context.Context, t measure.Target) (*regionv1.ProbeResponse, error) {
	key := t.Key()
	conn := p.Conn(key)
	if conn == nil {
		return nil, errNoConnection
	}
	if p.isForeign(key) {
		if err := checkHealth(ctx, conn); err != nil {
			p.setForeign(key, false) // perhaps another program listens there next
			return nil, failed(conn, err)
		}
		return nil, nil
	}
	request := &regionv1.ProbeRequest{Router: p.Router}
	answer, err := regionv1.NewRegionServiceClient(conn).Probe(ctx, request)
	if p.Probed != nil {
		p.Probed(t, request, answer, err)
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		p.setForeign(key, true)
		return nil, nil
	case err != nil:
		return nil, failed(conn, err)
	case answer.GetRegion() != "" && answer.GetRegion() != t.Region:
		return nil, fmt.Errorf("a node of region %q answers at the address of region %q", answer.GetRegion(), t.Region)
	}
	return answer, nil
}

// connector is what *grpc.ClientConn knows of its connection; connections in virtual time are always there.
type connector interface {
	GetState() connectivity.State
	Connect()
	WaitForStateChange(ctx context.Context, s connectivity.State) bool
}

// Connect implements measure.Prober. A connection that failed is not an error here: the probe itself tells it best.
func (p *Prober) Connect(ctx context.Context, t measure.Target) error {
	conn, ok := p.Conn(t.Key()).(connector)
	if !ok {
		return nil
	}
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready, connectivity.TransientFailure, connectivity.Shutdown:
			return nil
		case connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("connecting: %w", ctx.Err())
		}
	}
}

func checkHealth(ctx context.Context, conn grpc.ClientConnInterface) error {
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented, status.Code(err) == codes.NotFound: // it answers; more is not asked
		return nil
	case err != nil:
		return err
	case answer.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return fmt.Errorf("its health is %v", answer.GetStatus())
	}
	return nil
}

// failed ends the connection's backoff, which grows to minutes: the probes are the platform's own, steady backoff.
func failed(conn grpc.ClientConnInterface, err error) error {
	if c, ok := conn.(interface{ ResetConnectBackoff() }); ok {
		c.ResetConnectBackoff()
	}
	return err
}

func (p *Prober) isForeign(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.foreign[key]
}

func (p *Prober) setForeign(key string, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.foreign == nil {
		p.foreign = map[string]bool{}
	}
	if is {
		p.foreign[key] = true
	} else {
		delete(p.foreign, key)
	}
}

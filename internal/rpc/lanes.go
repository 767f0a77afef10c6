package rpc

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// laneStreams is how many streams one connection carries: a fifth of what ServeInternal takes is left for unary calls and
// for streams that ended here and not there yet. Above the limit grpc-go would have calls wait, purchases among them.
const laneStreams = internalStreams * 4 / 5

// Lanes are connections to one server, as many as its streams need: a router holds more viewers' streams than one
// connection may. Unary calls go over the first one. Safe for concurrent use.
type Lanes struct {
	dial func() (*grpc.ClientConn, error)

	mu    sync.Mutex
	lanes []*lane // at least one, until Close
}

type lane struct {
	conn    *grpc.ClientConn
	streams int
}

var _ grpc.ClientConnInterface = (*Lanes)(nil)

// errLanesClosed is what grpc-go says of its own connections.
var errLanesClosed = status.Error(codes.Canceled, "the connection is closed")

// DialLanes is Dial for a server to which many streams go.
func DialLanes(target string, cfg DialConfig) (*Lanes, error) {
	l := &Lanes{dial: func() (*grpc.ClientConn, error) { return Dial(target, cfg) }}
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	l.lanes = []*lane{{conn: conn}}
	return l, nil
}

// Invoke implements grpc.ClientConnInterface.
func (l *Lanes) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn, err := l.first()
	if err != nil {
		return err
	}
	return conn.Invoke(ctx, method, args, reply, opts...)
}

func (l *Lanes) first() (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lanes) == 0 {
		return nil, errLanesClosed
	}
	return l.lanes[0].conn, nil
}

// NewStream implements grpc.ClientConnInterface.
func (l *Lanes) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	lane, err := l.enter()
	if err != nil {
		return nil, err
	}
	leave := sync.OnceFunc(func() { l.leave(lane) })
	return lane.conn.NewStream(ctx, desc, method, append(slices.Clip(opts), grpc.OnFinish(func(error) { leave() }))...)
}

// enter takes a place in the first lane that has one.
func (l *Lanes) enter() (*lane, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lanes) == 0 {
		return nil, errLanesClosed
	}
	for _, lane := range l.lanes {
		if lane.streams < laneStreams {
			lane.streams++
			return lane, nil
		}
	}
	conn, err := l.dial() // connects later
	if err != nil {
		return nil, err
	}
	l.lanes = append(l.lanes, &lane{conn: conn, streams: 1})
	return l.lanes[len(l.lanes)-1], nil
}

func (l *Lanes) leave(lane *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lane.streams--
}

// Close ends every call and connection.
func (l *Lanes) Close() error {
	l.mu.Lock()
	lanes := l.lanes
	l.lanes = nil
	l.mu.Unlock()
	var errs []error
	for _, lane := range lanes {
		errs = append(errs, lane.conn.Close())
	}
	return errors.Join(errs...)
}

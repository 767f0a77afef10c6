package forward

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

// bidi is every kind of streaming: which one a service of others uses is not known here and does not matter.
var bidi = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// direct forwards a call to the centre. There is one, so there is nothing to choose and nowhere to retry.
func (f *Forwarder) direct(stream grpc.ServerStream, name string, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	upstream, err := conn.NewStream(outgoing(ctx), bidi, name, f.options...)
	if err == nil {
		r := relay{stream: stream, upstream: upstream, cancel: cancel, stopping: f.stopping, header: endToEnd, first: func() {}}
		err = r.run()
	}
	return judge(ctx, err, "centre", 0, 0).err
}

// transparent forwards a call of a service that belongs to somebody else: any kind of streaming, no deadline of ours,
// its own statuses. Another node is tried only if the stream could not even be opened.
func (f *Forwarder) transparent(stream grpc.ServerStream, name string) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	service, _ := splitMethod(name)
	c := f.newCall(ctx, name, service, arbiter.Other, Hints{})
	c.foreign = true

	var failed result
	c.retriable = true // while nothing was sent
	for {
		n := c.choose(ctx)
		if n == nil {
			return c.nobody(stream, failed)
		}
		upstream, err := n.conn.NewStream(outgoing(ctx), bidi, name, f.options...)
		if err == nil {
			return c.relay(ctx, cancel, stream, upstream, n)
		}
		r := judge(ctx, err, n.region.Name, 0, 0)
		r.took = time.Since(c.arrived) - n.start
		c.note(n, r, false)
		if !c.again(ctx, failed, r) {
			c.record(r.err)
			return cmp.Or(c.prepare(stream, n, r), r.err)
		}
		failed = r
	}
}

// relay passes an opened call through and notes how it went, at its first answer or its end.
func (c *call) relay(ctx context.Context, cancel context.CancelCauseFunc, stream grpc.ServerStream, upstream grpc.ClientStream, n *node) error {
	r := relay{
		stream: stream, upstream: upstream, cancel: cancel, stopping: c.f.stopping,
		header: func(md metadata.MD) metadata.MD { return c.header(md, n) },
	}
	begun := false
	r.first = func() {
		begun = true
		c.noteForeign(n, nil, measure.Good, r.sinceHalfClose())
		c.record(nil)
	}
	err := r.run()
	verdict := foreignVerdict(ctx, err)
	if limit, ok := sizeLimit(err); ok && limit == c.f.config.MaxMessageBytes { // ours, hence in our words
		err = tooLarge(limit)
	}
	if ctx.Err() != nil && err != nil {
		err = ended(ctx)
	}
	switch {
	case !begun:
		c.noteForeign(n, err, verdict, r.sinceHalfClose())
		c.record(err)
	case verdict != measure.Good:
		c.f.observe(n, measure.Outcome{Verdict: verdict, Late: true})
	}
	return err
}

// noteForeign is note for a backend that knows nothing of loads and reasons. Only a backend that had the whole
// request can be blamed for the time since: a stream may be waiting for its caller.
func (c *call) noteForeign(n *node, err error, verdict measure.Verdict, sinceHalfClose time.Duration) {
	a := &c.decision.Attempts[n.attempt]
	a.Duration = time.Since(c.arrived) - n.start
	a.Code, a.Reason, a.Verdict = status.Code(err), rpcerr.Reason(err), verdict
	c.decision.Ours = sinceHalfClose
	o := measure.Outcome{Verdict: verdict, Sent: n.sent}
	if verdict == measure.Good {
		o.Total = sinceHalfClose
	}
	c.f.observe(n, o)
	c.f.earn(result{verdict: verdict})
}

// relay passes frames both ways until the upstream ends.
type relay struct {
	stream   grpc.ServerStream
	upstream grpc.ClientStream
	cancel   context.CancelCauseFunc       // of the upstream
	stopping context.Context               // ends the stream once it has begun
	header   func(metadata.MD) metadata.MD // what the caller gets of the upstream's header
	first    func()                        // called once, when the first answer is here

	halfClosed atomic.Pointer[time.Time] // when the caller had sent everything
}

// run returns the upstream's status as it is.
func (r *relay) run() error {
	go r.upload() // ends with the stream at the latest: RecvMsg cannot be waited for before the handler returns
	header, err := r.upstream.Header()
	if err == nil && header != nil { // nil: no header came, only trailers
		if err := r.stream.SendHeader(r.header(header)); err != nil {
			return err
		}
	} else if err := r.stream.SetHeader(r.header(nil)); err != nil {
		return err
	}
	begun := false
	for {
		answer := new(frame.Frame)
		if err := r.upstream.RecvMsg(answer); err != nil {
			r.stream.SetTrailer(endToEnd(r.upstream.Trailer()))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if !begun {
			begun = true
			r.first()
			defer context.AfterFunc(r.stopping, func() { r.cancel(draining()) })()
		}
		if err := r.stream.SendMsg(answer); err != nil {
			return err
		}
	}
}

// upload passes the caller's messages on. The upstream's own failures show in run.
func (r *relay) upload() {
	for {
		message := new(frame.Frame)
		if err := r.stream.RecvMsg(message); errors.Is(err, io.EOF) {
			now := time.Now()
			r.halfClosed.Store(&now)
			if err := r.upstream.CloseSend(); err != nil {
				r.cancel(err)
			}
			return
		} else if err != nil {
			r.cancel(received(r.stream.Context(), err))
			return
		}
		if r.upstream.SendMsg(message) != nil {
			return
		}
	}
}

func (r *relay) sinceHalfClose() time.Duration {
	if at := r.halfClosed.Load(); at != nil {
		return time.Since(*at)
	}
	return 0
}

package forward

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

// serverStream forwards a call with one request and a stream of answers. Until the first answer it may go elsewhere;
// afterwards a broken stream ends with UPSTREAM_UNREACHABLE and the client resumes.
func (c *call) serverStream(stream grpc.ServerStream, request *frame.Frame) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(c.f.stopping, func() { cancel(draining()) })()
	ctx = outgoing(ctx)

	var failed result
	for {
		n := c.choose(ctx)
		if n == nil {
			return c.nobody(stream, failed)
		}
		r, delivered := c.follow(ctx, stream, n, request)
		if delivered {
			return r.err
		}
		if c.again(ctx, failed, r) {
			failed = heavier(failed, r)
			continue
		}
		r = heavier(failed, r)
		c.f.earn(r)
		c.record(r.err)
		return cmp.Or(c.prepare(stream, n, r), r.err)
	}
}

// forever is the patience with a node that owes no answer.
const forever = time.Duration(math.MaxInt64)

// follow makes one attempt at a stream and passes its messages on to the end.
func (c *call) follow(ctx context.Context, stream grpc.ServerStream, n *node, request *frame.Frame) (r result, delivered bool) {
	spanCtx, span := telemetry.StartCall(ctx, "router.attempt")
	attemptCtx, cancel := context.WithCancel(spanCtx)
	defer cancel()
	start := time.Now()
	patience := c.patience(n)
	judged := func(upstream grpc.ClientStream, err error) result {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		r := judge(ctx, err, n.region.Name, time.Since(start), patience)
		r.took = time.Since(start)
		if upstream != nil {
			r.header, _ = upstream.Header() // it is here, or the stream broke before it
			r.trailer = upstream.Trailer()
		}
		return r
	}

	upstream, answer, err := c.open(attemptCtx, cancel, n, request)
	if err != nil {
		r = judged(upstream, err)
		c.note(n, r, false)
		c.describe(span, n, r)
		span.End()
		return r, false
	}
	header, _ := upstream.Header() // a message came, so it did
	patience = forever             // nothing is overdue: a caller's deadline that ends the stream says nothing of the node
	good := result{verdict: measure.Good, took: time.Since(start)}
	c.note(n, good, false)
	c.describe(span, n, good)
	span.End()
	c.f.earn(good)
	c.record(nil)
	if err := c.prepare(stream, n, result{header: header}); err != nil {
		return result{err: err}, true
	}
	for err == nil {
		if err := stream.SendMsg(answer); err != nil {
			return result{err: ended(stream.Context())}, true
		}
		answer = new(frame.Frame)
		err = upstream.RecvMsg(answer)
	}
	r = judged(upstream, err)
	stream.SetTrailer(endToEnd(r.trailer))
	if r.verdict != measure.Good { // the good one was counted with the first message
		c.f.observe(n, measure.Outcome{Verdict: r.verdict, Late: true})
	}
	return r, true
}

// open starts a stream and waits for its first answer. Nothing bounds how long a quiet stream may take for that, so
// the measurements are watched: a node that became unreachable meanwhile will not answer.
func (c *call) open(ctx context.Context, giveUp context.CancelFunc, n *node, request *frame.Frame) (
	grpc.ClientStream, *frame.Frame, error,
) {
	if n.region.Reachable { // else it was chosen knowing that
		defer c.f.watch(ctx, giveUp, n.region.Key)()
	}
	upstream, err := n.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, c.name, c.f.options...)
	if err != nil {
		return nil, nil, err
	}
	if err := upstream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // io.EOF: RecvMsg knows the status
		return upstream, nil, err
	}
	if err := upstream.CloseSend(); err != nil {
		return upstream, nil, err
	}
	answer := new(frame.Frame)
	return upstream, answer, upstream.RecvMsg(answer)
}

// watch gives up once the node is no longer reachable. Calling the answer ends the watch.
func (f *Forwarder) watch(ctx context.Context, giveUp context.CancelFunc, key string) func() {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		ticker := time.NewTicker(f.config.AttemptFloor)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if !reaches(f.deps.Measured.Snapshot(), key) {
					giveUp()
					return
				}
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

func reaches(s *arbiter.Snapshot, key string) bool {
	g := row(s, key)
	return g != nil && g.Reachable
}

package simnet

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// window is how many messages of a stream may be under way or unread before its sender waits.
const window = 64

// call is one RPC: two ends and a pipe each way. Everything in it that changes is guarded by the network's mutex.
type call struct {
	id     uint64
	method string
	unary  bool // how its losses show; a proxy may carry a unary call over a stream
	shadow bool // the second delivery of a duplicated request
	md     metadata.MD
	budget time.Duration // what was left of the caller's deadline when it called; 0: none

	up, down pipe

	// The client's end.
	header   metadata.MD
	headerIn chan struct{} // closed when header, or the end, is known
	trailer  metadata.MD
	end      *status.Status
	ended    chan struct{} // closed when end is known
	finish   []func()      // run once when the end is known

	// The server's end.
	host    *Host // nil until the call arrived
	codec   encoding.CodecV2
	cancel  context.CancelFunc
	handled bool
}

// pipe carries one direction, in order.
type pipe struct {
	path
	travelling []frame
	dead       bool // something was lost: nothing more arrives

	arrived [][]byte
	closed  bool          // no message follows
	wake    chan struct{} // size 1: something arrived
	credit  chan struct{} // size window: sent and unread
}

func newPipe(p path) pipe {
	return pipe{path: p, wake: make(chan struct{}, 1), credit: make(chan struct{}, window)}
}

func newCall(p path, method string) *call {
	return &call{
		method: method, up: newPipe(p), down: newPipe(p.back()),
		headerIn: make(chan struct{}), ended: make(chan struct{}),
	}
}

// frame is what travels: any of these, in this order.
type frame struct {
	open       bool
	header     metadata.MD // nil: none
	message    []byte
	hasMessage bool
	halfClose  bool
	reset      bool // the client gave up
	end        *ending
}

type ending struct {
	status  []byte // google.rpc.Status
	trailer metadata.MD
}

// pop takes the next message and lets the sender go on.
func (p *pipe) pop() ([]byte, bool) {
	if len(p.arrived) == 0 {
		return nil, false
	}
	message := p.arrived[0]
	p.arrived = p.arrived[1:]
	select {
	case <-p.credit:
	default: // a message that took no credit: a unary one
	}
	return message, true
}

func (p *pipe) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// send gives a frame to its link, which decides what becomes of it. The mutex is held, here and below.
func (n *Network) send(c *call, p *pipe, f frame) {
	if n.closed || c.shadow || p.dead && !f.reset {
		return
	}
	if n.cuts[p.path] || n.down(p.from) {
		n.stats.Cut++
		p.dead = true
		if !c.unary {
			n.noticeCut(c)
		}
		return
	}
	fate := n.draw(p.path, c.method)
	if f.hasMessage || f.end != nil {
		n.stats.Messages++
		if fate.lost {
			n.lose(c, p, fate)
			return
		}
	}
	if c.unary && p == &c.up && f.hasMessage && fate.duplicate {
		n.stats.Duplicated++
		n.duplicate(c, f.message, fate.secondDelay)
	}
	n.schedule(c, p, f, fate.delay)
}

func (n *Network) lose(c *call, p *pipe, fate fate) {
	n.stats.Lost++
	p.dead = true
	if c.unary && !fate.torn {
		n.stats.Silent++
		return
	}
	n.stats.Torn++
	n.at(n.now()+fate.delay, func() { n.tear(c, "the connection was torn") })
}

// noticeCut breaks a stream when keepalive finds that the cut swallowed something of it, or that it is still there.
func (n *Network) noticeCut(c *call) {
	n.at(n.now()+n.cfg.Keepalive, func() {
		if n.calls[c.id] == c && (c.up.dead || c.down.dead || n.cuts[c.up.path] || n.cuts[c.down.path]) {
			n.stats.Broken++
			n.tear(c, "keepalive found the connection dead")
		}
	})
}

// duplicate delivers a unary request a second time, to a call that nobody waits for.
func (n *Network) duplicate(c *call, message []byte, delay time.Duration) {
	d := newCall(c.up.path, c.method)
	d.unary, d.shadow, d.budget, d.md, d.codec = true, true, c.budget, c.md.Copy(), c.codec
	n.adopt(d)
	n.endClient(d, status.New(codes.Canceled, "simnet: a duplicate"))
	n.schedule(d, &d.up, frame{open: true, message: message, hasMessage: true, halfClose: true}, delay)
}

// schedule lets a frame arrive. One with a longer delay holds back those behind it: each arrival is the oldest frame's.
func (n *Network) schedule(c *call, p *pipe, f frame, delay time.Duration) {
	p.travelling = append(p.travelling, f)
	n.at(n.now()+delay, func() {
		next := p.travelling[0]
		p.travelling = p.travelling[1:]
		if p == &c.up {
			n.arriveAtServer(c, next)
		} else {
			n.arriveAtClient(c, next)
		}
	})
}

func (n *Network) arriveAtServer(c *call, f frame) {
	if f.open && !n.accept(c) {
		return
	}
	if f.hasMessage {
		c.up.arrived = append(c.up.arrived, f.message)
	}
	c.up.closed = c.up.closed || f.halfClose
	if f.reset && c.cancel != nil {
		c.cancel()
	}
	c.up.notify()
}

// accept starts the handler, or lets the client find out that nobody listens.
func (n *Network) accept(c *call) bool {
	h := n.hosts[c.up.to]
	if h == nil || h.down {
		n.stats.Refused++
		c.handled = true
		n.sendEnd(c, status.Newf(codes.Unavailable, "simnet: %s refuses connections", c.up.to))
		return false
	}
	ctx := metadata.NewIncomingContext(h.life, c.md)
	if c.budget > 0 {
		ctx, c.cancel = context.WithTimeout(ctx, c.budget)
	} else {
		ctx, c.cancel = context.WithCancel(ctx)
	}
	c.host = h
	n.handle(func() { h.serve(ctx, c) })
	return true
}

// sendEnd lets the client learn of an end that the network made, unless the way back is cut.
func (n *Network) sendEnd(c *call, st *status.Status) {
	if n.cuts[c.down.path] {
		n.stats.Cut++
		c.down.dead = true
		if !c.unary {
			n.noticeCut(c)
		}
		return
	}
	n.schedule(c, &c.down, frame{end: &ending{status: marshalStatus(st)}}, n.draw(c.down.path, c.method).delay)
}

func (n *Network) arriveAtClient(c *call, f frame) {
	if c.end != nil {
		return
	}
	if f.header != nil && c.header == nil {
		c.header = f.header
		close(c.headerIn)
	}
	if f.hasMessage {
		c.down.arrived = append(c.down.arrived, f.message)
	}
	if f.end != nil {
		c.trailer = f.end.trailer
		n.endClient(c, unmarshalStatus(f.end.status))
	}
	c.down.notify()
}

// tear ends both ends at once.
func (n *Network) tear(c *call, why string) {
	c.up.dead, c.down.dead = true, true
	n.endClient(c, status.New(codes.Unavailable, "simnet: "+why))
	if c.cancel != nil {
		c.cancel()
	}
}

// endClient fixes the client's end, once.
func (n *Network) endClient(c *call, st *status.Status) {
	if c.end != nil {
		return
	}
	c.end = st
	close(c.ended)
	if c.header == nil {
		close(c.headerIn)
	}
	for _, f := range c.finish {
		f()
	}
	c.down.notify()
	n.release(c)
}

// giveUp is the client's own end: its context ended, or it wants no more. The server learns of it a delay later.
func (n *Network) giveUp(c *call, st *status.Status) {
	if c.end != nil {
		return
	}
	c.down.arrived = nil
	n.send(c, &c.up, frame{reset: true})
	n.endClient(c, st)
}

func (n *Network) adopt(c *call) {
	n.nextID++
	c.id = n.nextID
	n.calls[c.id] = c
}

// release forgets a call whose both ends are over. One that never reaches its server is over with its client.
func (n *Network) release(c *call) {
	if c.end != nil && (c.handled || c.host == nil && !c.shadow) {
		delete(n.calls, c.id)
	}
}

func marshalStatus(st *status.Status) []byte {
	b, err := proto.Marshal(st.Proto())
	if err != nil {
		return marshalStatus(status.Newf(codes.Internal, "simnet: encoding the status: %v", err))
	}
	return b
}

func unmarshalStatus(b []byte) *status.Status {
	if len(b) == 0 {
		return status.New(codes.OK, "")
	}
	var p spb.Status
	if err := proto.Unmarshal(b, &p); err != nil {
		return status.Newf(codes.Internal, "simnet: decoding the status: %v", err)
	}
	return status.FromProto(&p)
}

package region

import "sync"

// gate lets calls in until it closes, and tells when the last one is out.
type gate struct {
	shut chan struct{} // closed: nothing new comes in
	out  chan struct{} // closed: and nobody is inside any more

	mu     sync.Mutex
	inside int
	closed bool
}

func newGate() *gate { return &gate{shut: make(chan struct{}), out: make(chan struct{})} }

// enter tells whether a call may come in; then leave must follow.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.closed {
		close(g.out)
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	close(g.shut)
	if g.inside == 0 {
		close(g.out)
	}
}

// closing is closed when streams must end.
func (g *gate) closing() <-chan struct{} { return g.shut }

// idle is closed when the gate is closed and everybody is out.
func (g *gate) idle() <-chan struct{} { return g.out }

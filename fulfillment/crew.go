package fulfillment

import (
	"slices"
	"strings"
	"sync"

	"github.com/rimlight/rimlight/fulfillment/orders"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// sessionQueue bounds what waits to be sent to one node. What does not fit is not lost: the order is the node's until its
// time to accept is over, and then another's.
const sessionQueue = 256

// session is one node's stream.
type session struct {
	node     orders.Node
	send     chan *fulfillmentv1.WorkOrdersResponse
	replaced chan struct{} // closed when the node has a newer stream
}

// offer queues a message unless the queue is full.
func (s *session) offer(m *fulfillmentv1.WorkOrdersResponse) bool {
	select {
	case s.send <- m:
		return true
	default:
		return false
	}
}

// crew is the nodes that are connected to this process. The zero value is ready.
type crew struct {
	mu       sync.Mutex // guards sessions
	sessions map[string]*session
}

// join makes a session the node's only one.
func (c *crew) join(node orders.Node) *session {
	s := &session{node: node, send: make(chan *fulfillmentv1.WorkOrdersResponse, sessionQueue), replaced: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.sessions[node.ID]; before != nil {
		close(before.replaced)
	}
	if c.sessions == nil {
		c.sessions = map[string]*session{}
	}
	c.sessions[node.ID] = s
	return s
}

// leave forgets a session, unless it was replaced.
func (c *crew) leave(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[s.node.ID] == s {
		delete(c.sessions, s.node.ID)
	}
}

func (c *crew) find(node string) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[node]
}

// list is what is known of the nodes, in the order of their ids.
func (c *crew) list() []orders.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]orders.Node, 0, len(c.sessions))
	for _, s := range c.sessions {
		list = append(list, s.node)
	}
	slices.SortFunc(list, func(a, b orders.Node) int { return strings.Compare(a.ID, b.ID) })
	return list
}

package world

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Fenced is an operator's fence as it was answered. Every lease of the node and epoch at this place or after it in
// Evidence.Leases was lent later.
type Fenced struct {
	Node, Drop string // Drop is empty for all
	Epoch      int64
	Leases     int
}

// operators is what they did, and what the verifier answered nodes.
type operators struct {
	mu        sync.Mutex // guards what is below
	fences    []Fenced
	cancelled []string // tokens for which there is no redemption, by the verifier's word
}

// fence fences a node out of a drop, or of all; f.Nth counts drops from 1. It is asked until it is answered.
func (w *world) fence(ctx context.Context, f Fault) {
	request := &fulfillmentv1.FenceNodeRequest{
		RequestId: ids.NewV7(time.Now(), w.random(fmt.Sprintf("fence of %s at %v", f.Host, f.At), 0)), NodeId: w.nodeAt(f.Host).id, Reason: "a test",
	}
	if f.Nth > 0 {
		request.DropId = w.drops[(f.Nth-1)%len(w.drops)]
	}
	client := fulfillmentv1.NewFenceServiceClient(w.net.Conn("operator", "fulfillment"))
	for {
		call, cancel := context.WithTimeout(ctx, tryTimeout)
		answer, err := client.FenceNode(call, request)
		cancel()
		if err == nil {
			mark := Fenced{Node: request.GetNodeId(), Drop: request.GetDropId(), Epoch: answer.GetEpoch()}
			if err := w.centre.stockDB.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM leases`).Scan(&mark.Leases); err != nil {
				w.watch.surprise("counting leases: %v", err)
				return
			}
			w.operators.mu.Lock()
			w.operators.fences = append(w.operators.fences, mark)
			w.operators.mu.Unlock()
			return
		}
		if !elsewhere(err) && ctx.Err() == nil {
			w.watch.surprise("fencing %s: %v", f.Host, err)
			return
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// nodeAt is the first host of a region.
func (w *world) nodeAt(name string) *node {
	for _, n := range w.allNodes() {
		if n.name == name {
			return n
		}
	}
	panic("world: no node " + name) // Validate checked the name
}

// retirement bounds how long a retirement takes: every other fault is over by then.
const retirement = 3 * time.Minute

// retire ends a node for good, as `region --retire` does, and begins as the same node on an empty disk. A supervisor that
// starts the old disk once more by mistake must fail.
func (w *world) retire(ctx context.Context, n *node) error {
	n.retiring = true
	err := n.start()
	if err == nil {
		if !waitFor(ctx, n.ended, retirement) {
			err = errors.New("it does not end")
		} else if n.err != nil && !n.isFenced() {
			err = n.err
		}
		err = errors.Join(err, n.down(false))
	}
	n.retiring = false
	if err != nil || n.isFenced() || ctx.Err() != nil {
		return err
	}
	if s, err := w.newNode(n, -1); err == nil {
		return errors.Join(errors.New("a sealed journal is in service again"), s.close())
	} else if !errors.Is(err, region.ErrSealed) {
		return err
	}
	return n.newDisk()
}

// notedVerifier is the verifier as a node calls it.
type notedVerifier struct {
	verifierv1.VerifierServiceClient
	notes *operators
}

// CancelRedemption implements verifierv1.VerifierServiceClient.
func (v notedVerifier) CancelRedemption(ctx context.Context, r *verifierv1.CancelRedemptionRequest, o ...grpc.CallOption) (*verifierv1.CancelRedemptionResponse, error) {
	answer, err := v.VerifierServiceClient.CancelRedemption(ctx, r, o...)
	if err == nil && answer.GetReceipt() == "" {
		v.notes.mu.Lock()
		defer v.notes.mu.Unlock()
		v.notes.cancelled = append(v.notes.cancelled, fmt.Sprintf("%x", r.GetTokenId()))
	}
	return answer, err
}

func (w *world) readOperators(e *Evidence) {
	w.operators.mu.Lock()
	defer w.operators.mu.Unlock()
	e.Fences, e.Cancelled = w.operators.fences, w.operators.cancelled
}

func fencesHold(e *Evidence, _ *index, broken func(string, ...any)) {
	for _, f := range e.Fences {
		for i := f.Leases; i < len(e.Leases); i++ {
			if l := e.Leases[i]; l.Node == f.Node && l.Epoch == f.Epoch && (f.Drop == "" || f.Drop == l.Drop) {
				broken("lease %s of drop %s was lent to node %s, which was fenced", l.ID, l.Drop, l.Node)
			}
		}
	}
}

func noesStand(e *Evidence, x *index, broken func(string, ...any)) {
	for _, k := range e.Cancelled {
		if e.lostCancel(k) {
			continue
		}
		if p := x.byToken[k]; p == nil {
			broken("token %s was cancelled, and the verifier does not know it", k)
		} else if p.State != saga.Refused {
			broken("token %s was cancelled, and its purchase %s is %v", k, p.ID, p.State)
		}
	}
}

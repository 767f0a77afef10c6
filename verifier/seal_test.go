package verifier_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func (f *forwarding) seal(sequence, last, epoch int64) {
	f.in <- &verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Seal{
		Seal: &verifierv1.Seal{Sequence: sequence, LastEntrySequence: last, Epoch: epoch},
	}}
}

func TestASealedJournalsLeaseIsClosedAtOnce(t *testing.T) {
	for about, c := range map[string]struct {
		epoch  int64
		closed int
	}{"of the sealed epoch": {1, 1}, "of another epoch": {2, 0}} {
		t.Run(about, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.start()
				n := w.nodes[0]
				sold, _ := w.redeem(n, sale{reference: "tp_ok"})
				w.f.lease(w.drop, n.lease, 50) // unsold
				f := w.open(n, 1<<40)
				f.ack()
				f.send(3, sold)
				f.ack()
				f.seal(5, 3, c.epoch)
				if ack := f.ack(); ack.GetSequence() != 5 {
					t.Errorf("the seal was acknowledged with %v", ack)
				}
				close(f.in)
				check(t, f.end())
				w.quarantine(n, time.Now().Add(72*time.Hour))
				time.Sleep(time.Minute)
				want(t, w.get(sold), delivered, noReason)
				if got := w.called("CloseLease"); got != c.closed {
					t.Errorf("the lease was closed %d times, want %d", got, c.closed)
				}
				w.f.mu.Lock()
				sealed := w.f.closedSealed
				w.f.mu.Unlock()
				if c.closed == 1 && !sealed {
					t.Error("fulfillment was not told that the journal is sealed")
				}
			})
		})
	}
}

// A seal that counted before the journal's end would close the lease under what is still to come.
func TestASealBeforeTheJournalsEndIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		n := w.nodes[0]
		first, _ := w.redeem(n, sale{reference: "tp_ok"})
		second, _ := w.redeem(n, sale{reference: "tp_ok"})
		f := w.open(n, 1<<40)
		f.ack()
		f.send(3, first)
		f.ack()
		f.seal(5, 4, 1)
		close(f.in)
		if err := f.end(); status.Code(err) != codes.Aborted || rpcerr.Reason(err).String() != "REASON_SEAL_TOO_EARLY" {
			t.Errorf("got %v", err)
		}
		w.quarantine(n, time.Now().Add(time.Hour))
		time.Sleep(time.Minute)
		if w.called("CloseLease") != 0 {
			t.Error("the lease was closed before the journal was read")
		}
		w.present(second)
		time.Sleep(time.Minute)
		want(t, w.get(second), delivered, noReason)
	})
}

package verifier_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/store"
)

var errCrash = errors.New("the machine lost its power")

// crash makes the n-th commit, and every one after it, fail: before it reaches the disk, or after, when only the answer
// is lost. What is down comes back by itself after away, or never.
type crash struct {
	mu        sync.Mutex
	n         int
	committed bool
	away      time.Duration
	at        time.Time
	writes    int
	crashed   bool
}

func (c *crash) fault(committed bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Commits may overlap: another one may begin before this one is told to be over. So each end counts for itself.
	if committed == c.committed && !c.crashed {
		c.writes++
		if c.crashed = c.writes == c.n; c.crashed {
			c.at = time.Now()
		}
	}
	if c.crashed && (c.away == 0 || time.Since(c.at) < c.away) {
		return errCrash
	}
	return nil
}

func (c *crash) happened() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crashed
}

// TestCrashAtEveryCommitThenRestart crashes the service once at each of its commits, before and after, starts it again
// over the same stores, and looks at the world.
func TestCrashAtEveryCommitThenRestart(t *testing.T) {
	for _, committed := range []bool{false, true} {
		atEveryCommit(t, 40, committed, 0, crashOnce)
	}
}

// A database that is away for a moment, at each commit in turn, delays nobody by the rest of a job's claim.
func TestAnOutageOfTheStoreAtEveryCommit(t *testing.T) {
	atEveryCommit(t, 40, false, 3*time.Second, crashOnce)
}

// atEveryCommit plays a story as often as it has commits, which are no fewer than least. The story tells whether it was hit.
func atEveryCommit(t *testing.T, least int, committed bool, away time.Duration, story func(*testing.T, *crash) bool) {
	t.Helper()
	crashes := 0
	stride := 1
	if testing.Short() {
		stride = 25 // under the race detector SQLite takes fifty times as long
	}
	for n := 1; ; n += stride {
		hit := false
		ok := t.Run(fmt.Sprintf("committed=%v/%d", committed, n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hit = story(t, &crash{n: n, committed: committed, away: away}) })
		})
		if !ok {
			return
		}
		if !hit {
			break
		}
		crashes++
	}
	if crashes < least/stride {
		t.Errorf("only %d crashes: the scenario lost its steps", crashes)
	}
}

//rimlight:bubble its callers are bubbles
func crashOnce(t *testing.T, c *crash) bool {
	w := newWorld(t)
	w.cfg.ActionWindow, w.cfg.ActionPoll = 5*time.Second, 2*time.Second
	w.cfg.JobLease = time.Hour // what was claimed when it happened must not wait for this
	w.start(func(s *verifier.Service) { s.SetFault(c.fault) })
	limited, session, k := w.newDrop(1), w.bytes(), w.bytes()
	var receipts []string
	charged := 0
	add := func(n *node, s sale, charges int) {
		r, _ := w.redeem(n, s)
		receipts = append(receipts, r)
		charged += charges
	}
	n := w.nodes[0]
	for _, reference := range []string{"tp_ok", "tp_timeout_before", "tp_timeout_after", "tp_500_once", "tp_decline_once"} {
		add(n, sale{reference: reference}, 1)
	}
	add(n, sale{reference: "tp_decline"}, 0)
	add(n, sale{reference: "tp_ok", unleased: true}, 0)
	add(n, sale{reference: "tp_ok", late: time.Hour}, 0)
	add(n, sale{reference: "tp_ok", drop: limited, session: session}, 1)
	add(n, sale{reference: "tp_ok", drop: limited, session: session}, 0)
	add(n, sale{reference: "tp_ok", k: k, session: session}, 1)
	add(w.nodes[1], sale{reference: "tp_ok", k: k, session: session}, 0)
	add(n, sale{reference: "tp_action_required"}, 0) // nobody comes

	forward := func() { // as a node does: again and again until it is acknowledged
		for i, r := range receipts {
			f := w.open(n, 1<<40)
			if f.ack() != nil {
				f.send(int64(i+1), r)
				f.ack()
			}
			f.cancel()
			<-f.err
		}
	}
	forward()
	time.Sleep(20 * time.Second)
	hit := c.happened()
	if c.away == 0 {
		w.stop()
		w.start()
	}
	forward()
	time.Sleep(20 * time.Second)

	captured := 0
	seen := map[string]bool{}
	for _, r := range receipts {
		p := w.get(r)
		if seen[p.GetPurchaseId()] {
			continue
		}
		seen[p.GetPurchaseId()] = true
		if p.GetOutcome() == "" {
			t.Errorf("a purchase is still %v", p.GetState())
		}
		n := w.charges(p.GetPurchaseId())
		captured += n
		if want := p.GetState() == delivered; n > 1 || (n == 1) != want {
			t.Errorf("%d charges for a purchase in %v", n, p.GetState())
		}
	}
	w.f.mu.Lock()
	orders := len(w.f.orders)
	w.f.mu.Unlock()
	if captured != charged || orders != charged {
		t.Errorf("%d charges and %d orders, want %d", captured, orders, charged)
	}
	for _, drop := range []string{w.drop, limited} {
		if _, leased, _ := w.f.count(drop); leased != 0 {
			t.Errorf("%d units leased", leased)
		}
	}
	if a := w.audit(); a.GetJobsOpen() != 0 {
		t.Errorf("%d jobs open", a.GetJobsOpen())
	}
	w.checkBooks()
	return hit
}

// freshKeys takes the guard away: after a capture with an unknown outcome it begins again under a fresh key, instead of
// reading the intent by its id. It shows that the books of the test provider notice.
type freshKeys struct {
	payment.Provider
	mu      sync.Mutex
	made    map[string]payment.Request // by the id that the verifier knows
	real    map[string]string          // the id behind it
	unknown map[string]bool
	n       int
}

func (f *freshKeys) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	in, err := f.Provider.CreateIntent(ctx, key, r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.made[in.ID], f.real[in.ID] = r, in.ID
	}
	return in, err
}

func (f *freshKeys) GetIntent(ctx context.Context, id string) (payment.Intent, error) {
	f.mu.Lock()
	request, retry := f.made[id], f.unknown[id]
	f.n++
	key := fmt.Sprint("fresh ", f.n)
	f.mu.Unlock()
	if retry {
		in, err := f.Provider.CreateIntent(ctx, key, request)
		if err != nil { // the injected fault comes once
			in, err = f.Provider.CreateIntent(ctx, key, request)
		}
		if err != nil {
			return in, err
		}
		f.mu.Lock()
		f.real[id], f.unknown[id] = in.ID, false
		f.mu.Unlock()
	}
	return f.on(id, func(id string) (payment.Intent, error) { return f.Provider.GetIntent(ctx, id) })
}

func (f *freshKeys) Confirm(ctx context.Context, id string) (payment.Intent, error) {
	return f.on(id, func(id string) (payment.Intent, error) { return f.Provider.Confirm(ctx, id) })
}

func (f *freshKeys) Capture(ctx context.Context, id string) (payment.Intent, error) {
	in, err := f.on(id, func(id string) (payment.Intent, error) { return f.Provider.Capture(ctx, id) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unknown[id] = errors.Is(err, payment.ErrUnknownOutcome)
	return in, err
}

func (f *freshKeys) on(id string, call func(string) (payment.Intent, error)) (payment.Intent, error) {
	f.mu.Lock()
	behind := f.real[id]
	f.mu.Unlock()
	in, err := call(behind)
	in.ID = id
	return in, err
}

func TestFreshProviderKeyAfterUnknownOutcomeChargesTwice(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.payment = &freshKeys{Provider: w.psp, made: map[string]payment.Request{}, real: map[string]string{}, unknown: map[string]bool{}}
		w.start()
		k := w.bytes()
		receipt, _ := w.redeem(w.nodes[0], sale{k: k, reference: "tp_timeout_after"})
		w.present(receipt)
		time.Sleep(time.Minute)
		w.stop()
		if n := w.charges(token.PurchaseID(k)); n < 2 {
			t.Errorf("%d charges with the guard off: these tests would not notice a double charge", n)
		}
		w.payment = w.psp
		w.start()
		if a := w.audit(); a.GetDoubleCaptures() != 1 {
			t.Errorf("the audit counts %d double captures, want 1", a.GetDoubleCaptures())
		}
	})
}

func TestFulfillmentAwayLosesNothing(t *testing.T) {
	inMemory(t, func(t *testing.T, w *world) {
		w.start()
		time.Sleep(time.Second) // the nodes' keys are known
		w.f.mu.Lock()
		w.f.away = true
		w.f.mu.Unlock()
		var receipts []string
		for range 250 {
			r, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
			receipts = append(receipts, r)
		}
		for i := 0; i < len(receipts); i += 50 {
			if ack := w.submit(w.nodes[0], int64(i), receipts[i:i+50]...); ack.GetSequence() != int64(i+50) {
				t.Errorf("acknowledged %d while fulfillment is away", ack.GetSequence())
			}
		}
		time.Sleep(10 * time.Minute)
		w.f.mu.Lock()
		calls := w.f.calls["GetDrop"] + w.f.calls["SettleUnits"]
		w.f.away = false
		w.f.mu.Unlock()
		if calls > 600 {
			t.Errorf("%d calls in 10 minutes to somebody who is away", calls)
		}
		time.Sleep(30 * time.Second)
		for _, r := range receipts {
			want(t, w.get(r), delivered, noReason)
		}
		w.checkBooks()
	})
}

func TestOneBadOrderDoesNotHoldUpTheOthers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		bad := w.bytes()
		w.f.badOne = token.PurchaseID(bad)
		w.start()
		badReceipt, _ := w.redeem(w.nodes[0], sale{k: bad, reference: "tp_ok"})
		receipts := []string{badReceipt}
		for range 99 {
			r, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
			receipts = append(receipts, r)
		}
		w.submit(w.nodes[0], 0, receipts...)
		time.Sleep(2 * time.Minute)
		for _, r := range receipts[1:] {
			want(t, w.get(r), delivered, noReason)
		}
		want(t, w.get(badReceipt), 5, noReason)
	})
}

func TestOrderIDIsAFunctionOfThePurchase(t *testing.T) {
	if a, b := store.OrderID([16]byte{1}), store.OrderID([16]byte{1}); a != b || a == store.OrderID([16]byte{2}) {
		t.Errorf("order ids %s and %s", a, b)
	}
}

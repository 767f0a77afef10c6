package orders_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"regexp"
	"testing"
	"time"

	"pgregory.net/rapid"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"

	"github.com/rimlight/rimlight/fulfillment/orders"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	policy = orders.Policy{Lease: 2 * time.Second, MaxAttempts: 3}
)

func TestClaim(t *testing.T) {
	for name, c := range map[string]struct {
		o    orders.Order
		want orders.State
		err  error
	}{
		"a new order is claimed":                   {orders.Order{State: orders.Ready, Until: start}, orders.Leased, nil},
		"a backoff is waited for":                  {orders.Order{State: orders.Ready, Until: start.Add(1)}, orders.Ready, orders.ErrFenced},
		"a held order is left alone":               {orders.Order{State: orders.Leased, Worker: "b", Attempt: 1, Until: start.Add(1)}, orders.Leased, orders.ErrFenced},
		"an order whose holder died is taken over": {orders.Order{State: orders.Leased, Worker: "b", Attempt: 1, Until: start}, orders.Leased, nil},
		"also when its holder had acknowledged it": {orders.Order{State: orders.Acked, Worker: "b", Attempt: 1, Until: start}, orders.Leased, nil},
		"an order whose attempts are used up dies": {orders.Order{State: orders.Acked, Worker: "b", Attempt: 3, Until: start}, orders.Dead, nil},
		"a delivered order is never claimed":       {orders.Order{State: orders.Delivered, Until: start}, orders.Delivered, orders.ErrFenced},
		"a dead order is never claimed":            {orders.Order{State: orders.Dead, Until: start}, orders.Dead, orders.ErrFenced},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := policy.Claim(c.o, "a", start)
			if !errors.Is(err, c.err) || got.State != c.want {
				t.Fatalf("got %v, %v, want state %v, %v", got, err, c.want, c.err)
			}
			if got.State == orders.Leased && err == nil && (got.Worker != "a" || got.Attempt != c.o.Attempt+1 || !got.Until.Equal(start.Add(policy.Lease))) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestFailBacksOffAndGivesUp(t *testing.T) {
	p := orders.Policy{Lease: time.Second, MaxAttempts: 20}
	now, last := start, time.Duration(0)
	o := orders.Order{State: orders.Ready, Until: start}
	for attempt := 1; attempt <= p.MaxAttempts; attempt++ {
		var err error
		if o, err = p.Claim(o, "a", now); err != nil {
			t.Fatal(err)
		}
		if o, err = p.Fail(o, "a", attempt, now); err != nil {
			t.Fatal(err)
		}
		if attempt == p.MaxAttempts {
			break
		}
		wait := o.Until.Sub(now)
		if wait < last || wait > time.Minute || attempt == 1 && wait != 250*time.Millisecond {
			t.Errorf("attempt %d waits %v after %v", attempt, wait, last)
		}
		now, last = o.Until, wait
	}
	if o.State != orders.Dead || last != time.Minute {
		t.Errorf("after the last attempt: %+v, last wait %v", o, last)
	}
}

// Any number of workers act on one order in any interleaving, with any delay: it is delivered once at most, by the last
// one who claimed it.
func TestOneOrderIsDeliveredOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := orders.Order{State: orders.Ready, Until: start}
		now := start
		type hold struct {
			worker  string
			attempt int
		}
		var holds []hold
		delivered := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			before := o
			worker := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "worker")
			h := hold{"stranger", 1}
			if len(holds) > 0 {
				h = rapid.SampledFrom(holds).Draw(t, "hold")
			}
			var err error
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if o, err = policy.Claim(o, worker, now); err == nil && o.State == orders.Leased {
					holds = append(holds, hold{worker, o.Attempt})
				}
			case 1:
				o, err = orders.Ack(o, h.worker, h.attempt)
			case 2:
				if o, err = orders.Deliver(o, h.worker, h.attempt); err == nil {
					delivered++
					if h != holds[len(holds)-1] {
						t.Fatalf("%v delivered after %v claimed", h, holds[len(holds)-1])
					}
				}
			case 3:
				o, err = policy.Fail(o, h.worker, h.attempt, now)
			}
			if err != nil && o != before {
				t.Fatalf("a refused step changed %+v to %+v", before, o)
			}
			if before.State >= orders.Delivered && o != before {
				t.Fatalf("%+v went on to %+v", before, o)
			}
			if o.Attempt < before.Attempt || o.Attempt > policy.MaxAttempts {
				t.Fatalf("attempt %d after %d", o.Attempt, before.Attempt)
			}
		}
		if delivered > 1 {
			t.Fatalf("delivered %d times", delivered)
		}
	})
}

func TestStatesAreTheContracts(t *testing.T) {
	for state, want := range map[orders.State]fulfillmentv1.OrderState{
		orders.Ready: fulfillmentv1.OrderState_ORDER_STATE_READY, orders.Leased: fulfillmentv1.OrderState_ORDER_STATE_LEASED,
		orders.Acked: fulfillmentv1.OrderState_ORDER_STATE_ACKED, orders.Delivered: fulfillmentv1.OrderState_ORDER_STATE_DELIVERED,
		orders.Dead: fulfillmentv1.OrderState_ORDER_STATE_DEAD, orders.Shipped: fulfillmentv1.OrderState_ORDER_STATE_SHIPPED,
		orders.Cleared: fulfillmentv1.OrderState_ORDER_STATE_CLEARED,
	} {
		if int(state) != int(want) {
			t.Errorf("%v is %d, want %d", want, state, want)
		}
	}
}

func TestReasonsAreTheContracts(t *testing.T) {
	for reason, want := range map[orders.Reason]fulfillmentv1.RejectReason{
		orders.NoReason: fulfillmentv1.RejectReason_REJECT_REASON_UNSPECIFIED, orders.Silent: fulfillmentv1.RejectReason_REJECT_REASON_SILENT,
		orders.NoNode: fulfillmentv1.RejectReason_REJECT_REASON_NO_NODE,
	} {
		if int(reason) != int(want) {
			t.Errorf("%d, want %v", reason, want)
		}
	}
}

func TestNewLicenceKey(t *testing.T) {
	pattern := regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{5}(-[0-9A-HJKMNP-TV-Z]{5}){4}$`)
	seen := map[string]bool{}
	for range 1000 {
		key, err := orders.NewLicenceKey(rand.Reader)
		if err != nil || !pattern.MatchString(key) || seen[key] {
			t.Fatalf("got %q, %v", key, err)
		}
		seen[key] = true
	}
	if key, err := orders.NewLicenceKey(bytes.NewReader(make([]byte, 24))); err == nil {
		t.Errorf("24 bytes made %q", key)
	}
}

func TestRequeueTakesOnlyWhatCannotLeaveTwice(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		rule    string
		state   orders.State
		worker  string
		cleared bool
		want    orders.State // 0: fenced
	}{
		{"not accepted: for another node", orders.Leased, "a", false, orders.Ready},
		{"accepted: its details were there alone", orders.Acked, "a", false, orders.Dead},
		{"cleared: it may have left", orders.Cleared, "a", false, 0},
		{"cleared, and the operator says that it did not leave", orders.Cleared, "a", true, orders.Dead},
		{"it left", orders.Shipped, "a", true, 0},
		{"nobody's", orders.Ready, "", true, 0},
		{"dead", orders.Dead, "", true, 0},
		{"another node's", orders.Leased, "b", true, 0},
	} {
		old := orders.Order{State: c.state, Worker: c.worker, Attempt: 2, Until: now.Add(time.Hour)}
		got, err := orders.Requeue(old, "a", c.cleared, now)
		if c.want == 0 {
			if !errors.Is(err, orders.ErrFenced) || got != old {
				t.Errorf("%s: got %+v, %v", c.rule, got, err)
			}
			continue
		}
		if err != nil || got != (orders.Order{State: c.want, Attempt: 2, Until: now}) {
			t.Errorf("%s: got %+v, %v", c.rule, got, err)
		}
		for step, err := range map[string]error{
			"accept": second(orders.Accept(got, "a", 2, now)), "clear": second(orders.Clear(got, "a", 2)), "ship": second(orders.Ship(got, "a", 2)),
		} {
			if !errors.Is(err, orders.ErrFenced) {
				t.Errorf("%s: then the lost node's %s got %v", c.rule, step, err)
			}
		}
	}
}

func second(_ orders.Order, err error) error { return err }

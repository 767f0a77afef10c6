package verifier

import (
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/verifier/store"
)

// Profiles of a deployment.
const (
	ProfileDev        = "dev"
	ProfileProduction = "production"
)

// Config sets the verifier up. The zero value of every field is its default.
type Config struct {
	// Profile is "dev" (default) or "production", which refuses a payment provider that plays the customer.
	Profile string
	// ActionWindow is how long after acceptance a customer may take to confirm a payment: 1 s to 1 h, default 90 s. At
	// half, banks' confirmation screens time out; at double, units stay unsold with customers who left.
	ActionWindow time.Duration
	// PaymentAttempts is how many intents a purchase may use, where declines are retryable: 1 to 5, default 2. More of
	// them look like card testing to a provider.
	PaymentAttempts int
	// PaymentParallelism is how many payments are in progress at a time: 1 to 1024, default 32. Throughput is this over
	// the provider's latency; providers limit the rate of an account.
	PaymentParallelism int
	// PriceLock is how long a voucher locks the price: default 30 days.
	PriceLock time.Duration
	// PriceLocks is how many price locks a viewer session can get in one channel within PriceLockWindow: 1 to 1000, default
	// 3. A payment that fails after those ends without a voucher, so that failing on purpose earns nothing. PriceLockWindow
	// defaults to 24 h.
	PriceLocks      int
	PriceLockWindow time.Duration
	// ChoiceWindow is how long a viewer whose order failed after the money was taken may choose between a voucher and the
	// money; then it is the money: 1 min to 30 days, default 24 h. Until then the drop is not SETTLED.
	ChoiceWindow time.Duration
	// RefundPoll is how often a refund that the provider has in progress is read: default 5 min. Hints of the provider are
	// faster.
	RefundPoll time.Duration
	// HintMemory is how long a provider's hints are remembered, so that a duplicate does nothing: default 7 days, longer
	// than providers try.
	HintMemory time.Duration
	// Retention is how long after a drop is SETTLED what nobody needs any more is kept: tokens that were cancelled and never
	// redeemed, and which instruments paid. A minute and more, default 30 days. Purchases, receipts and the ledger are kept for
	// ever. At half, support finds less of what an old complaint is about; at double, twice as much lies about.
	Retention time.Duration
	// RetentionPoll is how often such drops are looked for: default 1 h. The first look comes after it.
	RetentionPoll time.Duration
	// RecoverWithout are nodes (UUIDs) that a restored verifier does not wait for, since they and their disks are gone for
	// good: what they alone knew is lost, but for the receipts that clients kept. Default: it waits for all.
	RecoverWithout []string
	// JobLease is after what time a claimed job counts as abandoned: 1 s to 1 h, default 30 s. It must be longer than
	// one call of the provider or of fulfillment may take; CallTimeout bounds those.
	JobLease time.Duration
	// CallTimeout bounds each call to fulfillment and to the provider: default 10 s, less than half of JobLease.
	CallTimeout time.Duration
	// MinBackoff and MaxBackoff bound the jittered exponential pause after a failure: default 100 ms and 5 s. A longer
	// maximum delays every purchase after an outage; a shorter one hammers whoever is coming back.
	MinBackoff, MaxBackoff time.Duration
	// Poll is how often the store is asked for what another replica did, and for what nobody announces: default 1 s. A
	// verifier that has its store for itself hears of all its commits, and looks again every 15 s only, if Poll is no longer.
	Poll time.Duration
	// ActionPoll is how often an intent that waits for the customer is read: default 5 s. CompleteAction and hints of
	// the provider are faster.
	ActionPoll time.Duration
	// DropPoll is how often closed drops are looked for: default 2 s.
	DropPoll time.Duration
	// ClosePoll is how often quarantined leases are looked at: default 5 s. Their windows are minutes at least.
	ClosePoll time.Duration
	// KeyPoll is how often fulfillment is asked for new nodes' keys: default 30 s. A receipt under an unknown key asks at
	// once, so this only matters for ListKeys.
	KeyPoll time.Duration
	// StreamIdle is after what silence WatchOrders is opened again: default 45 s, three missed proofs of life.
	StreamIdle time.Duration
	// WebhookMaxBackoff is the longest pause before a failing webhook is tried again, doubling from 1 s: default 1 h. At
	// double, an endpoint that came back waits longer for its news than its operators do.
	WebhookMaxBackoff time.Duration
	// WebhookGiveUp is after how long without a success a webhook is disabled: default 72 h, a long weekend.
	WebhookGiveUp time.Duration
	// WatchMissing is how long WatchPurchase waits for a purchase that is not here yet: default 30 s.
	WatchMissing time.Duration
}

func (c Config) withDefaults() Config {
	setDefault(&c.Profile, ProfileDev)
	setDefault(&c.ActionWindow, 90*time.Second)
	setDefault(&c.PaymentAttempts, 2)
	setDefault(&c.PaymentParallelism, 32)
	setDefault(&c.PriceLock, 30*24*time.Hour)
	setDefault(&c.PriceLocks, 3)
	setDefault(&c.PriceLockWindow, 24*time.Hour)
	setDefault(&c.ChoiceWindow, 24*time.Hour)
	setDefault(&c.RefundPoll, 5*time.Minute)
	setDefault(&c.HintMemory, 7*24*time.Hour)
	setDefault(&c.Retention, 30*24*time.Hour)
	setDefault(&c.RetentionPoll, time.Hour)
	setDefault(&c.JobLease, 30*time.Second)
	setDefault(&c.CallTimeout, 10*time.Second)
	setDefault(&c.MinBackoff, 100*time.Millisecond)
	setDefault(&c.MaxBackoff, 5*time.Second)
	setDefault(&c.Poll, time.Second)
	setDefault(&c.ActionPoll, 5*time.Second)
	setDefault(&c.DropPoll, 2*time.Second)
	setDefault(&c.ClosePoll, 5*time.Second)
	setDefault(&c.KeyPoll, 30*time.Second)
	setDefault(&c.StreamIdle, 45*time.Second)
	setDefault(&c.WebhookMaxBackoff, time.Hour)
	setDefault(&c.WebhookGiveUp, 72*time.Hour)
	setDefault(&c.WatchMissing, 30*time.Second)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Profile == ProfileDev || c.Profile == ProfileProduction, "Profile %q is neither dev nor production", c.Profile)
	check(c.ActionWindow >= time.Second && c.ActionWindow <= time.Hour, "ActionWindow %v is not in [1s, 1h]", c.ActionWindow)
	check(c.PaymentAttempts >= 1 && c.PaymentAttempts <= 5, "PaymentAttempts %d is not in [1, 5]", c.PaymentAttempts)
	check(c.PaymentParallelism >= 1 && c.PaymentParallelism <= 1024, "PaymentParallelism %d is not in [1, 1024]", c.PaymentParallelism)
	check(c.PriceLocks >= 1 && c.PriceLocks <= 1000, "PriceLocks %d is not in [1, 1000]", c.PriceLocks)
	check(c.ChoiceWindow >= time.Minute && c.ChoiceWindow <= 30*24*time.Hour, "ChoiceWindow %v is not in [1m, 720h]", c.ChoiceWindow)
	check(c.Retention >= time.Minute, "Retention %v is less than 1m", c.Retention)
	check(c.JobLease >= time.Second && c.JobLease <= time.Hour, "JobLease %v is not in [1s, 1h]", c.JobLease)
	check(c.CallTimeout > 0 && c.CallTimeout < c.JobLease/2, "CallTimeout %v is not positive and less than half of JobLease", c.CallTimeout)
	check(c.MinBackoff > 0 && c.MinBackoff <= c.MaxBackoff, "MinBackoff %v is not in (0, MaxBackoff]", c.MinBackoff)
	for _, id := range c.RecoverWithout {
		_, err := store.ParseUUID(id)
		check(err == nil, "RecoverWithout %q is not a UUID", id)
	}
	for name, d := range map[string]time.Duration{
		"PriceLock": c.PriceLock, "PriceLockWindow": c.PriceLockWindow, "RefundPoll": c.RefundPoll, "HintMemory": c.HintMemory, "RetentionPoll": c.RetentionPoll, "Poll": c.Poll, "ActionPoll": c.ActionPoll, "DropPoll": c.DropPoll,
		"KeyPoll": c.KeyPoll, "ClosePoll": c.ClosePoll, "StreamIdle": c.StreamIdle, "WatchMissing": c.WatchMissing,
		"WebhookMaxBackoff": c.WebhookMaxBackoff, "WebhookGiveUp": c.WebhookGiveUp,
	} {
		check(d > 0, "%s %v is not positive", name, d)
	}
	return errors.Join(errs...)
}

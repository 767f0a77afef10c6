// Package mutant names the rules of docs/settlement.md that tests switch off, each where the code keeps it, to see that
// somebody notices: a rule whose absence nobody notices is not tested.
//
//	if !mutant.On(mutant.AnswerBeforeSync) {    in a build without the tag mutants this is if true,
//		<-commit.Done()                     and the compiler leaves nothing of it
//	}
//
// Only a test binary with the tag has the switch; at most one rule is off at a time. `make mutants` plays each missing
// rule against the schedules of internal/world until a law breaks.
package mutant

// Mutation is a rule that is not kept.
type Mutation string

// The mutations, in the order of docs/settlement.md: the node, fulfillment, the verifier, viewers.
const (
	AnswerBeforeSync     Mutation = "answer-before-sync"
	ForgetUsedSerials    Mutation = "forget-used-serials"
	SnapshotForgets      Mutation = "snapshot-forgets-sales"
	ReturnUnrecorded     Mutation = "return-unrecorded"
	LeaseUnrecorded      Mutation = "lease-unrecorded"
	LostGrantIgnored     Mutation = "lost-grant-ignored"
	ForwardFromSent      Mutation = "forward-from-sent"
	AcceptLate           Mutation = "accept-late"
	FreeByTimeout        Mutation = "free-by-timeout"
	LeaseToppedUp        Mutation = "lease-topped-up"
	AckBeforeCommit      Mutation = "ack-before-commit"
	NoKeyOnK             Mutation = "no-key-on-k"
	DuplicateAtOnce      Mutation = "duplicate-at-once"
	DuplicateLeaked      Mutation = "duplicate-leaked"
	ReleaseBeforeLeave   Mutation = "release-before-leaving"
	FreshProviderKey     Mutation = "fresh-provider-key"
	DeclineNotCancelled  Mutation = "decline-not-cancelled"
	CapIgnored           Mutation = "cap-ignored"
	JobDoneEarly         Mutation = "job-done-early"
	CursorAhead          Mutation = "cursor-ahead"
	WatchFromHead        Mutation = "watch-from-head"
	CatalogFromHead      Mutation = "catalog-from-head"
	NoUnitIsFinal        Mutation = "no-unit-is-final"
	LifeNotFenced        Mutation = "life-not-fenced"
	EpochNotFenced       Mutation = "epoch-not-fenced"
	ClaimsFromQuarantine Mutation = "claims-from-quarantine"
	CloseUntombstoned    Mutation = "close-untombstoned"
	JournalUnnamed       Mutation = "journal-unnamed"
	CancelForgotten      Mutation = "cancel-forgotten"
	SettleAfterClosed    Mutation = "settle-after-closed"
	FenceIgnored         Mutation = "fence-ignored"
	SealUnread           Mutation = "seal-unread"
	SealIgnored          Mutation = "seal-ignored"
	FullUnitLeaked       Mutation = "full-unit-leaked"
	FullChainKept        Mutation = "full-chain-kept"
	FullReturnSent       Mutation = "full-return-sent"
	FullForEver          Mutation = "full-for-ever"
	VoucherSpentTwice    Mutation = "voucher-spent-twice"
	VoucherNotReturned   Mutation = "voucher-not-returned"
	PriceLocksUncounted  Mutation = "price-locks-uncounted"
	ChoiceTakenBack      Mutation = "choice-taken-back"
	RefundListUnread     Mutation = "refund-list-unread"
	RefundsUncounted     Mutation = "refunds-uncounted"
	AttemptNotFenced     Mutation = "attempt-not-fenced"
	SentUncleared        Mutation = "sent-uncleared"
	AddressKept          Mutation = "address-kept"
	InstrumentUncounted  Mutation = "instrument-uncounted"
	InstrumentForgotten  Mutation = "instrument-forgotten"
	AddressInClear       Mutation = "address-in-clear"
	FeeUnposted          Mutation = "fee-unposted"
	GrantRecovering      Mutation = "grant-recovering"
	SilentUnfrozen       Mutation = "silent-unfrozen"
	ForgottenEarly       Mutation = "forgotten-early"
	DeniedUnitKept       Mutation = "denied-unit-kept"
	JournalsUnawaited    Mutation = "journals-unawaited"
	MadeBeforeUnread     Mutation = "made-before-unread"
	OverLimitByArrival   Mutation = "over-limit-by-arrival"
	TimeBackUncapped     Mutation = "time-back-uncapped"
	TimeBackUnproven     Mutation = "time-back-unproven"
)

// Rule is what a mutation leaves out.
type Rule struct {
	Mutation Mutation
	// Text is the rule that is not kept.
	Text string
	// Aim names the mix of faults and viewers that meets it soonest: see world.Torture. Empty: any.
	Aim string
}

// Rules lists all of them.
func Rules() []Rule {
	return []Rule{
		{AnswerBeforeSync, "a receipt is answered after its fsync", "crashes"},
		{ForgetUsedSerials, "a replay knows the serials that its journal used", ""},
		{SnapshotForgets, "a snapshot stands for the sales of its records", "crashes"},
		{ReturnUnrecorded, "a return is durable before it is sent", "crashes"},
		{LeaseUnrecorded, "a lease is durable before it is sold from", "crashes"},
		{LostGrantIgnored, "a lease whose grant was lost is adopted from the heartbeat's answer", ""},
		{ForwardFromSent, "forwarding goes on after what was acknowledged, not after what was sent", ""},
		{AcceptLate, "nothing is accepted after the token's time and the grace", ""},
		{FreeByTimeout, "no timer frees a living node's units", ""},
		{LeaseToppedUp, "a lease is an immutable set, its id is never used again", ""},
		{AckBeforeCommit, "an entry is acknowledged when it is durable", "crashes"},
		{NoKeyOnK, "one K is one purchase", ""},
		{DuplicateAtOnce, "a duplicate waits until the winner has its unit", "copies"},
		{DuplicateLeaked, "a duplicate's unit is released", ""},
		{ReleaseBeforeLeave, "a unit is released after every path that could settle it is left", "payments"},
		{FreshProviderKey, "one attempt is one intent at the provider, however often it is tried", "payments"},
		{DeclineNotCancelled, "an intent is read as cancelled before the next attempt or the release", "payments"},
		{CapIgnored, "the share of a session is exact at the verifier", ""},
		{JobDoneEarly, "a job is done when its effect is durable", ""},
		{CursorAhead, "a cursor moves in the transaction of what it stands for", "crashes"},
		{WatchFromHead, "a watch stream goes on where it broke off, not at what is new", ""},
		{CatalogFromHead, "a catalogue stream goes on after the revision that its reader has", "catalogue"},
		{NoUnitIsFinal, "NO_UNIT_HERE is not final", "market"},
		{LifeNotFenced, "of two processes on copies of one directory the older is granted nothing", "copies"},
		{EpochNotFenced, "an older epoch of a node is granted nothing", "disks"},
		{ClaimsFromQuarantine, "a claims window begins when the drop is over, since a fenced node may still sell", "disks"},
		{CloseUntombstoned, "a lease is closed through the verifier, which gives it up first", "disks"},
		{JournalUnnamed, "how far a journal was read is remembered for each journal, not for each node", "disks"},
		{CancelForgotten, "a token is cancelled before its viewer is told a definite no", "market"},
		{ForgottenEarly, "a cancelled token is remembered until its drop is long SETTLED", "market"},
		{SettleAfterClosed, "nothing settles from a lease that was given up and closed", "late"},
		{FenceIgnored, "a fenced node is lent nothing", "operators"},
		{SealUnread, "a node retires when the verifier has read its journal to the seal", "operators"},
		{SealIgnored, "a sealed journal serves nobody again", "operators"},
		{FullUnitLeaked, "a unit whose record found no room is for sale again", "room"},
		{FullChainKept, "after a full disk the chain of receipts goes on from the last durable one", "room"},
		{FullReturnSent, "a return that found no room is not sent", "room"},
		{FullForEver, "a node accepts again when its disk has room", "room"},
		{VoucherSpentTwice, "what a purchase takes of a voucher is off it in the same transaction", "money"},
		{VoucherNotReturned, "a voucher is put back when the payment or the order fails", "money"},
		{PriceLocksUncounted, "a session gets so many price locks in a channel, so that failing on purpose earns nothing", "money"},
		{ChoiceTakenBack, "a choice between voucher and money stands, the viewer's or the deadline's", "money"},
		{RefundListUnread, "the provider's refunds are read before one is made, since its keys are forgotten", "money"},
		{RefundsUncounted, "refunds that are pending count as money gone", "money"},
		{AttemptNotFenced, "only the depot that has an order now may take it, and let its parcel leave", "parcels"},
		{SentUncleared, "a parcel leaves after fulfillment's yes", "parcels"},
		{InstrumentUncounted, "a payment instrument pays for its share of a drop and no more", "cards"},
		{FeeUnposted, "what the provider keeps is posted with what it took", ""},
		{InstrumentForgotten, "that an instrument's share is over is durable before its intent is cancelled", "cards"},
		{AddressKept, "the centre forgets an address when a depot has the order, or nobody", "parcels"},
		{AddressInClear, "an address is sealed before it leaves the viewer, and refused if it is not", "parcels"},
		{GrantRecovering, "a restored fulfillment lends nothing before it knows what it lent", "restores"},
		{SilentUnfrozen, "a restored fulfillment waits for every node's report, and freezes what a lost one may hold", "restores"},
		{DeniedUnitKept, "a unit that was denied to a token which has another one is given back", "verifier-restores"},
		{JournalsUnawaited, "a restored verifier settles and pays nothing before every journal was read again", "verifier-restores"},
		{MadeBeforeUnread, "a restored verifier asks the provider what it has of a purchase before it makes a payment", "verifier-restores"},
		{OverLimitByArrival, "at a restored verifier what was paid counts first, whatever arrives first", "verifier-restores"},
		{TimeBackUncapped, "no more of a drop's window is given back than a quarter", "late-answers"},
		{TimeBackUnproven, "an offer in time given back carries the word for it", "late-answers"},
	}
}

package saga

import "github.com/rimlight/rimlight/verifier/payment"

// Move is the next step of a payment attempt, decided from the intent as the provider has it now.
type Move int

// The moves.
const (
	// Confirm asks for the authorisation.
	Confirm Move = iota + 1
	// Capture takes the money.
	Capture
	// Cancel ends the intent, so that it can be read as cancelled.
	Cancel
	// Wait for the customer.
	Wait
	// Done: the attempt is over, with the event that says how.
	Done
)

// Attempt is what is known of a payment attempt beside its intent.
type Attempt struct {
	// WindowOver: the customer's time is over.
	WindowOver bool
	// InstrumentOver: it was decided, durably, that what pays has paid its share of the drop.
	InstrumentOver bool
}

// NextMove drives one attempt. It is asked again after every step with what was read, so it needs no memory: a restart
// goes on from the intent's state. An attempt that failed is over only when its intent is read as cancelled; if it turns
// out to have succeeded meanwhile, that is a purchase.
func NextMove(in payment.Intent, a Attempt) (Move, Event) {
	switch in.State {
	case payment.RequiresConfirmation:
		return Confirm, 0
	case payment.Authorised: // even after the window: the customer did what was asked
		if a.InstrumentOver {
			return Cancel, 0
		}
		return Capture, 0
	case payment.RequiresAction:
		if a.WindowOver {
			return Cancel, 0
		}
		return Wait, ActionNeeded
	case payment.Declined:
		return Cancel, 0
	case payment.Succeeded:
		return Done, MoneyTaken
	}
	switch { // cancelled
	case in.DeclineCode == "" && a.InstrumentOver:
		return Done, InstrumentOverLimit
	case in.DeclineCode == "":
		return Done, WindowOver
	case in.DeclineFinal:
		return Done, DeclinedForGood
	}
	return Done, DeclinedForNow
}

package world

import (
	"fmt"
	"sync"
	"time"
)

// Answer is one receipt as a viewer got it. Times are the world's.
type Answer struct {
	Viewer          int
	Region          string
	PurchaseID      string
	Receipt         string
	Tapped, Arrived time.Duration
	// First marks a viewer's first receipt, whose time is the tap-to-receipt time; Tries counts its calls.
	First bool
	Tries int
}

// Ending is a purchase's final state as a viewer was told it, by following one of its receipts.
type Ending struct {
	Viewer     int
	Receipt    string
	PurchaseID string
	State      string
	Reason     string
	Outcome    string
	LicenceKey string
	Voucher    string
}

// No is a viewer who was told for good that it bought nothing.
type No struct {
	Viewer     int
	PurchaseID string
}

// Down is a time in which a host was down, on the world's clock.
type Down struct {
	Host     string
	From, To time.Duration
}

// witness is what clients saw.
type witness struct {
	mu        sync.Mutex // guards what is below
	answers   []Answer
	endings   []Ending
	refusals  map[string]int // by method and reason, of viewers who left with empty hands
	faults    map[string]int
	downs     []Down
	noes      []No
	pauses    []Pause
	choices   []Choice
	refunds   []RefundAnswer
	begun     map[string]bool // what is done once for a purchase, however many receipts it has
	told      []Told
	lost      []Lost
	surprises []string // answers that the protocol does not allow
}

func (w *witness) answer(a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers = append(w.answers, a)
}

func (w *witness) ending(e Ending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endings = append(w.endings, e)
}

func (w *witness) refusal(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refusals == nil {
		w.refusals = map[string]int{}
	}
	w.refusals[why]++
}

func (w *witness) fault(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.faults == nil {
		w.faults = map[string]int{}
	}
	w.faults[kind]++
}

func (w *witness) no(n No) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noes = append(w.noes, n)
}

func (w *witness) choice(c Choice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.choices = append(w.choices, c)
}

// first tells whether something happens for the first time.
func (w *witness) first(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun == nil {
		w.begun = map[string]bool{}
	}
	again := w.begun[what]
	w.begun[what] = true
	return !again
}

func (w *witness) refund(r RefundAnswer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refunds = append(w.refunds, r)
}

func (w *witness) down(d Down) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.downs = append(w.downs, d)
}

func (w *witness) tell(t Told) {
	if len(t.States) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, t)
}

func (w *witness) lose(l Lost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = append(w.lost, l)
}

// surprise notes what should not have happened. Its text must hold no secret: it is printed.
func (w *witness) surprise(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.surprises = append(w.surprises, fmt.Sprintf(format, args...))
}

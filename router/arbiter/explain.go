package arbiter

import (
	"fmt"
	"strings"
	"time"
)

// Explain repeats Pick and keeps what it looked at. For a kept snapshot, request and draw it tells exactly what Pick
// chose then.
func Explain(s *Snapshot, r Request, draw float64) Explanation {
	scores := make([]score, len(s.Regions))
	e := Explanation{Choice: pick(s, &r, draw, scores)}
	if e.Regime == None {
		expect(s, scores)
	}
	full := s.full(&r)
	for i, g := range s.Regions {
		reason, _ := judge(g, &r, full)
		e.Candidates = append(e.Candidates, Candidate{
			Region: g, Reason: reason, Wait: scores[i].wait, Load: g.Utilisation(), Expected: scores[i].expected,
		})
	}
	e.Sentence = e.sentence(&r)
	return e
}

func (e *Explanation) sentence(r *Request) string {
	if e.Regime == None {
		return "Nobody can be chosen: " + e.filtered() + "."
	}
	chosen, next := e.chosenAndNext()
	g := chosen.Region
	var b strings.Builder
	switch e.Regime {
	case Preferred:
		fmt.Fprintf(&b, "%s was named by the caller and can serve", g.Name)
	case Panic:
		fmt.Fprintf(&b, "Too few passed every filter (%s); %s is the best of those that fail a soft one at most", e.filtered(), g.Name)
	case LateExpected:
		fmt.Fprintf(&b, "Nobody is expected within the %s left; %s is the soonest", ms(r.Budget), g.Name)
	case Spill:
		fmt.Fprintf(&b, "A nearer region's queue costs more than the way to %s", g.Name)
	case Suspected:
		fmt.Fprintf(&b, "A nearer node's answers are overdue; %s is expected to answer soonest", g.Name)
	case Hedge:
		fmt.Fprintf(&b, "The answer of %s is late; %s is asked, too", r.Hedging, g.Name)
	case Cold:
		fmt.Fprintf(&b, "Nothing was measured yet; by what is remembered, %s answers soonest", g.Name)
	default:
		fmt.Fprintf(&b, "%s is expected to answer soonest", g.Name)
	}
	fmt.Fprintf(&b, ": %s = %s network + %s service + %s wait", ms(chosen.Expected), ms(network(g)), ms(clamp(g.Service)), ms(chosen.Wait))
	if g.Suspect {
		fmt.Fprintf(&b, " + %s for overdue answers", ms(suspicion))
	}
	if t := toll(g, chosen.Wait); t > 0 {
		fmt.Fprintf(&b, " + %s for its crowd", ms(t))
	}
	fmt.Fprintf(&b, ", at %.1f %% success", 100*rate(g.SuccessRate))
	if p := chosen.Expected - predict(g, chosen.Wait) - toll(g, chosen.Wait); p > 0 {
		fmt.Fprintf(&b, " (%s for failures)", ms(p))
	}
	switch {
	case next == nil:
		b.WriteString("; nobody else could be asked")
	case next.Expected < chosen.Expected && e.Regime == Normal:
		fmt.Fprintf(&b, "; drawn in a near tie with %s at %s", next.Region.Name, ms(next.Expected))
	default:
		fmt.Fprintf(&b, "; next is %s at %s", next.Region.Name, ms(next.Expected))
	}
	return b.String() + "."
}

// chosenAndNext finds the chosen candidate and the best of the other eligible ones.
func (e *Explanation) chosenAndNext() (chosen, next *Candidate) {
	for i := range e.Candidates {
		c := &e.Candidates[i]
		switch {
		case c.Region == e.Region:
			chosen = c
		case c.Reason == Eligible && (next == nil || c.Expected < next.Expected):
			next = c
		}
	}
	return chosen, next
}

// filtered counts the candidates by the filter that they failed.
func (e *Explanation) filtered() string {
	if len(e.Candidates) == 0 {
		return "no region is known"
	}
	var counts [Loaded + 1]int
	for _, c := range e.Candidates {
		counts[c.Reason]++
	}
	var parts []string
	for reason, n := range counts {
		if n > 0 && Reason(reason) != Eligible {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(Reason(reason).String(), "_", " ")))
		}
	}
	return strings.Join(parts, ", ")
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

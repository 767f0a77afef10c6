package arbiter

import (
	"fmt"
	"strings"
	"time"
)

// Explain repeats Pick and keeps what it looked at. For a kept snapshot, request and draw it tells exactly what Pick
// chose then.
func Explain(s *Snapshot, r Request, draw float64) Explanation {
	scores := make([]score, 0, len(s.Regions))
	e := Explanation{Choice: pick(s, &r, draw, scores)}
	scores = scores[:len(s.Regions)] // filled by pick
	if e.Regime == None {
		expect(s, scores)
	}
	for i, g := range s.Regions {
		reason, _ := judge(g, &r)
		e.Candidates = append(e.Candidates, Candidate{Region: g, Reason: reason, Wait: wait(g), Expected: scores[i].expected})
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
		fmt.Fprintf(&b, "Nobody passed every filter (%s); %s is the best of those that fail for stock or reachability only", e.filtered(), g.Name)
	case LateExpected:
		fmt.Fprintf(&b, "Nobody is expected within the %s left; %s is the soonest", ms(r.Budget), g.Name)
	default:
		fmt.Fprintf(&b, "%s is expected to answer soonest", g.Name)
	}
	fmt.Fprintf(&b, ": %s = %s network + %s service + %s wait, at %.1f %% success", ms(chosen.Expected),
		ms(chosen.Expected-clamp(g.Service)-chosen.Wait-e.penalty(chosen)), ms(g.Service), ms(chosen.Wait), 100*rate(g.SuccessRate))
	if p := e.penalty(chosen); p > 0 {
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

// penalty is the part of E that failures add.
func (e *Explanation) penalty(c *Candidate) time.Duration { return c.Expected - predict(c.Region) }

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
	var counts [Tried + 1]int
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

package catalog_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/internal/dropclock"
)

// schedule opens in 5 s, is open for 90 s, and its longest offer stands for 5 min.
func schedule(t interface {
	Helper()
	Fatal(...any)
}) catalog.Schedule {
	t.Helper()
	d := draft()
	d.Arms = []catalog.Arm{{Name: "short", Weight: 1, TokenTTL: time.Minute}, {Name: "long", Weight: 1, TokenTTL: 5 * time.Minute}}
	terms, violations := catalog.Plan(d, now)
	if violations != nil {
		t.Fatal(violations)
	}
	return terms.Schedule()
}

func TestStateFollowsTheLongestArmAndTheStoredFacts(t *testing.T) {
	s := schedule(t)
	over := s.CloseTime.Add(5*time.Minute + dropclock.Grace)
	for _, c := range []struct {
		at              time.Time
		paused, settled bool
		want            dropclock.State
	}{
		{now, false, false, dropclock.Armed}, // it opens in 5 s, within the lead
		{s.OpenTime, false, false, dropclock.Open},
		{s.OpenTime, true, false, dropclock.Paused},
		{over.Add(-1), false, false, dropclock.Draining},
		{over.Add(-1), true, false, dropclock.Paused},
		{over, false, false, dropclock.Closed},
		{over, true, false, dropclock.Closed},
		{over, true, true, dropclock.Settled},
	} {
		s.Paused, s.Settled = c.paused, c.settled
		if got := s.State(c.at); got != c.want {
			t.Errorf("at %v, paused %v, settled %v: got %v, want %v", c.at, c.paused, c.settled, got, c.want)
		}
	}
}

func TestChangesOfASchedule(t *testing.T) {
	plan := schedule(t)
	open, closing, over := plan.OpenTime, plan.CloseTime, plan.OverTime
	pause, resume, end := catalog.Schedule.Pause, catalog.Schedule.Resume, catalog.Schedule.Close
	extend := func(by time.Duration) func(catalog.Schedule, time.Time) (catalog.Schedule, error) {
		return func(s catalog.Schedule, at time.Time) (catalog.Schedule, error) { return s.Extend(by, at) }
	}
	for rule, c := range map[string]struct {
		change  func(catalog.Schedule, time.Time) (catalog.Schedule, error)
		at      time.Time
		paused  bool
		want    catalog.Schedule
		refusal string // a part of the sentence; empty: allowed
	}{
		"an open drop is paused":                       {change: pause, at: open, want: catalog.Schedule{OpenTime: open, CloseTime: closing, OverTime: over, Paused: true}},
		"a paused drop stays paused":                   {change: pause, at: open, paused: true, want: catalog.Schedule{OpenTime: open, CloseTime: closing, OverTime: over, Paused: true}},
		"a drop that is over is not paused":            {change: pause, at: over, refusal: "Nothing is left"},
		"a paused drop goes on":                        {change: resume, at: open, paused: true, want: plan},
		"a drop that was not paused goes on":           {change: resume, at: open, want: plan},
		"a paused drop that is over does not go on":    {change: resume, at: over, paused: true, refusal: "over"},
		"an open drop is extended, and so is its end":  {change: extend(time.Minute), at: open, want: catalog.Schedule{OpenTime: open, CloseTime: closing.Add(time.Minute), OverTime: over.Add(time.Minute)}},
		"a planned drop is extended":                   {change: extend(time.Minute), at: open.Add(-time.Hour), want: catalog.Schedule{OpenTime: open, CloseTime: closing.Add(time.Minute), OverTime: over.Add(time.Minute)}},
		"a paused drop is extended and stays paused":   {change: extend(time.Minute), at: open, paused: true, want: catalog.Schedule{OpenTime: open, CloseTime: closing.Add(time.Minute), OverTime: over.Add(time.Minute), Paused: true}},
		"a closed window is not opened again":          {change: extend(time.Minute), at: closing, refusal: "plan another"},
		"nor is it while the drop is paused":           {change: extend(time.Minute), at: closing, paused: true, refusal: "plan another"},
		"an extension does not shorten":                {change: extend(-time.Second), at: open, refusal: "longer than nothing"},
		"an extension of less than a microsecond":      {change: extend(time.Nanosecond), at: open, refusal: "longer than nothing"},
		"an extended drop is open for an hour at most": {change: extend(time.Hour - 90*time.Second + time.Microsecond), at: open, refusal: "1h0m0s at most"},
		"an open drop closes now, and ends as before":  {change: end, at: open.Add(time.Second), want: catalog.Schedule{OpenTime: open, CloseTime: open.Add(time.Second), OverTime: over}},
		"a drop that has not opened never does":        {change: end, at: open.Add(-time.Second), want: catalog.Schedule{OpenTime: open.Add(-time.Second), CloseTime: open.Add(-time.Second), OverTime: over}},
		"a window that is over closes no later":        {change: end, at: closing.Add(time.Second), want: plan},
		"a drop that is over closes no later":          {change: end, at: over.Add(time.Second), want: plan},
	} {
		t.Run(rule, func(t *testing.T) {
			s := plan
			s.Paused = c.paused
			got, err := c.change(s, c.at)
			var refused *catalog.ChangeError
			if c.refusal != "" {
				if !errors.As(err, &refused) || !strings.Contains(refused.Sentence, c.refusal) || got != s {
					t.Fatalf("got %+v, %v, want a refusal with %q", got, err, c.refusal)
				}
				return
			}
			if err != nil || got != c.want {
				t.Fatalf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

// A node that hears of no change serves by an older schedule: its last token must be dead before the drop is CLOSED, and
// no change may bring back a drop that was CLOSED.
func TestNoChangeEndsADropBeforeAnOlderScheduleDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, at := schedule(t), now
		for range rapid.IntRange(1, 10).Draw(t, "changes") {
			at = at.Add(time.Duration(rapid.Int64Range(0, 200_000).Draw(t, "later")) * time.Millisecond)
			before := s
			var err error
			switch rapid.IntRange(0, 4).Draw(t, "change") {
			case 0:
				s, err = s.Pause(at)
			case 1:
				s, err = s.Resume(at)
			case 2:
				s, err = s.Extend(time.Duration(rapid.Int64Range(-10, 1000).Draw(t, "by"))*time.Second, at)
			case 3:
				s, _ = s.GiveBack(time.Duration(rapid.Int64Range(-10, 100).Draw(t, "lost"))*time.Second, 30*time.Second, at)
			default:
				s, err = s.Close(at)
			}
			if s.OverTime.Before(before.OverTime) {
				t.Fatalf("%+v ends before %+v", s, before)
			}
			if before.State(at) == dropclock.Closed && s != before {
				t.Fatalf("a closed drop changed to %+v, %v", s, err)
			}
			if s.CloseTime.Before(s.OpenTime) || s.PlannedClose().Sub(s.OpenTime) > catalog.MaxDuration {
				t.Fatalf("open from %v to %v", s.OpenTime, s.CloseTime)
			}
			if s.TimeBack < 0 || s.TimeBack > dropclock.MostBack(s.PlannedClose().Sub(s.OpenTime)) {
				t.Fatalf("%v are given back of %v to %v", s.TimeBack, s.OpenTime, s.CloseTime)
			}
		}
	})
}

func TestLostTimeIsGivenBack(t *testing.T) {
	const s = time.Second
	plan := schedule(t)
	open, closing := plan.OpenTime, plan.CloseTime // 90 s: 22 s are the quarter's whole seconds
	close4 := func(s catalog.Schedule, at time.Time) catalog.Schedule {
		s, err := s.Close(at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for rule, c := range map[string]struct {
		schedule   catalog.Schedule
		lost, most time.Duration
		at         time.Time
		want       time.Duration // in all
		limit      string
	}{
		"what was lost is given back":                {plan, 4 * s, 30 * s, open, 4 * s, ""},
		"in whole seconds":                           {plan, 4*s - 1, 30 * s, open, 3 * s, ""},
		"less than a second is nothing":              {plan, s - 1, 30 * s, open, 0, ""},
		"up to what the operator allows":             {plan, 9 * s, 5 * s, open, 5 * s, "5s at most"},
		"up to a quarter of the window":              {plan, time.Hour, 30 * s, open, 22500 * time.Millisecond / s * s, "22s at most"},
		"a longer loss gives more":                   {given(plan, 4*s), 6 * s, 30 * s, open, 6 * s, ""},
		"a shorter one takes nothing away":           {given(plan, 4*s), 2 * s, 30 * s, open, 4 * s, ""},
		"the same again gives nothing twice":         {given(plan, 4*s), 4 * s, 30 * s, open, 4 * s, ""},
		"also in the time that was given back":       {given(plan, 4*s), 6 * s, 30 * s, closing.Add(3 * s), 6 * s, ""},
		"not before the drop opens":                  {plan, 4 * s, 30 * s, open.Add(-1), 0, "ARMED"},
		"not after it closed":                        {plan, 4 * s, 30 * s, closing, 0, "DRAINING"},
		"not after the extended close":               {given(plan, 4*s), 9 * s, 30 * s, closing.Add(4 * s), 4 * s, "DRAINING"},
		"not after an operator closed it":            {close4(plan, open.Add(s)), 4 * s, 30 * s, open.Add(2 * s), 0, "DRAINING"},
		"a close takes back what did not happen yet": {close4(given(plan, 4*s), open.Add(s)), 4 * s, 30 * s, open.Add(2 * s), 0, "DRAINING"},
		"a close in extra time leaves what happened": {close4(given(plan, 4*s), closing.Add(s)), 4 * s, 30 * s, closing.Add(2 * s), s, "DRAINING"},
		"not while it is paused":                     {catalog.Schedule{OpenTime: open, CloseTime: closing, OverTime: plan.OverTime, Paused: true}, 4 * s, 30 * s, open, 0, "PAUSED"},
		"not where it is switched off":               {plan, 4 * s, -1, open, 0, "No time is given back"},
	} {
		t.Run(rule, func(t *testing.T) {
			got, limit := c.schedule.GiveBack(c.lost, c.most, c.at)
			more := c.want - c.schedule.TimeBack
			want := c.schedule
			want.TimeBack, want.CloseTime, want.OverTime = c.want, want.CloseTime.Add(more), want.OverTime.Add(more)
			if got != want || !strings.Contains(limit, c.limit) || (limit == "") != (c.limit == "") {
				t.Errorf("got %+v, %q, want %+v, %q", got, limit, want, c.limit)
			}
		})
	}
}

// given is a schedule that gives so much back.
func given(s catalog.Schedule, by time.Duration) catalog.Schedule {
	s.TimeBack, s.CloseTime, s.OverTime = by, s.CloseTime.Add(by), s.OverTime.Add(by)
	return s
}

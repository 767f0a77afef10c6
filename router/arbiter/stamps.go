package arbiter

import (
	"slices"
	"time"
)

// stamps are the times of calls that wait for something, oldest first. Calls of one instant share an element.
type stamps struct {
	list  []stamp
	total int
}

type stamp struct {
	at time.Duration
	n  int
}

// add counts a call; now never goes back.
func (s *stamps) add(now time.Duration) {
	s.total++
	if last := len(s.list) - 1; last >= 0 && s.list[last].at == now {
		s.list[last].n++
		return
	}
	s.list = append(s.list, stamp{now, 1})
}

// remove takes one call of an instant out, if there is one.
func (s *stamps) remove(at time.Duration) {
	i, found := slices.BinarySearchFunc(s.list, at, func(e stamp, at time.Duration) int { return int(e.at - at) })
	if !found || s.list[i].n == 0 {
		return
	}
	s.total--
	s.list[i].n--
	s.trim()
}

// drop takes everything out up to an instant, that one included.
func (s *stamps) drop(through time.Duration) {
	for len(s.list) > 0 && s.list[0].at <= through {
		s.total -= s.list[0].n
		s.list = s.list[1:]
	}
	s.trim()
}

func (s *stamps) trim() {
	for len(s.list) > 0 && s.list[0].n == 0 {
		s.list = s.list[1:]
	}
}

// oldest is the time of the first; ok is false when there is none.
func (s *stamps) oldest() (at time.Duration, ok bool) {
	if len(s.list) == 0 {
		return 0, false
	}
	return s.list[0].at, true
}

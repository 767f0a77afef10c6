package gossip_test

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestPathsAreMeasuredToEveryOtherMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(t, delay)
		r, a, b := trio(t, l)
		l.split(1, b.addr)
		got := r.Paths(t.Context())
		if len(got) != 2 {
			t.Fatalf("got %v, want one path to each of the others", got)
		}
		if p := got[0]; p.GetMemberName() != a.Name() || p.GetRtt().AsDuration() != 2*delay || p.GetSent() != 5 || p.GetLost() != 0 {
			t.Errorf("to the one that answers: %v", p)
		}
		if p := got[1]; p.GetMemberName() != b.Name() || p.GetRtt() != nil || p.GetSent() != 5 || p.GetLost() != 5 {
			t.Errorf("to the one that is cut off: %v", p)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if got := r.Paths(ended); len(got) == 0 || got[0].GetSent() != 0 {
			t.Errorf("after the caller left: %v", got)
		}
	})
}

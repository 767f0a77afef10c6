package world

import (
	"context"
	"strings"
	"time"

	"github.com/rimlight/rimlight/verifier/payment/testpsp"
	"github.com/rimlight/rimlight/verifier/saga"
)

// shareCards makes the scenario one of a few cards that pay for many sessions, at a drop that lets each pay a few times.
func (c *Config) shareCards() {
	r := c.draws("cards", 0)
	c.Drops = []Drop{{Title: "capped", Units: 10 + r.IntN(8), Viewers: 40, Opens: 13 * time.Second, Lasts: 40 * time.Second, PerCard: 1 + r.IntN(3)}}
	c.Abandon = 0.2
	c.Payments = []Weighted[Payment]{
		{2, Payment{Reference: testpsp.RefCard + "A"}}, {2, Payment{Reference: testpsp.RefCard + "B"}}, {2, Payment{Reference: testpsp.RefCard + "C"}},
		{1, Payment{Reference: testpsp.RefOK}},
	}
	c.Habits = []Weighted[Habit]{{8, Plain}, {2, DoubleTaps}, {1, Replays}, {1, Presents}, {1, Claims}, {1, Forgets}}
}

// readCards reads which named card each purchase was to be paid with, by token.
func (w *world) readCards(ctx context.Context, e *Evidence) error {
	type pair struct{ token, reference string }
	var all []pair
	err := rows(ctx, w.centre.verifierDB, &all, func(scan func(...any) error) (p pair, err error) {
		return p, scan(&p.token, &p.reference)
	}, `SELECT LOWER(HEX(token_id)), payment_reference FROM purchases`)
	e.Cards = map[string]string{}
	for _, p := range all {
		if name, _, _ := strings.Cut(p.reference, ":"); strings.HasPrefix(name, testpsp.RefCard) {
			e.Cards[p.token] = name
		}
	}
	return err
}

// cardsKeepTheirShare: the customer of a named card never has to act, so its payments end in goods or in the cap.
func cardsKeepTheirShare(e *Evidence, x *index, broken func(string, ...any)) {
	type share struct{ drop, card string }
	paid, decided := map[share]int{}, map[share]int{}
	for i := range e.Purchases {
		p := &e.Purchases[i]
		s := share{p.Drop, e.Cards[p.Token]}
		if s.card == "" || e.Config.Drops[x.drops[p.Drop]].PerCard == 0 {
			continue
		}
		switch {
		case p.paid():
			decided[s]++
			if p.State.Earned() {
				paid[s]++
			}
		case p.Reason == saga.PaymentWindowOver:
			broken("purchase %s is %v for want of time, and its card needed none", p.ID, p.State)
		}
	}
	for s, n := range paid {
		if share := e.Config.Drops[x.drops[s.drop]].PerCard; n > share {
			broken("%s paid %d purchases of a drop that lets it pay %d", s.card, n, share)
		}
	}
	for i := range e.Purchases {
		p := &e.Purchases[i]
		if p.Reason != saga.InstrumentLimit {
			continue
		}
		s := share{p.Drop, e.Cards[p.Token]}
		if limit := e.Config.Drops[x.drops[p.Drop]].PerCard; limit == 0 || decided[s] < limit || p.State != saga.Refused {
			broken("purchase %s is %v as one too many of %s, which paid %d of %d", p.ID, p.State, s.card, decided[s], limit)
		}
	}
}

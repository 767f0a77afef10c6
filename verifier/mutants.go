package verifier

import (
	"context"

	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// takeChoiceBack lets a viewer choose again whose money is on its way, in a build that tests without that rule.
func takeChoiceBack(ctx context.Context, tx *store.Tx, p *store.Purchase) error {
	if p.State != saga.Refunding || !mutant.On(mutant.ChoiceTakenBack) {
		return nil
	}
	was := *p
	p.State = saga.ChoiceRequired
	return tx.UpdatePurchase(ctx, &was, p)
}

package torture

import (
	"context"
	"fmt"
	"slices"

	"github.com/rimlight/rimlight/internal/mutant"
)

// Caught is how a mutation was noticed, or that it was not.
type Caught struct {
	mutant.Rule
	// Seeds has, for each run, the seed that broke a law; Laws are those of the first. Tries are how many schedules each
	// run played. A run that noticed nothing has no seed.
	Seeds []uint64
	Laws  []string
	Tries []int
	Runs  int
}

// Survived tells that no run noticed it.
func (c Caught) Survived() bool { return len(c.Seeds) == 0 }

// Median is how many schedules a run needs, counting those of runs that noticed nothing.
func (c Caught) Median() int {
	tries := slices.Sorted(slices.Values(c.Tries))
	return tries[len(tries)/2]
}

// String is a line of a table.
func (c Caught) String() string {
	if c.Survived() {
		return fmt.Sprintf("SURVIVED %-24s %d schedules in %d runs: %s", c.Mutation, sum(c.Tries), c.Runs, c.Text)
	}
	return fmt.Sprintf("caught   %-24s seed %-7d median %3d schedules, %d of %d runs, by %v: %s",
		c.Mutation, c.Seeds[0], c.Median(), len(c.Seeds), c.Runs, c.Laws, c.Text)
}

func sum(ns []int) (total int) {
	for _, n := range ns {
		total += n
	}
	return total
}

// Hunt leaves one rule out and plays schedules until a law breaks, in so many runs of at most so many schedules, from
// first's seed and with its transport on. Runs use different seeds. The pool's workers must have the rule's switch turned.
func Hunt(ctx context.Context, pool *Pool, rule mutant.Rule, first Order, runs, schedules int) (Caught, error) {
	c := Caught{Rule: rule, Runs: runs}
	for run := range runs {
		tries := 0
		for tries < schedules {
			seed := first.Seed + uint64(run*schedules+tries)
			tries++
			v, err := pool.Play(ctx, Order{Seed: seed, Aim: rule.Aim, Transport: first.Transport})
			if err != nil {
				return c, err
			}
			if len(v.Broken) > 0 {
				c.Seeds = append(c.Seeds, seed)
				if c.Laws == nil {
					c.Laws = v.Broken
				}
				break
			}
		}
		c.Tries = append(c.Tries, tries)
	}
	return c, pool.Stop()
}

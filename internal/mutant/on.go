//go:build mutants

package mutant

import (
	"flag"
	"fmt"
)

var active Mutation

// A flag, so that the switch is turned before anything runs and is never turned back.
func init() {
	flag.Func("mutant", "leave a rule out", func(name string) error {
		for _, r := range Rules() {
			if string(r.Mutation) == name {
				active = r.Mutation
				return nil
			}
		}
		return fmt.Errorf("no mutation is called %q", name)
	})
}

// On tells whether a rule is left out.
func On(m Mutation) bool { return m == active }

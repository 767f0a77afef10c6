package main

import (
	"context"
	"fmt"

	"github.com/rimlight/rimlight/internal/process"
)

type backupCmd struct {
	Service string `arg:"" enum:"verifier,fulfillment" help:"Whose store: verifier or fulfillment."`
	Data    string `help:"The service's data directory; it may run meanwhile." required:"" placeholder:"DIR"`
	To      string `help:"The new file. It holds secrets: signing keys, licence keys." required:"" placeholder:"FILE"`
}

func (c *backupCmd) Run(ctx context.Context, s *streams) error {
	if err := process.BackUp(ctx, c.Data, c.Service, c.To); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "%s is a backup of %s as it was during this command\n", c.To, c.Service)
	return nil
}

type restoreCmd struct {
	Service string `arg:"" enum:"verifier,fulfillment" help:"Whose store: verifier or fulfillment."`
	Data    string `help:"Where the restored store goes; there must be none." placeholder:"DIR"`
	From    string `help:"The backup." placeholder:"FILE"`
	databaseFlags
}

func (c *restoreCmd) Run(ctx context.Context, s *streams) error {
	files, database := c.Data != "" && c.From != "", c.Database != ""
	switch {
	case files == database || database && (c.Data != "" || c.From != ""):
		return usageError{"give --data DIR and --from FILE; or, after bringing the database back to a point in time, --database URL"}
	}
	if err := process.Restore(ctx, c.Service, c.Data, c.postgres(), c.From); err != nil {
		return err
	}
	next := "restored; the next verifier on it reads the nodes' journals again before it settles or takes money"
	if c.Service == "fulfillment" {
		next = "restored; the next fulfillment on it hears from the verifier and every node what it lent and sold before it does either"
	}
	fmt.Fprintln(s.err, next)
	return nil
}

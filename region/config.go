package region

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/region/journal"
)

// Config is what an operator decides about a node.
type Config struct {
	// Region is the name that viewers, routers and the RTT matrix know, for example "europe-west3". Required, 1 to 63 of
	// a-z, 0-9 and "-". Two nodes may share it.
	Region string
	// Zones are the residency zones that the node is in, for example "eu". Empty: it serves only calls without a zone.
	Zones []string
	// Parallelism is how many calls the node works on at the same time without queueing, as routers are told. 0: 4 per
	// GOMAXPROCS, since a redemption spends most of its time waiting for the disk. At half of the truth routers turn away
	// early; at double they learn of a queue from its delay only.
	Parallelism int
	// CallTimeout bounds one unary call to fulfillment or the verifier. 0: 2 s. At half, a far centre's slow moments fail
	// calls that would have answered; at double, a cut link is noticed late, which costs stock and no viewer's time.
	CallTimeout time.Duration
	// DrainTimeout bounds how long a stopping node waits for the verifier to take the rest of its journal, and then how long
	// it writes snapshots. 0: 5 s. What is left is forwarded, or read, after the next start, so a small value delays
	// settlement or that start, and loses nothing.
	DrainTimeout time.Duration
	// Drills lets SetFault break viewers' calls for a while. Never where viewers pay.
	Drills bool
	// SnapshotRecords is after how many records the node writes a snapshot of what they mean, from which the next start
	// goes on; it writes another when it stops. 0: 10,000, whose replay takes about a tenth of a second of one core. At half, starts
	// after a crash are that much quicker and snapshots are more; at double, the other way round.
	SnapshotRecords int
	// Retire makes this the node's last life: it serves nobody, gives back what it holds, seals its journal, forwards all
	// of it and ends by itself. It cannot be undone; a retirement that was cut short goes on at the next start.
	Retire bool
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Validate reports every problem at once.
func (c Config) Validate() error {
	var problems []error
	if !name.MatchString(c.Region) {
		problems = append(problems, fmt.Errorf("region: Region %q must match %s", c.Region, name))
	}
	for _, z := range c.Zones {
		if !name.MatchString(z) {
			problems = append(problems, fmt.Errorf("region: zone %q must match %s", z, name))
		}
	}
	if c.Parallelism < 0 {
		problems = append(problems, fmt.Errorf("region: Parallelism %d is negative", c.Parallelism))
	}
	if c.SnapshotRecords < 0 {
		problems = append(problems, fmt.Errorf("region: SnapshotRecords %d is negative", c.SnapshotRecords))
	}
	if c.CallTimeout < 0 || c.DrainTimeout < 0 {
		problems = append(problems, errors.New("region: a timeout is negative"))
	}
	return errors.Join(problems...)
}

func (c Config) withDefaults() Config {
	if c.Parallelism == 0 {
		c.Parallelism = 4 * runtime.GOMAXPROCS(0)
	}
	if c.SnapshotRecords == 0 {
		c.SnapshotRecords = 10_000
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = 2 * time.Second
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 5 * time.Second
	}
	return c
}

// Deps is what a node is given. It closes none of it.
type Deps struct {
	Journal  journal.Journal  // required; replayed by New
	Identity journal.Identity // required; the journal's
	Stock    fulfillmentv1.StockServiceClient
	Catalog  fulfillmentv1.CatalogServiceClient
	Verifier verifierv1.VerifierServiceClient
	// Now stamps what crosses a process or a restart. nil: time.Now.
	Now func() time.Time
	// Random makes ids; it must be safe for concurrent use. nil: crypto/rand.
	Random io.Reader
	// Log is for operators. nil: discarded.
	Log *slog.Logger
	// Metrics takes the node's collectors. nil: a registry of its own, which nobody reads.
	Metrics prometheus.Registerer
	// Traces makes spans of the journal's way to the verifier; nil: none.
	Traces *telemetry.Tracer
	// Disk tells how the journal's disk is doing; nil: Check leaves it out.
	Disk func() (journal.Health, error)
	// Paths measures the ways to the other members of the ring; nil: Check leaves them out.
	Paths func(context.Context) []*regionv1.Path
	// Version is the program's version, as Probe answers it.
	Version string
	// OnModeChange, if set, is told about every mode that an operator sets, after it is durable. It must not block.
	OnModeChange func(regionv1.RegionMode)
}

// Command rimlight is the whole platform in one binary: `rimlight dev` runs everything on this machine, `rimlight
// router|region|verifier|fulfillment|node` run one service of a real deployment, and the other verbs are clients.
//
// A file per subcommand. Every client verb takes --router and -o table|json and ends with one of four exit codes:
// 0 done, 1 refused with a typed reason, 2 usage, 3 unreachable or not in time.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitDone        = 0
	exitRefused     = 1
	exitUsage       = 2
	exitUnreachable = 3
)

type commands struct {
	Dev         devCmd         `cmd:"" help:"Run the whole platform in one process on loopback, with real inter-region delays."`
	RouterCmd   routerCmd      `cmd:"" name:"router" help:"Run a router."`
	Region      regionCmd      `cmd:"" help:"Run a regional decision node."`
	Verifier    verifierCmd    `cmd:"" help:"Run the central verifier."`
	Fulfillment fulfillmentCmd `cmd:"" help:"Run central fulfillment."`
	Node        nodeCmd        `cmd:"" help:"Run a microfulfillment node, which packs and sends physical orders."`
	Backup      backupCmd      `cmd:"" help:"Copy a central service's store while it runs."`
	Restore     restoreCmd     `cmd:"" help:"Make a verifier's store of a backup."`

	Drops    dropsCmd    `cmd:"" help:"Plan drops and watch them sell."`
	Buy      buyCmd      `cmd:"" help:"Buy one unit and follow it to its final outcome."`
	Purchase purchaseCmd `cmd:"" help:"Look a purchase up, or choose how it is made good."`
	Webhooks webhooksCmd `cmd:"" help:"Tell other systems of changes of purchases."`
	Voucher  voucherCmd  `cmd:"" help:"List vouchers and what is left on them."`
	Refund   refundCmd   `cmd:"" help:"Give money of a delivered purchase back."`
	Orders   ordersCmd   `cmd:"" help:"List orders; take those of a lost depot."`
	Audit    auditCmd    `cmd:"" help:"Check the platform's conservation equations."`

	Regions regionsCmd `cmd:"" help:"Show the regions as the routers see them."`
	Top     topCmd     `cmd:"" help:"Watch the regions live: offers, share, times, stock and journals."`
	Check   checkCmd   `cmd:"" help:"Have every router and node look at the network, the clocks, the versions and the disks; exit 1 if something is wrong."`
	Members membersCmd `cmd:"" help:"Show the gossip ring."`
	Matrix  matrixCmd  `cmd:"" help:"Show measured round-trip times, router by region."`
	Explain explainCmd `cmd:"" help:"Say why a call went where it went."`
	WhatIf  whatIfCmd  `cmd:"" help:"Say where a call would have gone, had a region been drained, slower or sold out."`
	Drain   drainCmd   `cmd:"" help:"Take a region out: no new offers, stock goes back."`
	Cordon  cordonCmd  `cmd:"" help:"Let a region win no new offers, but redeem those it made."`
	Fence   fenceCmd   `cmd:"" help:"Take a node's stock out of sale, alive or dead: out of one drop, or of all for good."`
	Fault   faultCmd   `cmd:"" help:"Break a region for a while, to practise; needs a platform started with --drills."`
	Slips   slipsCmd   `cmd:"" help:"Show when too many calls were late, why, and how many viewers saw it."`
	Undrain undrainCmd `cmd:"" help:"Put a region back into service."`

	Load loadCmd `cmd:"" help:"Play viewers and measure from tap to receipt."`
	Sim  simCmd  `cmd:"" help:"Play the arbitration scenarios over a matrix: plan capacity, compare policies."`

	Config  kong.ConfigFlag  `help:"Read flags from this JSON file." placeholder:"FILE"`
	Version kong.VersionFlag `help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with everything given, for tests.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c commands
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("rimlight"),
		kong.Description("Sell in the moment, at the edge of a live stream."),
		kong.Vars{"version": version, "router": defaultRouter},
		kong.DefaultEnvars("RIMLIGHT"),
		kong.Configuration(kong.JSON),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&streams{out: stdout, err: stderr}),
	)
	if err != nil {
		fmt.Fprintf(stderr, "rimlight: %v\n", err)
		return exitUsage
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	k, err := parser.Parse(args)
	if exited >= 0 { // --help or --version
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "rimlight: %v\nTry: rimlight --help\n", err)
		return exitUsage
	}
	if err := k.Run(); err != nil {
		return report(stderr, err)
	}
	return exitDone
}

// streams are where a command prints: results to out, everything else to err.
type streams struct {
	out, err io.Writer
}

// progress tells people what a long command waits for; a pipe or a file hears nothing of it.
func (s *streams) progress(text string) {
	if terminal(s.err) {
		fmt.Fprintln(s.err, text)
	}
}

// live replaces the terminal's last line; a pipe or a file hears nothing of it.
func (s *streams) live(text string) {
	if terminal(s.err) {
		fmt.Fprintf(s.err, "\r\x1b[K%s", text)
	}
}

// terminal tells whether somebody watches: progress in a pipe is noise.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// refusal is a typed no that is not a status: the command has printed what there is to say in its result.
type refusal struct{ text string }

func (r refusal) Error() string { return r.text }

// usageError is a mistake in the command line that the parser could not know.
type usageError struct{ text string }

func (u usageError) Error() string { return u.text }

// lateError is a wait that ended before what was waited for had happened. Nothing is undone.
type lateError struct{ text string }

func (l lateError) Error() string { return l.text }

// report prints why a command failed and picks the exit code.
func report(w io.Writer, err error) int {
	var no refusal
	var usage usageError
	var late lateError
	var untrusted *rpc.UntrustedError
	switch {
	case errors.As(err, &untrusted):
		fmt.Fprintf(w, "rimlight: %v\nNothing was sent. If that is your router, name who signed its certificate: --ca-file FILE\n", untrusted)
		return exitUnreachable
	case errors.As(err, &late):
		fmt.Fprintf(w, "rimlight: not in time: %s\n", late.text)
		return exitUnreachable
	case errors.As(err, &no):
		fmt.Fprintf(w, "rimlight: refused: %s\n", no.text)
		return exitRefused
	case errors.As(err, &usage):
		fmt.Fprintf(w, "rimlight: %s\nTry: rimlight --help\n", usage.text)
		return exitUsage
	}
	// The innermost status: what surrounds it, like "RedeemOffer: rpc error: code = ...", tells a user nothing.
	var answer interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &answer) {
		fmt.Fprintf(w, "rimlight: %v\n", err)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return exitUnreachable
		}
		return exitRefused
	}
	st := answer.GRPCStatus()
	if info := rpcerr.Info(err); info != nil {
		fmt.Fprintf(w, "rimlight: refused: %s: %s\n", info.GetReason(), st.Message())
		for _, line := range violations(st) {
			fmt.Fprintf(w, "  %s\n", line)
		}
		return exitRefused
	}
	fmt.Fprintf(w, "rimlight: %s: %s\n", st.Code(), st.Message())
	switch st.Code() {
	case codes.Unavailable:
		fmt.Fprintln(w, "Is the platform running there? Start it with: rimlight dev")
		return exitUnreachable
	case codes.DeadlineExceeded:
		fmt.Fprintln(w, "It takes longer than --timeout, or --wait, allows.")
		return exitUnreachable
	}
	return exitRefused
}

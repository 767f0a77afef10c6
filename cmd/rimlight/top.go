package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type topCmd struct {
	clientFlags
	Sort string `help:"What comes first: trouble, offers, p99, lag or name; the key s changes it." enum:"trouble,offers,p99,lag,name" default:"trouble"`
}

// Run watches the regions until q or ctrl-C. Asked for an output, or without a terminal on both sides, it prints what is
// now and ends.
func (c *topCmd) Run(ctx context.Context, s *streams, parsed *kong.Context) error {
	out, screen := s.out.(*os.File)
	for _, p := range parsed.Path {
		screen = screen && (p.Flag == nil || p.Flag.Name != "output")
	}
	if screen && terminal(out) && terminal(os.Stdin) {
		return c.live(ctx, out)
	}
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ListRegions(ctx, &routerv1.ListRegionsRequest{LocalOnly: true})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(s.out, resp)
		}
		v := topView{router: resp.GetRouter(), rows: topRows(resp.GetRegions()), sort: c.Sort}
		for _, line := range v.lines(0, 0) {
			if _, err := fmt.Fprintln(s.out, line.text); err != nil {
				return err
			}
		}
		return nil
	})
}

// redial is how long a lost router is left alone.
const redial = time.Second

// news is one message of the router, or why there is none.
type news struct {
	regions []*routerv1.RegionStatus
	err     error
}

// live draws one frame per message, key and change of the window's size.
func (c *topCmd) live(ctx context.Context, out *os.File) (err error) {
	conn, err := c.dial(auth.SRE)
	if err != nil {
		return err
	}
	defer conn.Close()
	admin := routerv1.NewRouterAdminServiceClient(conn)
	first, cancel := context.WithTimeout(ctx, c.Timeout)
	resp, err := admin.ListRegions(first, &routerv1.ListRegionsRequest{LocalOnly: true})
	cancel()
	if err != nil { // before the screen is taken: an error is read where it is expected
		return err
	}
	view := topView{router: resp.GetRouter(), rows: topRows(resp.GetRegions()), sort: c.Sort, heard: time.Now()}

	screen, err := openScreen(os.Stdin, out)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	updates, watched := make(chan news), make(chan struct{})
	go func() {
		defer close(watched)
		followRegions(ctx, admin, updates)
	}()
	defer func() {
		stop()
		<-watched
		err = errors.Join(err, screen.Close())
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	second := time.NewTicker(time.Second) // the clock, and how long the router has been silent
	defer second.Stop()
	for {
		view.now = time.Now()
		if err := screen.draw(view.lines); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case n := <-updates:
			if view.problem = n.err; n.err == nil {
				view.rows, view.heard = topRows(n.regions), time.Now()
			}
		case key, open := <-screen.keys:
			switch {
			case !open || key == 'q' || key == 'Q' || key == ctrlC:
				return nil
			case key == 's' || key == 'S':
				view.sort = nextSort(view.sort)
			}
		case <-resized:
		case <-second.C:
		}
	}
}

// followRegions hands on what the router says every second, and asks again when it stops, until ctx ends.
func followRegions(ctx context.Context, admin routerv1.RouterAdminServiceClient, updates chan<- news) {
	tell := func(n news) {
		select {
		case updates <- n:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		stream, err := admin.WatchRegions(ctx, &routerv1.WatchRegionsRequest{})
		for err == nil {
			var m *routerv1.WatchRegionsResponse
			if m, err = stream.Recv(); err == nil {
				tell(news{regions: m.GetRegions()})
			}
		}
		tell(news{err: err})
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
	}
}

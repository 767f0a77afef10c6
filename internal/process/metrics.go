package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapeHeaderTimeout is how long who scrapes may take to say what it wants.
const scrapeHeaderTimeout = 5 * time.Second

// serveMetrics opens the port for Prometheus, if there is to be one. It serves as long as anything else does.
func (p *Process) serveMetrics(c Common) error {
	if c.MetricsListen == "" {
		return nil
	}
	lis, err := net.Listen("tcp", c.MetricsListen)
	if err != nil {
		return fmt.Errorf("listening for Prometheus: %w", err)
	}
	p.onClose(func() error { _ = lis.Close(); return nil }) // the server closes it, unless it never ran
	p.MetricsAddr = lis.Addr().String()
	pages := http.NewServeMux()
	pages.Handle("/metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: pages, ReadHeaderTimeout: scrapeHeaderTimeout}
	p.last = []Stage{{"the metrics", func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- server.Serve(lis) }()
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
		}
		err := server.Close() // who scrapes comes again
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = serr
		}
		return err
	}}}
	return nil
}

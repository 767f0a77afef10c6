package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rimlight/rimlight/internal/telemetry"
)

// traceFlags say where traces go.
type traceFlags struct {
	OTLPEndpoint string  `name:"otlp-endpoint" help:"Send traces there, as OTLP over gRPC: http://HOST:4317, or https. Otherwise the environment of OpenTelemetry counts (OTEL_EXPORTER_OTLP_ENDPOINT and its kin). Default: no traces." placeholder:"URL"`
	TraceRatio   float64 `help:"How many traces are sent whatever happens in them, from 0 to 1; of slow and failed calls all are." default:"0.01"`
	Traces       string  `help:"Append all traces to this file instead, a span a line, to be read by people." placeholder:"FILE"`
}

// config opens where traces go. It does not connect: a collector that is away costs traces, and nothing else.
func (f *traceFlags) config(ctx context.Context, log *slog.Logger) (telemetry.Config, error) {
	cfg := telemetry.Config{Ratio: f.TraceRatio}
	switch {
	case f.Traces != "":
		// A write is a line, which the system appends whole, so that processes can share the file; it closes with the process.
		file, err := os.OpenFile(f.Traces, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return cfg, usageError{fmt.Sprintf("--traces: %v", err)}
		}
		cfg.Ratio, cfg.Sink = 1, telemetry.NewFile(file)
		return cfg, nil
	case f.OTLPEndpoint != "":
		if u, err := url.Parse(f.OTLPEndpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return cfg, usageError{"--otlp-endpoint must be like http://127.0.0.1:4317"}
		}
	case os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "":
		return cfg, nil
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usageError{"--trace-ratio must be from 0 to 1"}
	}
	var options []otlptracegrpc.Option
	if f.OTLPEndpoint != "" {
		options = append(options, otlptracegrpc.WithEndpointURL(f.OTLPEndpoint))
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return cfg, fmt.Errorf("opening the way of traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces were not sent", "error", err) }))
	cfg.Sink = sdktrace.NewBatchSpanProcessor(exporter)
	return cfg, nil
}

// args are the flags again, for a child process.
func (f *traceFlags) args() []string {
	args := []string{"--trace-ratio", strconv.FormatFloat(f.TraceRatio, 'g', -1, 64)}
	if f.OTLPEndpoint != "" {
		args = append(args, "--otlp-endpoint", f.OTLPEndpoint)
	}
	if f.Traces != "" {
		args = append(args, "--traces", f.Traces)
	}
	return args
}

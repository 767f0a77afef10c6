package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// NewFile makes a sink that writes each span as one line of JSON, at once: for reading, not for production. Processes may
// append to the same file. w must be safe for concurrent use, as an *os.File is.
func NewFile(w io.Writer) sdktrace.SpanProcessor {
	return sdktrace.NewSimpleSpanProcessor(lines{w})
}

type lines struct{ w io.Writer }

// line is a span as people read it.
type line struct {
	Trace      string         `json:"trace"`
	Span       string         `json:"span"`
	Parent     string         `json:"parent,omitempty"`
	Service    string         `json:"service"`
	Instance   string         `json:"instance,omitempty"`
	Name       string         `json:"name"`
	Start      time.Time      `json:"start"`
	DurationMs float64        `json:"duration_ms"`
	Failed     string         `json:"failed,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
}

// ExportSpans implements sdktrace.SpanExporter.
func (l lines) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		out := line{
			Trace: s.SpanContext().TraceID().String(), Span: s.SpanContext().SpanID().String(), Name: s.Name(),
			Start: s.StartTime().UTC(), DurationMs: float64(s.EndTime().Sub(s.StartTime()).Microseconds()) / 1000, Failed: s.Status().Description,
		}
		if parent := s.Parent().SpanID(); parent.IsValid() {
			out.Parent = parent.String()
		}
		for _, a := range s.Resource().Attributes() {
			switch a.Key {
			case "service.name":
				out.Service = strings.TrimPrefix(a.Value.AsString(), "rimlight-")
			case "service.instance.id":
				out.Instance = a.Value.AsString()
			}
		}
		for _, a := range s.Attributes() {
			if out.Attributes == nil {
				out.Attributes = map[string]any{}
			}
			out.Attributes[string(a.Key)] = a.Value.AsInterface()
		}
		text, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("writing a span: %w", err)
		}
		if _, err := l.w.Write(append(text, '\n')); err != nil {
			return fmt.Errorf("writing a span: %w", err)
		}
	}
	return nil
}

// Shutdown implements sdktrace.SpanExporter.
func (lines) Shutdown(context.Context) error { return nil }

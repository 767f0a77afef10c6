package forward

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// hopByHop are keys that belong to one connection or to the framing, not to the call. Keys that begin with "grpc-" or
// ":" are the protocol's own.
var hopByHop = map[string]bool{
	"accept-encoding": true, "connect-accept-encoding": true, "connect-content-encoding": true,
	"connect-protocol-version": true, "connect-timeout-ms": true, "connection": true, "content-length": true,
	"content-encoding": true, "content-type": true, "host": true, "keep-alive": true, "proxy-authorization": true,
	"proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
	"user-agent": true, HeaderDecision: true, HeaderRegion: true, TrailerLoad: true,
}

// tracing keys pass although they carry the reserved prefix.
var tracing = map[string]bool{"grpc-trace-bin": true, "grpc-tags-bin": true}

func passes(key string) bool {
	if tracing[key] {
		return true
	}
	return !hopByHop[key] && !strings.HasPrefix(key, "grpc-") && !strings.HasPrefix(key, ":")
}

// endToEnd copies what is meant for the other end.
func endToEnd(md metadata.MD) metadata.MD {
	out := make(metadata.MD, len(md))
	for key, values := range md {
		if passes(key) {
			out[key] = values
		}
	}
	return out
}

// outgoing is the context in which a call goes on: the caller's cancellation, deadline and metadata.
func outgoing(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	out := endToEnd(md)
	if telemetry.On(ctx) { // the trace goes on from here, not from the caller
		delete(out, telemetry.Header)
	}
	return metadata.NewOutgoingContext(ctx, out)
}

// loadIn reads a node's load report; nil when there is none.
func loadIn(trailer metadata.MD) *regionv1.LoadReport {
	values := trailer.Get(TrailerLoad)
	if len(values) == 0 {
		return nil
	}
	var load regionv1.LoadReport
	if proto.Unmarshal([]byte(values[len(values)-1]), &load) != nil {
		return nil // a report is a hint; the probes bring the next one
	}
	return &load
}

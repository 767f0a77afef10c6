package world

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	validate "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	"github.com/prometheus/client_golang/prometheus"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/simnet"
)

// ears hear everything that operators and callers could: logs, metrics, and the statuses that hosts answer.
type ears struct {
	mu         sync.Mutex // guards what is below
	log        bytes.Buffer
	statuses   map[said]*spb.Status // every error once, since turning one into text takes as long as a call
	faults     map[string]int       // method and code of answers that no service may give
	registries []*prometheus.Registry
}

// said is an error that a host answered, with its details encoded.
type said struct {
	method, message, details string
	code                     int32
}

func newEars() *ears { return &ears{statuses: map[said]*spb.Status{}, faults: map[string]int{}} }

// Write implements io.Writer, for the log.
func (e *ears) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Write(p)
}

// registry makes one for a process life.
func (e *ears) registry() *prometheus.Registry {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := prometheus.NewRegistry()
	e.registries = append(e.registries, r)
	return r
}

// validator holds messages against the rules beside their fields, as internal/rpc's chain does. Its compiled rules are
// shared between worlds: compiling them costs more than a small world.
var validator = sync.OnceValues(func() (protovalidate.Validator, error) { return protovalidate.New() })

// options is a host's chain.
func (e *ears) options(h *host) simnet.ServerOptions {
	v, err := validator()
	if err != nil {
		panic("world: making the validator: " + err.Error()) // its only input is compiled in
	}
	return simnet.ServerOptions{
		Unary: []grpc.UnaryServerInterceptor{
			func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				answer, err := handler(ctx, req)
				e.hear(h, info.FullMethod, err)
				return answer, err
			},
			validate.UnaryServerInterceptor(v),
		},
		Stream: []grpc.StreamServerInterceptor{
			func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				err := handler(srv, ss)
				e.hear(h, info.FullMethod, err)
				return err
			},
			validate.StreamServerInterceptor(v),
		},
	}
}

func (e *ears) hear(h *host, method string, err error) {
	if err == nil || h.isDead() { // nobody hears what a dead host says
		return
	}
	if rpcerr.Reason(err) == errorsv1.Reason_REASON_JOURNAL_FULL {
		h.w.room.refuse(h.name, time.Since(h.w.start))
	}
	e.note(method, err)
}

// note keeps how a call ended.
func (e *ears) note(method string, err error) {
	if err == nil {
		return
	}
	st := status.Convert(err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.statuses[whatIsSaid(method, st)] = st.Proto()
	if c := st.Code(); c == codes.Unknown || c == codes.Internal {
		e.faults[fmt.Sprintf("%s answered %v: %s", method, c, st.Message())]++
	} else if info := rpcerr.Info(err); info == nil && slices.Contains([]codes.Code{codes.InvalidArgument, codes.FailedPrecondition}, c) {
		e.faults[fmt.Sprintf("%s answered %v without a reason: %s", method, c, st.Message())]++
	}
}

func whatIsSaid(method string, st *status.Status) said {
	p := st.Proto()
	var details strings.Builder
	for _, d := range p.GetDetails() {
		details.WriteString(d.GetTypeUrl() + "\x00")
		details.Write(d.GetValue())
	}
	return said{method, p.GetMessage(), details.String(), p.GetCode()}
}

// heard is all of it as one text.
func (e *ears) heard() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b bytes.Buffer
	b.Write(e.log.Bytes())
	for said, st := range e.statuses {
		fmt.Fprintf(&b, "%s: %v\n", said.method, st)
	}
	for _, r := range e.registries {
		families, err := r.Gather()
		if err != nil {
			return "", fmt.Errorf("reading metrics: %w", err)
		}
		for _, f := range families {
			fmt.Fprintln(&b, f)
		}
	}
	return b.String(), nil
}

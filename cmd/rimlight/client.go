package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// defaultRouter is where 'rimlight dev' listens unless it is told otherwise.
const defaultRouter = "http://127.0.0.1:8080"

// clientFlags are what every client verb takes.
type clientFlags struct {
	Router  string        `help:"The router to talk to." default:"${router}" placeholder:"URL"`
	Output  string        `short:"o" help:"How to print: table or json." enum:"table,json" default:"table"`
	Timeout time.Duration `help:"How long to wait for an answer." default:"10s"`
	Tokens  string        `help:"Role tokens file (JSON); default: what 'rimlight dev' left for this router." placeholder:"FILE"`
	CAFile  string        `name:"ca-file" help:"Certificates (PEM) of the authorities to trust with an https router, or the router's own; default: the system's." placeholder:"FILE"`
}

// dial connects with the role's token, or with none where there is none to be found: reads need none.
func (f *clientFlags) dial(role auth.Role) (*grpc.ClientConn, error) {
	target, plain, err := targetOf(f.Router)
	if err != nil {
		return nil, err
	}
	tokens, err := f.tokens(target)
	if err != nil {
		return nil, err
	}
	cfg := rpc.DialConfig{Token: tokens[role], Timeout: f.Timeout}
	if !plain {
		if cfg.TLS, err = f.trust(); err != nil {
			return nil, err
		}
	}
	return rpc.Dial(target, cfg)
}

// trust is how an https router is known.
func (f *clientFlags) trust() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile == "" {
		return cfg, nil
	}
	raw, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, usageError{fmt.Sprintf("--ca-file: %v", err)}
	}
	if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(raw) {
		return nil, usageError{fmt.Sprintf("--ca-file %s has no certificate in PEM", f.CAFile)}
	}
	return cfg, nil
}

func (f *clientFlags) tokens(target string) (auth.Tokens, error) {
	if f.Tokens == "" {
		return savedCredentials(target)
	}
	raw, err := os.ReadFile(f.Tokens)
	if err != nil {
		return nil, usageError{fmt.Sprintf("--tokens: %v", err)}
	}
	var t auth.Tokens
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, usageError{fmt.Sprintf("--tokens %s: %v", f.Tokens, err)}
	}
	return t, nil
}

// targetOf splits a router's URL.
func targetOf(text string) (target string, plain bool, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", false, usageError{fmt.Sprintf("--router %q is not a URL like http://127.0.0.1:8080", text)}
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	return u.Hostname() + ":" + port, u.Scheme == "http", nil
}

// call runs fn with a connection and the verb's timeout.
func (f *clientFlags) call(ctx context.Context, role auth.Role, fn func(context.Context, *grpc.ClientConn) error) error {
	conn, err := f.dial(role)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	return fn(ctx, conn)
}

// print writes a response as proto JSON, or lets table write it for people.
func (f *clientFlags) print(s *streams, m proto.Message, table func(w io.Writer)) error {
	if f.Output == "json" {
		return printJSON(s.out, m)
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	table(w)
	return w.Flush()
}

func printJSON(w io.Writer, m proto.Message) error {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return printRawJSON(w, raw)
}

// printRawJSON indents: protojson's own spacing is random by design.
func printRawJSON(w io.Writer, v json.RawMessage) error {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", out)
	return err
}

func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

func ms(d *durationpb.Duration) string {
	return fmt.Sprintf("%.1f", float64(d.AsDuration().Microseconds())/1000)
}

func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("15:04:05")
}

// short cuts an enum's prefix: DROP_STATE_OPEN -> open.
func short(enum fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(enum.String(), prefix), "_", "-"))
}

func violations(st *status.Status) []string {
	var lines []string
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				lines = append(lines, v.GetField()+": "+v.GetDescription())
			}
		}
	}
	return lines
}

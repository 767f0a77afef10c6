package rpc_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// TestWhatTheEdgeTakesCanBePassedOn: a header that only HTTP knows must not fail in the router's own client, where it
// would look like the region's fault.
func TestWhatTheEdgeTakesCanBePassedOn(t *testing.T) {
	region := start(t, nil, nil)
	conn := dial(t, region.native, rpc.DialConfig{})
	var got metadata.MD
	router := start(t, func(c *rpc.ServerConfig) {
		c.Unknown = func(_ any, ss grpc.ServerStream) error {
			got, _ = metadata.FromIncomingContext(ss.Context())
			var request offerv1.RequestOfferRequest
			if err := ss.RecvMsg(&frame.Frame{}); err != nil {
				return err
			}
			_, err := offerv1.NewOfferServiceClient(conn).RequestOffer(metadata.NewOutgoingContext(ss.Context(), got), &request)
			return err
		}
	}, func(grpc.ServiceRegistrar) {})
	many := http.Header{}
	for i := range 400 {
		many.Set("h"+strconv.Itoa(i), "")
	}
	for _, tc := range []struct {
		name   string
		header http.Header
		want   errorsv1.Reason
	}{
		{"plain", http.Header{"X-Plain": {"v"}}, errorsv1.Reason_REASON_INVALID_REQUEST}, // the region's word on an empty request
		{"a value that is not ASCII", http.Header{"X-Plain": {"v"}, "X-Name": {"caf\xe9"}}, errorsv1.Reason_REASON_INVALID_REQUEST},
		{"a key with other signs", http.Header{"X-Plain": {"v"}, "X!y+z": {"1"}}, errorsv1.Reason_REASON_INVALID_REQUEST},
		{"more short headers than a node takes", many, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE},
		{"one value that is too long", http.Header{"X-Long": {strings.Repeat("x", 9<<10)}}, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got = nil
			req := httpRequest(t, http.MethodPost, "http://"+router.edge+requestOffer, "{}")
			req.Header = tc.header.Clone()
			req.Header.Set("Content-Type", "application/json")
			_, body := do(t, req)
			err := connectStatus(t, []byte(body))
			if rpcerr.Reason(err) != tc.want || status.Code(err) == codes.Unavailable {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if tc.want == errorsv1.Reason_REASON_INVALID_REQUEST && strings.Join(got.Get("x-plain"), "") != "v" {
				t.Errorf("what can be passed on is: got %v", got)
			}
		})
	}
}

func TestAGetWithAnUnknownCompressionIsMalformed(t *testing.T) {
	w := start(t, nil, nil)
	res, body := do(t, httpRequest(t, http.MethodGet, "http://"+w.edge+listKeys+"?encoding=json&message=%7B%7D&compression=br", ""))
	if err := connectStatus(t, []byte(body)); rpcerr.Reason(err) != errorsv1.Reason_REASON_MALFORMED {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
}

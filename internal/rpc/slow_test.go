package rpc_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
)

// Callers who send a byte now and then hold a connection for seconds, not for ever, whatever protocol they speak.
func TestSlowCallersAreGivenUp(t *testing.T) {
	post := func(method, contentType string, length int) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", method, contentType, length)
	}
	for _, tc := range []struct {
		rule, sent string
		within     time.Duration
	}{
		{"headers that do not end", "POST /x HTTP/1.1\r\nHost: x\r\n", 6 * time.Second},
		{"a Connect body that does not end", post(listKeys, "application/json", 100) + "{", 11 * time.Second},
		{"a unary gRPC-Web body that does not end", post(listKeys, "application/grpc-web+proto", 100) + "\x00", 11 * time.Second},
		{"a unary gRPC-Web body in text mode", post(listKeys, "application/grpc-web-text", 100) + "AAAA", 11 * time.Second},
		{"a stream's only request that does not end", post(watchDrops, "application/grpc-web+proto", 100) + "\x00", 11 * time.Second},
		{"a Connect stream's only request", post(watchDrops, "application/connect+json", 100) + "\x00", 11 * time.Second},
		{"a trickle of bytes is no progress", post(listKeys, "application/grpc-web+proto", 100) + "trickle", 11 * time.Second},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, stop := pipeTo(t)
				begin := time.Now()
				sent, trickles := strings.CutSuffix(tc.sent, "trickle")
				var sending sync.WaitGroup
				defer sending.Wait()
				defer stop()
				sending.Go(func() {
					_, err := io.WriteString(conn, sent)
					for ; trickles && err == nil; _, err = conn.Write([]byte{0}) {
						time.Sleep(time.Second)
					}
				})
				_ = conn.SetReadDeadline(begin.Add(time.Hour))
				answer := bufio.NewReader(conn)
				_, _ = answer.Peek(1) // an answer, or the end of the connection
				if took := time.Since(begin); took > tc.within {
					t.Errorf("was given up after %v, want at most %v", took, tc.within)
				}
				_, _ = io.Copy(io.Discard, answer)
				if took := time.Since(begin); took > 3*time.Minute { // kept for another call, for two minutes
					t.Errorf("the connection was held for %v", took)
				}
			})
		})
	}
}

// The guard of the above: a stream whose request is here goes on as long as it wants.
func TestAStreamOutlivesTheTimeForItsRequest(t *testing.T) {
	msg, err := proto.Marshal(&offerv1.WatchDropsRequest{ChannelId: "wait"})
	if err != nil {
		t.Fatal(err)
	}
	whole := string(envelope(0, msg))
	const length, chunked = "Content-Length: %d\r\n\r\n%s", "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
	for _, tc := range []struct{ contentType, framing, body string }{
		{"application/grpc-web+proto", length, whole},
		{"application/grpc-web+proto", chunked, whole},
		{"application/grpc-web-text", length, base64.StdEncoding.EncodeToString([]byte(whole))},
		{"application/connect+proto", length, whole},
	} {
		t.Run(tc.contentType, func(t *testing.T) { outlives(t, tc.contentType, fmt.Sprintf(tc.framing, len(tc.body), tc.body)) })
	}
}

func outlives(t *testing.T, contentType, framed string) {
	synctest.Test(t, func(t *testing.T) {
		conn, stop := pipeTo(t)
		defer stop()
		go func() {
			_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n%s", watchDrops, contentType, framed)
		}()
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(io.Discard, res.Body)
		}()
		select {
		case <-ended:
			t.Error("the stream ended")
		case <-time.After(time.Minute):
		}
	})
}

// A unary call whose request is here may take as long as its caller allows.
func TestACallOutlivesTheTimeForItsRequest(t *testing.T) {
	body, err := protojson.Marshal(offerRequest(""))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		conn, stop := pipeTo(t, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			select {
			case <-time.After(20 * time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return handler(ctx, req)
		})
		defer stop()
		go func() {
			_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnect-Timeout-Ms: 30000\r\nContent-Length: %d\r\n\r\n%s",
				requestOffer, len(body), body)
		}()
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("got %s: %s, %v", res.Status, answer, err)
		}
	})
}

// pipeTo serves a public port in memory and connects to it. stop ends both.
func pipeTo(t *testing.T, interceptors ...grpc.UnaryServerInterceptor) (conn interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}, stop func()) {
	t.Helper()
	s, err := rpc.NewServer(rpc.ServerConfig{Name: "test", Public: true, Unary: interceptors})
	if err != nil {
		t.Fatal(err)
	}
	offerv1.RegisterOfferServiceServer(s, offers{})
	lis := newMemory()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServePublic(ctx, lis) }()
	c, err := lis.dial(ctx, "there")
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		_ = c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

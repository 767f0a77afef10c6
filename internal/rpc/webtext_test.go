package rpc_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// A client may end a quantum anywhere; a body that is no base64 is the client's fault, and typed.
func TestTextModeBodies(t *testing.T) {
	w := start(t, nil, nil)
	msg, err := proto.Marshal(&offerv1.WatchDropsRequest{ChannelId: "some"})
	if err != nil {
		t.Fatal(err)
	}
	body := envelope(0, msg)
	whole := base64.StdEncoding.EncodeToString(body)
	for _, c := range []struct {
		rule, text string
		code       codes.Code
		reason     errorsv1.Reason
	}{
		{"one quantum", whole, codes.OK, 0},
		{"a quantum after the envelope's head", base64.StdEncoding.EncodeToString(body[:5]) + base64.StdEncoding.EncodeToString(body[5:]), codes.OK, 0},
		{"a quantum for each byte", quanta(body), codes.OK, 0},
		{"not base64", "!!!!" + whole[4:], codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED},
		{"cut in a group", whole[:len(whole)-1], codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED},
		{"cut in a message", whole[:8], codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED},
	} {
		res, raw := post(t, w, request{method: watchDrops}, "application/grpc-web-text", []byte(c.text))
		a := webAnswer(t, res, unquantum(t, raw))
		if status.Code(a.err) != c.code || rpcerr.Reason(a.err) != c.reason {
			t.Errorf("%s: got %v (%v), want %v (%v)", c.rule, a.err, rpcerr.Reason(a.err), c.code, c.reason)
		}
	}
}

func quanta(raw []byte) string {
	var s strings.Builder
	for _, b := range raw {
		s.WriteString(base64.StdEncoding.EncodeToString([]byte{b}))
	}
	return s.String()
}

// A stream's message can be read while the stream goes on: that is what text mode is for.
func TestTextModeStreamsMessageByMessage(t *testing.T) {
	w := start(t, nil, nil)
	msg, err := proto.Marshal(&offerv1.WatchDropsRequest{ChannelId: "wait"})
	if err != nil {
		t.Fatal(err)
	}
	body := base64.StdEncoding.EncodeToString(envelope(0, msg))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // what never comes fails the test
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.edge+watchDrops, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc-web-text")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	// All of what was sent is here, to its last byte, though the stream goes on.
	var text, want []byte
	for i := range 3 {
		sent, err := proto.Marshal(&offerv1.WatchDropsResponse{ResumeToken: strconv.Itoa(i)})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, envelope(0, sent)...)
	}
	for group := make([]byte, 4); len(text) < base64.StdEncoding.EncodedLen(len(want)/3)*3; text = append(text, group...) {
		if _, err := io.ReadFull(res.Body, group); err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
	}
	if got := unquantum(t, text); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

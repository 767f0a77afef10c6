package rpc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/frame"
)

// request is one call in no protocol yet.
type request struct {
	method  string
	body    []byte // proto
	json    string // the same for Connect's JSON; empty: made of msg
	msg     proto.Message
	header  map[string]string
	timeout time.Duration
	stream  bool // server streaming
}

// answer is what came back.
type answer struct {
	err             error // a status error
	messages        [][]byte
	header, trailer http.Header
	http            int
}

func (r request) proto(t testing.TB) []byte {
	if r.msg == nil {
		return r.body
	}
	raw, err := proto.Marshal(r.msg)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (r request) jsonBody(t testing.TB) []byte {
	if r.msg == nil {
		return []byte(r.json)
	}
	raw, err := protojson.Marshal(r.msg)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// protocols are all the ways into a server.
var protocols = []struct {
	name string
	call func(testing.TB, *world, request) answer
}{
	{"native gRPC", func(t testing.TB, w *world, r request) answer { return callGRPC(t, w.native, r) }},
	{"gRPC at the edge", func(t testing.TB, w *world, r request) answer { return callGRPC(t, w.edge, r) }},
	{"gRPC-Web", callWeb},
	{"gRPC-Web text", callWebText},
	{"Connect proto", func(t testing.TB, w *world, r request) answer { return callConnect(t, w, r, "proto") }},
	{"Connect JSON", func(t testing.TB, w *world, r request) answer { return callConnect(t, w, r, "json") }},
}

func callGRPC(t testing.TB, target string, r request) answer {
	conn := dial(t, target, rpc.DialConfig{Timeout: -1})
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	if r.timeout == 0 { // no deadline on the wire
		cancel()
		ctx, cancel = context.WithCancel(context.Background())
	} else if r.timeout > 0 {
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), r.timeout)
	}
	defer cancel()
	for k, v := range r.header {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: r.stream}, r.method, grpc.ForceCodecV2(frame.Codec{}))
	if err != nil {
		return answer{err: err}
	}
	_ = stream.SendMsg(&frame.Frame{Payload: r.proto(t)})
	_ = stream.CloseSend()
	var a answer
	for {
		var f frame.Frame
		if a.err = stream.RecvMsg(&f); a.err != nil {
			break
		}
		a.messages = append(a.messages, f.Payload)
		if !r.stream {
			break
		}
	}
	if errors.Is(a.err, io.EOF) {
		a.err = nil
	}
	header, _ := stream.Header()
	a.header, a.trailer = canonical(header), canonical(stream.Trailer())
	return a
}

func canonical(md metadata.MD) http.Header {
	h := http.Header{}
	for k, vs := range md {
		for _, v := range vs {
			if strings.HasSuffix(k, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			h.Add(k, v)
		}
	}
	return h
}

func post(t testing.TB, w *world, r request, contentType string, body []byte) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+w.edge+r.method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for k, v := range r.header {
		if strings.HasSuffix(k, "-bin") {
			v = base64.StdEncoding.EncodeToString([]byte(v))
		}
		req.Header.Set(k, v)
	}
	if r.timeout > 0 {
		if strings.HasPrefix(contentType, "application/grpc") {
			req.Header.Set("Grpc-Timeout", fmt.Sprintf("%dm", r.timeout.Milliseconds()))
		} else {
			req.Header.Set("Connect-Timeout-Ms", strconv.FormatInt(r.timeout.Milliseconds(), 10))
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer of %s: %v", r.method, err)
	}
	return res, raw
}

func envelope(flags byte, payload []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(payload)))
	return append(out, payload...)
}

type piece struct {
	flags   byte
	payload []byte
}

func envelopes(t testing.TB, raw []byte) []piece {
	var out []piece
	for len(raw) > 0 {
		if len(raw) < 5 || len(raw) < 5+int(binary.BigEndian.Uint32(raw[1:])) {
			t.Fatalf("broken envelope: %q", raw)
		}
		end := 5 + int(binary.BigEndian.Uint32(raw[1:]))
		out = append(out, piece{raw[0], raw[5:end]})
		raw = raw[end:]
	}
	return out
}

// callWeb speaks gRPC-Web by hand, as a browser would.
func callWeb(t testing.TB, w *world, r request) answer {
	res, raw := post(t, w, r, "application/grpc-web+proto", envelope(0, r.proto(t)))
	return webAnswer(t, res, raw)
}

// callWebText speaks gRPC-Web's text mode, as the official client does.
func callWebText(t testing.TB, w *world, r request) answer {
	body := base64.StdEncoding.EncodeToString(envelope(0, r.proto(t)))
	res, raw := post(t, w, r, "application/grpc-web-text+proto", []byte(body))
	if ct := res.Header.Get("Content-Type"); ct != "application/grpc-web-text+proto" {
		t.Errorf("a text call was answered in %q", ct)
	}
	return webAnswer(t, res, unquantum(t, raw))
}

// unquantum decodes base64 that may be padded after every message.
func unquantum(t testing.TB, raw []byte) (out []byte) {
	if len(raw)%4 != 0 {
		t.Fatalf("%d characters of base64", len(raw))
	}
	for group := range slices.Chunk(raw, 4) {
		decoded, err := base64.StdEncoding.AppendDecode(nil, group)
		if err != nil {
			t.Fatalf("base64 %q: %v", group, err)
		}
		out = append(out, decoded...)
	}
	return out
}

func webAnswer(t testing.TB, res *http.Response, raw []byte) answer {
	a := answer{header: res.Header, trailer: http.Header{}, http: res.StatusCode}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("HTTP status %d, %q", res.StatusCode, raw)
	}
	for _, p := range envelopes(t, raw) {
		if p.flags&0x80 == 0 {
			a.messages = append(a.messages, p.payload)
			continue
		}
		for line := range strings.SplitSeq(strings.TrimSpace(string(p.payload)), "\r\n") {
			k, v, _ := strings.Cut(line, ":")
			a.trailer.Add(textproto.TrimString(k), textproto.TrimString(v))
		}
	}
	if a.trailer.Get("Grpc-Status") == "" { // trailers only
		a.trailer = a.header
	}
	a.err = trailerStatus(t, a.trailer)
	return a
}

func trailerStatus(t testing.TB, h http.Header) error {
	code, err := strconv.Atoi(h.Get("Grpc-Status"))
	if err != nil {
		t.Fatalf("grpc-status: %v in %v", err, h)
	}
	if code == 0 {
		return nil
	}
	var st spb.Status
	if details := h.Get("Grpc-Status-Details-Bin"); details != "" {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "="))
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(raw, &st); err != nil {
			t.Fatal(err)
		}
		return status.FromProto(&st).Err()
	}
	text, _ := url.PathUnescape(h.Get("Grpc-Message"))
	return status.Error(codes.Code(code), text)
}

// callConnect speaks Connect by hand, as curl would.
func callConnect(t testing.TB, w *world, r request, codec string) answer {
	body := r.proto(t)
	if codec == "json" {
		body = r.jsonBody(t)
	}
	if !r.stream {
		res, raw := post(t, w, r, "application/"+codec, body)
		a := answer{header: res.Header, trailer: http.Header{}, http: res.StatusCode}
		for k, vs := range res.Header {
			if name, ok := strings.CutPrefix(k, "Trailer-"); ok {
				a.trailer[name] = vs
			}
		}
		if res.StatusCode == http.StatusOK {
			a.messages = [][]byte{raw}
		} else {
			a.err = connectStatus(t, raw)
		}
		return a
	}
	res, raw := post(t, w, r, "application/connect+"+codec, envelope(0, body))
	a := answer{header: res.Header, trailer: http.Header{}, http: res.StatusCode}
	for _, p := range envelopes(t, raw) {
		if p.flags&2 == 0 {
			a.messages = append(a.messages, p.payload)
			continue
		}
		var end struct {
			Error    json.RawMessage
			Metadata map[string][]string
		}
		if err := json.Unmarshal(p.payload, &end); err != nil {
			t.Fatal(err)
		}
		for k, vs := range end.Metadata {
			for _, v := range vs {
				a.trailer.Add(k, v)
			}
		}
		if end.Error != nil {
			a.err = connectStatus(t, end.Error)
		}
	}
	return a
}

func connectStatus(t testing.TB, raw []byte) error {
	var e struct {
		Code, Message string
		Details       []struct{ Type, Value string }
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatalf("%v: %q", err, raw)
	}
	var code codes.Code
	name := strings.ToUpper(e.Code)
	if name == "CANCELED" {
		name = "CANCELLED"
	}
	if err := code.UnmarshalJSON([]byte(strconv.Quote(name))); err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	st := &spb.Status{Code: int32(code), Message: e.Message}
	for _, d := range e.Details {
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(d.Value, "="))
		if err != nil {
			t.Fatal(err)
		}
		st.Details = append(st.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type, Value: value})
	}
	return status.FromProto(st).Err()
}

func gzipped(t testing.TB, raw []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

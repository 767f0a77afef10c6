package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/router/slo"
)

// measureWeb compares a browser's calls through a router with the same calls through a proxy of grpc-go. Both are
// processes of their own before one node, and only their time counts: neither a client's nor the node's is in any row.
func measureWeb(ctx context.Context, s settings) (section, error) {
	program, err := s.build(ctx, "rimlight", nil)
	if err != nil {
		return section{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return section{}, err
	}
	cert, err := certificate(s.dir)
	if err != nil {
		return section{}, err
	}
	var cpu [][]time.Duration
	err = inWorld(ctx, s.dir, func(w *world) error {
		drop, err := w.openDrop(ctx, s.pick(1000, 100))
		if err != nil {
			return err
		}
		return s.besideRouterProcess(ctx, program.path, w.addr, cert, func(ctx context.Context, router int, routerAddr string) error {
			return s.besideListener(ctx, func(ctx context.Context, proxy int, proxyAddr string) error {
				cpu, err = s.compareProxies(ctx, w, drop, server{router, routerAddr}, server{proxy, proxyAddr})
				return err
			}, self, proxyArg, w.addr, cert.cert, cert.key)
		})
	})
	if err != nil {
		return section{}, err
	}
	return webSection(cpu), nil
}

// server is one that runs as a process of its own.
type server struct {
	pid  int
	addr string
}

func (s settings) compareProxies(ctx context.Context, w *world, drop string, router, proxy server) (cpu [][]time.Duration, err error) {
	insecure := &tls.Config{InsecureSkipVerify: true} // the certificates were made for this run
	viaGRPC := func(name string, at server) (contender, error) {
		conn, err := w.dial(at.addr, rpc.DialConfig{Timeout: callTimeout, TLS: insecure})
		return w.requests(name, drop, at.pid, conn), err
	}
	rival, err := viaGRPC("grpc-go", proxy)
	if err != nil {
		return nil, err
	}
	native, err := viaGRPC("router, gRPC", router)
	if err != nil {
		return nil, err
	}
	browser := newWebConn(router.addr, insecure)
	defer browser.client.CloseIdleConnections()
	contenders := []contender{rival, native, w.requests("router, gRPC-Web", drop, router.pid, browser)}
	for _, c := range contenders {
		if err := waitGranted(ctx, c); err != nil {
			return nil, err
		}
	}
	cpu, err = compareCPU(ctx, s.pick(15, 1), s.pick(5000, 100), append(contenders, windows(drop))...)
	if err != nil {
		return nil, err
	}
	for i := range cpu[len(contenders)] {
		cpu[len(contenders)][i] /= windowsRepeat
	}
	return cpu, nil
}

// windowsRepeat is how often a contender's call enters one in the windows, which takes too little time to be measured alone.
const windowsRepeat = 100

// windows enters calls in a router's SLO windows: each in its region's, its flow's and its drop's.
func windows(drop string) contender {
	w, begin, took := slo.NewWindows(), time.Now(), 2*time.Millisecond
	samples := []slo.Sample{
		{Key: slo.Key{Scope: slo.Region, Name: "bench"}, Took: took}, {Key: slo.Key{Scope: slo.Flow, Name: "RequestOffer"}, Took: took},
		{Key: slo.Key{Scope: slo.Drop, Name: drop}, Took: took},
	}
	return contender{name: "windows", call: func(context.Context) error {
		for range windowsRepeat {
			w.Record(time.Since(begin), "bench/decision", samples...)
		}
		return nil
	}}
}

// telemetryShare is the aim of all telemetry in a router's processor time of a call.
const telemetryShare = 0.05

// requests asks for offers over a connection to a process.
func (w *world) requests(name, drop string, pid int, conn grpc.ClientConnInterface) contender {
	client := offerv1.NewOfferServiceClient(conn)
	return contender{name: name, pid: pid, call: func(ctx context.Context) error { return granted(client.RequestOffer(ctx, w.offer(drop))) }}
}

// waitGranted waits until calls succeed: a router listens before it has asked its regions.
func waitGranted(ctx context.Context, c contender) error {
	ctx, cancel := context.WithTimeout(ctx, upWithin)
	defer cancel()
	for {
		err := c.call(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("waiting for an offer through %s: %w", c.name, err)
		}
	}
}

func webSection(cpu [][]time.Duration) section {
	t := table{header: []string{"CPU of the process in the middle, per RequestOffer", "median µs", "lowest to highest round", "ratio to grpc-go's proxy"}}
	for i, name := range []string{"transparent proxy of grpc-go: gRPC", "router: gRPC", "router: gRPC-Web, binary"} {
		t.add(name, micros(median(cpu[i])), spread(cpu[i], micros), times(ratio(cpu[i], cpu[0])))
	}
	return section{
		tables: []table{t},
		aim: fmt.Sprintf("gRPC-Web costs the router %s µs more than gRPC, which costs it %s µs more than the proxy.\n\n"+
			"SLO windows, which are in both of the router's rows: %s µs a call (%s), %.1f %% of the last row. Aim for all telemetry of a router: %.0f %%.",
			micros(median(differences(cpu[2], cpu[1]))), micros(median(differences(cpu[1], cpu[0]))),
			micros(median(cpu[3])), spread(cpu[3], micros), 100*ratio(cpu[3], cpu[2]), 100*telemetryShare),
		cannot: fmt.Sprintf("what the proxy would cost if it did a router's work: it has grpc-go's defaults and hands bytes on, and chooses, limits, "+
			"counts, checks and remembers nothing. Nor what gRPC-Web would cost behind it: it does not speak that. Every row is TLS with HTTP/2 from one "+
			"connection with %d callers, so handshakes are not in it, and plaintext to one node. Both are processes of their own and only their time is "+
			"counted, by the kernel, in ticks of 10 ms; client and node share the machine's cores with them. The windows were measured in the client's process, with as many "+
			"callers; the other telemetry, kept decisions and metrics, cannot be taken out of a router and is in its rows only.", callers),
	}
}

// webConn is a connection that speaks gRPC-Web, binary, over HTTP/2 and TLS, unary calls only.
type webConn struct {
	client *http.Client
	base   string
}

func newWebConn(addr string, secure *tls.Config) webConn {
	var h2 http.Protocols
	h2.SetHTTP2(true)
	return webConn{client: &http.Client{Transport: &http.Transport{TLSClientConfig: secure, Protocols: &h2}}, base: "https://" + addr}
}

const (
	envelopePrefix = 5    // one byte of flags, four of length
	trailerFlag    = 0x80 // of the envelope that ends an answer
)

// Invoke implements grpc.ClientConnInterface.
func (c webConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, envelopePrefix), args.(proto.Message))
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-envelopePrefix))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc-web+proto")
	req.Header.Set("X-Grpc-Web", "1")
	req.Header.Set("Grpc-Timeout", fmt.Sprintf("%dS", int(callTimeout.Seconds()))) // as the other rows
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	message, rest, err := cutEnvelope(raw)
	if err != nil || len(rest) == 0 || rest[0] != trailerFlag || !bytes.Contains(rest, []byte("grpc-status: 0\r\n")) {
		return fmt.Errorf("%s was not answered well: %s over %s, grpc-status %q", method, res.Status, res.Proto, res.Header.Get("Grpc-Status"))
	}
	return proto.Unmarshal(message, reply.(proto.Message))
}

var errCut = errors.New("an envelope is cut short")

// cutEnvelope gives the payload of the first envelope, and what follows it.
func cutEnvelope(raw []byte) (payload, rest []byte, err error) {
	if len(raw) < envelopePrefix {
		return nil, nil, errCut
	}
	end := envelopePrefix + uint64(binary.BigEndian.Uint32(raw[1:]))
	if uint64(len(raw)) < end {
		return nil, nil, errCut
	}
	return raw[envelopePrefix:end], raw[end:], nil
}

// NewStream implements grpc.ClientConnInterface.
func (webConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

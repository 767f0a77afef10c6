package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/telemetry"
)

const (
	// Slow callers hold a connection, not memory, for this long at most: headers, and a request of one message.
	headerTimeout, bodyTimeout = 5 * time.Second, 10 * time.Second
	// A kept connection saves a page its next handshake; a drop lasts two minutes.
	httpIdleTimeout = 2 * time.Minute
	// A dead phone is noticed by a ping, not by the next message.
	httpPingEvery, httpPingTimeout = 30 * time.Second, 10 * time.Second
	httpWriteTimeout               = 30 * time.Second
	// Compressing less costs more than it saves.
	compressMinBytes = 1024
	// How long a browser may remember that it may call, in seconds; Chromium's own limit.
	corsMaxAge = 7200
)

// ownHeaders are the response headers and trailers that pages read.
var ownHeaders = []string{"Rimlight-Decision", "Rimlight-Region"}

// ServePublic serves with net/http until the context ends, on one port: gRPC (also without TLS), gRPC-Web (binary and text) and
// Connect (JSON and proto, unary with GET, and streaming), and what is no RPC by cfg.HTTP. It closes the listener and
// returns nil after a shutdown, when every handler did.
func (s *Server) ServePublic(ctx context.Context, lis net.Listener) error {
	drain, stopStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStreams()
	l := &listener{Server: s, drain: drain}

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	var running busy
	handler := newEdge(l)
	guarded := &guard{Listener: lis, limit: int64(s.limits.connections), metrics: s.edgeMetrics}
	lis = guarded
	if s.cfg.TLS != nil {
		secure := s.cfg.TLS.Clone()
		secure.NextProtos = []string{"h2", "http/1.1"}
		lis = tls.NewListener(guarded, secure)
	}
	web := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.enter()
			defer running.leave()
			connOf(r).asked.Store(true)
			handler.ServeHTTP(w, r)
		}),
		Protocols:         protocols,
		ConnContext:       connContext,
		ConnState:         connState,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    s.limits.headerBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: int(s.limits.streams),
			SendPingTimeout:      httpPingEvery, PingTimeout: httpPingTimeout, WriteByteTimeout: httpWriteTimeout,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // broken handshakes and the like: strangers' faults
	}

	served := make(chan error, 1)
	go func() { served <- web.Serve(lis) }()
	select {
	case err := <-served:
		_ = web.Close() // Serve's error says more
		<-running.wait()
		return fmt.Errorf("rpc: serving %s: %w", s.cfg.Name, err)
	case <-ctx.Done():
	}

	s.health.Shutdown()
	stopStreams()
	patience, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	graceful := make(chan struct{})
	go func() { defer close(graceful); _ = web.Shutdown(patience) }() // its only error is patience's
	l.awaitIdle(graceful)
	giveUp()
	<-graceful
	if err := web.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Warn("closing the connections", "error", err.Error())
	}
	<-running.wait()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("rpc: serving %s: %w", s.cfg.Name, err)
	}
	return nil
}

// edge routes HTTP requests: to registered methods, to methods that are forwarded, to pages.
type edge struct {
	l      *listener
	routes map[string]http.Handler // by path: registered methods, and forwarded ones that this binary knows
	talks  map[string]bool         // those whose callers send as long as they like
	// Forwarded methods that only their callers know. Their shape is not known either: unary as Connect frames it, or
	// any kind of stream, full-duplex where the HTTP version can.
	unary, halfDuplex, fullDuplex http.Handler
	refuse                        *connecthttp.ErrorWriter
	pages                         http.Handler
}

func newEdge(l *listener) http.Handler {
	e := &edge{l: l, routes: map[string]http.Handler{}, talks: map[string]bool{}, refuse: connecthttp.NewErrorWriter(), pages: l.cfg.HTTP}
	if e.pages == nil {
		e.pages = http.NotFoundHandler()
	}
	for name, svc := range l.services {
		for i := range svc.desc.Methods {
			m := &svc.desc.Methods[i]
			e.route("/"+name+"/"+m.MethodName, false, false, l.edgeUnary(svc, m))
		}
		for i := range svc.desc.Streams {
			d := &svc.desc.Streams[i]
			e.route("/"+name+"/"+d.StreamName, d.ClientStreams, d.ServerStreams, l.edgeStream(svc, d))
		}
	}
	if l.cfg.Unknown != nil {
		e.routeForwarded()
	}
	const anyMethod = "/unknown/unknown" // the path says which
	e.unary = l.procedure(connect.Spec{Procedure: anyMethod, StreamType: connect.StreamTypeUnary}, l.edgeUnknown)
	e.halfDuplex = l.procedure(connect.Spec{Procedure: anyMethod, StreamType: connect.StreamTypeClient}, l.edgeUnknown)
	e.fullDuplex = l.procedure(connect.Spec{Procedure: anyMethod, StreamType: connect.StreamTypeBidi}, l.edgeUnknown)
	if !l.cfg.Public {
		return textMode(e)
	}
	exposed := connectcors.ExposedHeaders()
	for _, name := range ownHeaders {
		exposed = append(exposed, name, "Trailer-"+name) // Connect's unary calls carry trailers so
	}
	return textMode(cors.New(cors.Options{
		AllowedOrigins: []string{"*"}, // viewers' pages are anybody's; without credentials, so a page learns nothing new
		AllowedMethods: connectcors.AllowedMethods(),
		AllowedHeaders: append(connectcors.AllowedHeaders(), "Authorization", telemetry.Header),
		ExposedHeaders: exposed,
		MaxAge:         corsMaxAge,
	}).Handler(e))
}

func (e *edge) route(procedure string, clientStreams, serverStreams bool, serve connect.ServerFunc) {
	spec := connect.Spec{Procedure: procedure}
	if clientStreams {
		spec.StreamType |= connect.StreamTypeClient
	}
	if serverStreams {
		spec.StreamType |= connect.StreamTypeServer
	}
	if m, ok := methodDescriptor(procedure); ok {
		options, _ := m.Options().(*descriptorpb.MethodOptions)
		if options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
			spec.IdempotencyLevel = connect.IdempotencyNoSideEffects // allows GET
		}
	}
	e.routes[procedure], e.talks[procedure] = e.l.procedure(spec, serve), clientStreams
}

// routeForwarded gives the platform's methods their own shapes, though others serve them.
func (e *edge) routeForwarded() {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			if _, registered := e.l.services[string(service.FullName())]; registered {
				continue
			}
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				path := "/" + string(service.FullName()) + "/" + string(m.Name())
				e.route(path, m.IsStreamingClient(), m.IsStreamingServer(), e.l.edgeUnknown)
			}
		}
		return true
	})
}

// procedure is connect's handler for one method.
func (l *listener) procedure(spec connect.Spec, serve connect.ServerFunc) http.Handler {
	server := connect.NewServer()
	server.Register(connect.Method{Spec: spec, Handler: serve})
	mux := capture{}
	connecthttp.Mount(mux, server,
		connecthttp.WithCodecs(protoCodec{connectproto.NewBinaryCodec()}, connectproto.NewJSONCodec()),
		connecthttp.WithReadMaxBytes(l.limits.recv(spec.Procedure)),
		connecthttp.WithCompressMinBytes(compressMinBytes))
	return mux[spec.Procedure]
}

// capture is a connecthttp.ServeMux that remembers handlers: edge routes by itself, as it must see unknown services too.
type capture map[string]http.Handler

// Handle implements connecthttp.ServeMux.
func (c capture) Handle(pattern string, handler http.Handler) { c[pattern] = handler }

// ServeHTTP implements http.Handler.
func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	patient := newAnswerWriter(w, r, e.l.edgeMetrics.gaveUp.WithLabelValues(gaveUpAnswer))
	defer patient.end()
	e.serve(patient, r)
}

func (e *edge) serve(w http.ResponseWriter, r *http.Request) {
	if connOf(r).surplus {
		w.Header().Set("Connection", "close")
		e.turnAway(w, r, refusedConnection, errOverloaded("connections"))
		return
	}
	handler, known := e.routes[r.URL.Path]
	contentType := r.Header.Get("Content-Type")
	streaming := strings.HasPrefix(contentType, "application/grpc") || strings.HasPrefix(contentType, "application/connect+")
	switch {
	case known:
	case !e.callsUnknown(r, streaming):
		e.pages.ServeHTTP(w, r)
		return
	case !streaming:
		handler = e.unary
	case r.ProtoMajor < 2:
		handler = e.halfDuplex
	default:
		handler = e.fullDuplex
	}
	if err := checkHeaders(r, known); err != nil {
		e.turnAway(w, r, refusedHeaders, err)
		return
	}
	if !streaming || known && !e.talks[r.URL.Path] {
		// A failure means that this writer has no deadlines; the call's own still ends it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	}
	handler.ServeHTTP(w, r)
}

// turnAway refuses a call that no interceptor sees, in the caller's protocol.
func (e *edge) turnAway(w http.ResponseWriter, r *http.Request, why string, err error) {
	e.l.edgeMetrics.refused.WithLabelValues(why).Inc()
	if err := e.refuse.Write(w, r, connectError(err)); err != nil {
		e.l.log.Debug("refusing a call", "error", err.Error())
	}
}

// callsUnknown tells an RPC to a method that nobody registered from a page's form: the path names a method, and where the
// content type alone does not tell, the service has a package.
func (e *edge) callsUnknown(r *http.Request, streaming bool) bool {
	service, method := split(r.URL.Path)
	if r.Method != http.MethodPost || service == "" || method == "" || strings.Contains(method, "/") {
		return false
	}
	return e.refuse.IsSupported(r) && (streaming || strings.Contains(service, "."))
}

var (
	grpcTimeout          = regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`)
	connectTimeoutMillis = regexp.MustCompile(`^[0-9]{1,10}$`)
)

// checkHeaders refuses what connect would refuse too, but without a reason.
func checkHeaders(r *http.Request, known bool) error {
	if headerListSize(r.Header) > publicHeaderBytes {
		return rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE,
			fmt.Sprintf("the headers are larger than %d bytes", publicHeaderBytes), rpcerr.Meta("limit_bytes", strconv.Itoa(publicHeaderBytes)))
	}
	for _, name := range []string{"Content-Encoding", "Grpc-Encoding", "Connect-Content-Encoding"} {
		if !compressionKnown(r.Header.Get(name)) {
			return errCompression()
		}
	}
	if t := r.Header.Get("Grpc-Timeout"); t != "" && !grpcTimeout.MatchString(t) {
		return errMalformedHeader("grpc-timeout is no time")
	}
	if t := r.Header.Get("Connect-Timeout-Ms"); t != "" && !connectTimeoutMillis.MatchString(t) {
		return errMalformedHeader("connect-timeout-ms is no number of milliseconds")
	}
	if v := r.Header.Get("Connect-Protocol-Version"); v != "" && v != "1" {
		return errMalformedHeader("connect-protocol-version must be 1")
	}
	if known && r.Method == http.MethodGet {
		query := r.URL.Query()
		codec := query.Get("encoding")
		if !query.Has("message") || codec != connect.CodecNameProto && codec != connect.CodecNameJSON {
			return errMalformedHeader("a call by GET needs the parameters encoding=json or proto, and message")
		}
		if !compressionKnown(query.Get("compression")) {
			return errCompression()
		}
	}
	return nil
}

func compressionKnown(name string) bool {
	return name == "" || name == connect.CompressionNameIdentity || name == connect.CompressionNameGzip
}

// errCompression has the code that gRPC's compression rules ask for.
func errCompression() error {
	return rpcerr.New(codes.Unimplemented, errorsv1.Reason_REASON_MALFORMED, "messages may be plain or compressed with gzip, nothing else")
}

// headerListSize counts as HTTP/2 does (RFC 9113, 6.5.2). net/http counts bytes, and lets a caller bring so many short
// headers that no listener behind a router would take them: the call would fail there, and look like the region's fault.
func headerListSize(header http.Header) (size int) {
	const perField = 32
	for key, values := range header {
		for _, value := range values {
			size += len(key) + len(value) + perField
		}
	}
	return size
}

func errMalformedHeader(text string) error {
	return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED, text)
}

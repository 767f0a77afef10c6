package rpc

import (
	"bufio"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
)

// gRPC-Web's text mode is the binary mode in base64, for browsers' clients that read a response as text and so see its
// messages one by one: the official grpc-web client streams only so. See PROTOCOL-WEB.md of grpc/grpc: a sender may end a
// base64 quantum, with its padding, wherever it likes; here every flush ends one, so that what is flushed can be read.
const (
	webBinary = "application/grpc-web"
	webText   = "application/grpc-web-text"
)

// textMode lets a handler of binary gRPC-Web take text calls too.
func textMode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		contentType := r.Header.Get("Content-Type")
		if !strings.HasPrefix(contentType, webText) {
			next.ServeHTTP(w, r)
			return
		}
		binary := r.Clone(r.Context())
		binary.Header.Set("Content-Type", webBinary+strings.TrimPrefix(contentType, webText))
		binary.Header.Del("Content-Length")
		binary.ContentLength = -1
		binary.Body = &quantumReader{body: r.Body, in: bufio.NewReader(r.Body)}
		text := &textWriter{ResponseWriter: w}
		next.ServeHTTP(text, binary)
		text.endQuantum()
	})
}

// errNotBase64 is a body in text mode that is none.
var errNotBase64 = errors.New("the body is not base64")

// quantumReader decodes base64 that may be padded anywhere.
type quantumReader struct {
	body io.Closer
	in   *bufio.Reader
	out  []byte // decoded, not read yet
	buf  [3]byte
}

// Read implements io.Reader.
func (q *quantumReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := copy(p, q.out)
	q.out = q.out[n:]
	for n < len(p) {
		if n > 0 && q.in.Buffered() < 4 {
			break // what has arrived is read; more may take its time
		}
		var group [4]byte
		if _, err := io.ReadFull(q.in, group[:]); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errNotBase64
			}
			if n > 0 {
				break // the next call tells
			}
			return 0, err
		}
		decoded, err := base64.StdEncoding.Decode(q.buf[:], group[:])
		if err != nil {
			return n, errNotBase64
		}
		took := copy(p[n:], q.buf[:decoded])
		n += took
		q.out = q.buf[took:decoded]
	}
	return n, nil
}

// Close implements io.Closer.
func (q *quantumReader) Close() error { return q.body.Close() }

// textWriter encodes a response. Its handler is the only one to call it.
type textWriter struct {
	http.ResponseWriter
	encoder     io.WriteCloser // of the quantum that is open; nil between two
	wroteHeader bool
}

// WriteHeader implements http.ResponseWriter.
func (t *textWriter) WriteHeader(code int) {
	t.wroteHeader = true
	if ct := t.Header().Get("Content-Type"); strings.HasPrefix(ct, webBinary) {
		t.Header().Set("Content-Type", webText+strings.TrimPrefix(ct, webBinary))
	}
	t.Header().Del("Content-Length")
	t.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (t *textWriter) Write(p []byte) (int, error) {
	if !t.wroteHeader {
		t.WriteHeader(http.StatusOK)
	}
	if t.encoder == nil {
		t.encoder = base64.NewEncoder(base64.StdEncoding, t.ResponseWriter)
	}
	return t.encoder.Write(p)
}

// endQuantum writes what the encoder holds back. An error means that the caller went away, as the next write will tell.
func (t *textWriter) endQuantum() {
	if t.encoder != nil {
		_ = t.encoder.Close()
		t.encoder = nil
	}
}

// Flush implements http.Flusher.
func (t *textWriter) Flush() { _ = t.FlushError() }

// FlushError implements what http.ResponseController looks for.
func (t *textWriter) FlushError() error {
	if !t.wroteHeader {
		t.WriteHeader(http.StatusOK)
	}
	t.endQuantum()
	return http.NewResponseController(t.ResponseWriter).Flush()
}

// Unwrap gives http.ResponseController the deadlines.
func (t *textWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

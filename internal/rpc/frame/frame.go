// Package frame carries messages as the bytes they came in.
//
// The router forwards calls without decoding them: it receives a Frame, sends the same Frame on, and the bytes are
// untouched. Codec is a drop-in for grpc-go's "proto" codec: it passes Frames through and hands every other message
// (health checks, google.rpc.Status) to the real one.
package frame

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec falls back to
	"google.golang.org/grpc/mem"
)

// Frame is one encoded message.
type Frame struct {
	Payload []byte
}

// Codec implements encoding.CodecV2. Use it with grpc.ForceServerCodecV2 and grpc.ForceCodecV2.
type Codec struct{}

var fallback = encoding.GetCodecV2("proto")

// Marshal implements encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*Frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.Payload)}, nil
	}
	return fallback.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. The payload is a copy: grpc-go reuses its buffers.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*Frame); ok {
		f.Payload = data.Materialize()
		return nil
	}
	return fallback.Unmarshal(data, v)
}

// Name implements encoding.CodecV2: on the wire it is "proto".
func (Codec) Name() string { return "proto" }

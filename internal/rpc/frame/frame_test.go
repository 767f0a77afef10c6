package frame_test

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/frame"
)

func TestFramesPassUntouchedAndCopied(t *testing.T) {
	in := []byte("\xff not a message")
	out, err := (frame.Codec{}).Marshal(&frame.Frame{Payload: in})
	if err != nil || !bytes.Equal(out.Materialize(), in) {
		t.Fatalf("got %q, %v", out.Materialize(), err)
	}
	wire := bytes.Clone(in)
	var f frame.Frame
	if err := (frame.Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, &f); err != nil {
		t.Fatal(err)
	}
	wire[0] = 0 // the transport reuses its buffer
	if !bytes.Equal(f.Payload, in) {
		t.Errorf("got %q, want %q", f.Payload, in)
	}
}

func TestOtherMessagesTakeTheRealCodec(t *testing.T) {
	in := &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 5}
	wire, err := (frame.Codec{}).Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := &offerv1.Money{}
	if err := (frame.Codec{}).Unmarshal(wire, out); err != nil || !proto.Equal(in, out) {
		t.Errorf("got %v, %v, want %v", out, err, in)
	}
}

package forward

import (
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/router/arbiter"
)

// method is what the data plane must know of an OfferService method. All of it but the kind comes from the descriptor.
type method struct {
	label     string // for metrics
	kind      arbiter.Kind
	retriable bool // its idempotency_level allows a second attempt
	stream    bool // the server streams; no method of OfferService has a streaming client
}

// kinds of OfferService methods; those that are missing are reads.
var kinds = map[protoreflect.Name]arbiter.Kind{
	"RequestOffer": arbiter.Offer,
	"ClaimOffer":   arbiter.Offer,
	"RedeemOffer":  arbiter.Redeem,
}

func offerMethods() map[string]method {
	service := offerv1.File_rimlight_offer_v1_offer_service_proto.Services().ByName("OfferService")
	found := map[string]method{}
	for i := range service.Methods().Len() {
		d := service.Methods().Get(i)
		kind, ok := kinds[d.Name()]
		if !ok {
			kind = arbiter.Read
		}
		found["/"+string(service.FullName())+"/"+string(d.Name())] = method{
			label: string(d.Name()), kind: kind, retriable: retriable(d), stream: d.IsStreamingServer(),
		}
	}
	return found
}

// retriable tells whether a method may be sent twice.
func retriable(d protoreflect.MethodDescriptor) bool {
	options, ok := d.Options().(*descriptorpb.MethodOptions)
	return ok && options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}

func callOptions(maxBytes int) []grpc.CallOption {
	return []grpc.CallOption{
		grpc.ForceCodecV2(frame.Codec{}), grpc.MaxCallRecvMsgSize(maxBytes), grpc.MaxCallSendMsgSize(maxBytes),
	}
}

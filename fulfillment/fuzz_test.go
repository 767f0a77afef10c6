package fulfillment_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// FuzzRequests sends any message to any unary method, without the validation that stands before the service in real
// life: nothing may end in INTERNAL or UNKNOWN, and every refusal has a reason.
func FuzzRequests(f *testing.F) {
	l := start(f, openMemory(f), fulfillment.Config{}, nil)
	var methods []protoreflect.MethodDescriptor
	for _, d := range []grpc.ServiceDesc{fulfillmentv1.CatalogService_ServiceDesc, fulfillmentv1.StockService_ServiceDesc, fulfillmentv1.FenceService_ServiceDesc, fulfillmentv1.OrderService_ServiceDesc} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(d.ServiceName))
		if err != nil {
			f.Fatal(err)
		}
		for i := range found.(protoreflect.ServiceDescriptor).Methods().Len() {
			if m := found.(protoreflect.ServiceDescriptor).Methods().Get(i); !m.IsStreamingServer() {
				methods = append(methods, m)
			}
		}
	}
	n := l.join()
	drop := l.createDrop(50).GetDrop().GetDropId()
	n.grant(drop, 5)
	c := n.take(drop)
	for i, seed := range []proto.Message{
		dropRequest(5), &fulfillmentv1.GetDropRequest{DropId: drop}, &fulfillmentv1.ListDropsRequest{PageSize: 1, PageToken: "AAAA"},
		n.joinRequest(), &fulfillmentv1.GrantLeaseRequest{RequestId: newID(), NodeId: n.id, Epoch: 1, DropId: drop, WantedUnits: 3},
		&fulfillmentv1.ReturnUnitsRequest{NodeId: n.id, Epoch: 1, LeaseId: c.LeaseId, Serials: []uint32{c.Serial, 0, 1 << 31}},
		&fulfillmentv1.HeartbeatRequest{NodeId: n.id, Epoch: 1, Held: []*fulfillmentv1.HeldLease{{LeaseId: c.LeaseId, DropId: drop, Untouched: 1 << 31}}},
		&fulfillmentv1.SettleUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{c, c}}, &fulfillmentv1.ReleaseUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{c}},
		&fulfillmentv1.PlaceOrdersRequest{Orders: []*fulfillmentv1.Order{{OrderId: newID(), DropId: drop, Serial: 1, PurchaseId: "p"}}},
	} {
		raw, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), raw)
		for m := range methods {
			if methods[m].Input().FullName() == seed.ProtoReflect().Descriptor().FullName() {
				f.Add(uint8(m), raw)
			}
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, raw []byte) {
		m := methods[int(method)%len(methods)]
		in, out := message(t, m.Input()), message(t, m.Output())
		if proto.Unmarshal(raw, in) != nil {
			return // no message of this type: the listener refuses it before any handler
		}
		err := l.conn.Invoke(t.Context(), "/"+string(m.Parent().FullName())+"/"+string(m.Name()), in, out)
		if code := status.Code(err); code == codes.Internal || code == codes.Unknown || err != nil && rpcerr.Info(err) == nil {
			t.Fatalf("%s: %v", m.FullName(), err)
		}
	})
}

func message(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

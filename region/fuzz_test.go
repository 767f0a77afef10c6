package region_test

import (
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// fuzzCall gives whatever decodes to a handler, behind the validation of the servers' chain: it may refuse, with one of our
// reasons, and it may not fail.
func fuzzCall[M any, P interface {
	*M
	proto.Message
}](f *testing.F, seed P, call func(t *testing.T, request P) error) {
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := proto.Marshal(seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		request := P(new(M))
		if proto.Unmarshal(raw, request) != nil {
			return // the server's codec answers that
		}
		if validator.Validate(request) != nil {
			return // and its chain that
		}
		err := call(t, request)
		if c := status.Code(err); c == codes.Internal || c == codes.Unknown || err != nil && rpcerr.Info(err) == nil {
			t.Errorf("got %v for %v", err, request)
		}
	})
}

func FuzzRequestOffer(f *testing.F) {
	node, drop := newMemoryStanding(f, 1000)
	fuzzCall(f, &offerv1.RequestOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop.Drop.DropId, RequestId: "r"}, ViewerSessionId: session(1),
		Consent: &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_PERSONALISATION}},
	}, func(t *testing.T, request *offerv1.RequestOfferRequest) error {
		_, err := node.RequestOffer(t.Context(), request)
		return err
	})
}

func FuzzRedeemOffer(f *testing.F) {
	node, drop := newMemoryStanding(f, 1000)
	m, err := node.RequestOffer(f.Context(), &offerv1.RequestOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop.Drop.DropId, RequestId: "r"}, ViewerSessionId: session(1)})
	if err != nil {
		f.Fatal(err)
	}
	fuzzCall(f, &offerv1.RedeemOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop.Drop.DropId}, ViewerSessionId: session(1), OfferToken: m.GetGranted().GetOfferToken(),
		PaymentReference: "tp_ok", DeliveryDetails: []byte("details"),
		Consent: &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}},
	}, func(t *testing.T, request *offerv1.RedeemOfferRequest) error {
		_, err := node.RedeemOffer(t.Context(), request)
		return err
	})
}

func FuzzClaimOffer(f *testing.F) {
	node, drop := newMemoryStanding(f, 1000)
	fuzzCall(f, &offerv1.ClaimOfferRequest{
		Hints: &offerv1.RoutingHints{DropId: drop.Drop.DropId, RequestId: "r"}, ViewerSessionId: session(1), PaymentReference: "tp_ok",
		MaxPrice: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1990},
	}, func(t *testing.T, request *offerv1.ClaimOfferRequest) error {
		_, err := node.ClaimOffer(t.Context(), request)
		return err
	})
}

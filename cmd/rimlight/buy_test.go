package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/token"
)

// dyingShop accepts a purchase, and does nothing for the client any more.
type dyingShop struct {
	offerv1.UnimplementedOfferServiceServer
	receipt string // signed with a key that the client does not know
	kept    string // what of it the client had on its disk when it asked for the key
}

const soldPurchase = "0123456789abcdef0123456789abcdef"

func (*dyingShop) WatchDrops(_ *offerv1.WatchDropsRequest, stream grpc.ServerStreamingServer[offerv1.WatchDropsResponse]) error {
	drop := &offerv1.Drop{DropId: "01900000-0000-7000-8000-000000000000", State: offerv1.DropState_DROP_STATE_OPEN}
	return stream.Send(&offerv1.WatchDropsResponse{Event: &offerv1.WatchDropsResponse_Changed{Changed: drop}})
}

func (d *dyingShop) ClaimOffer(context.Context, *offerv1.ClaimOfferRequest) (*offerv1.ClaimOfferResponse, error) {
	return &offerv1.ClaimOfferResponse{Decision: &offerv1.ClaimOfferResponse_Accepted{
		Accepted: &offerv1.ClaimAccepted{Receipt: d.receipt, PurchaseId: soldPurchase, Region: "europe-west3"},
	}}, nil
}

func (d *dyingShop) ListKeys(context.Context, *offerv1.ListKeysRequest) (*offerv1.ListKeysResponse, error) {
	var saved savedReceipt
	if err := loadFile("receipts", soldPurchase, &saved); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	d.kept = saved.Receipt
	return nil, status.Error(codes.PermissionDenied, "gone")
}

// A receipt is what is left of a purchase when everything else is lost, so it is on the client's disk before anything
// else is done: the process may be killed at the next step.
func TestAReceiptIsKeptBeforeItsPurchaseEnds(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seed, err := token.NewSeed(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_NODE, "", "")
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := signer.Receipt(&offerv1.Receipt{PurchaseId: soldPurchase})
	if err != nil {
		t.Fatal(err)
	}
	shop := &dyingShop{receipt: receipt}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	offerv1.RegisterOfferServiceServer(server, shop)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) }) // ends with Stop
	t.Cleanup(func() { server.Stop(); serving.Wait() })

	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"buy", "--claim", "--router", "http://" + lis.Addr().String()}, &out, &errOut)
	if code == exitDone || shop.kept != receipt {
		t.Errorf("at the call after the receipt's, %d bytes were kept; buy: exit %d, %s", len(shop.kept), code, errOut.String())
	}
	if !strings.Contains(errOut.String(), "rimlight purchase get "+soldPurchase) {
		t.Errorf("buy does not say how to go on: %s", errOut.String())
	}
	dir, err := configDir("receipts")
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || filepath.Ext(files[0].Name()) != ".json" {
		t.Errorf("beside the receipt there is something else: %v, %v", files, err)
	}
}

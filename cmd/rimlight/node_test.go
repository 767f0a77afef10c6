package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sealed"
)

// address is as long as one may be.
var address = "CANARY Rue de la Paix 1" + strings.Repeat(".", sealed.MaxDetails-len("CANARY Rue de la Paix 1"))

// startNode starts `rimlight node` as a process.
func (p *platform) startNode(t *testing.T, dir, packTime string, log *bytes.Buffer, flags ...string) *osexec.Cmd {
	t.Helper()
	cmd := osexec.Command(os.Args[0], append([]string{"node", "--fulfillment", p.Fulfillment, "--data", filepath.Join(dir, "node"),
		"--tokens", filepath.Join(dir, "tokens.json"), "--skus", "poster", "--pack-time", packTime}, flags...)...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead already
		_ = cmd.Wait()
	})
	return cmd
}

func (p *platform) orderIn(t *testing.T, state fulfillmentv1.OrderState) *fulfillmentv1.Order {
	t.Helper()
	var found *fulfillmentv1.Order
	p.until(t, state.String(), func() bool {
		conn, err := rpc.Dial(p.Fulfillment, rpc.DialConfig{Token: p.Tokens[auth.Finance]})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		resp, err := fulfillmentv1.NewOrderServiceClient(conn).ListOrders(t.Context(), &fulfillmentv1.ListOrdersRequest{States: []fulfillmentv1.OrderState{state}})
		if err != nil || len(resp.GetOrders()) == 0 {
			return false
		}
		found = resp.GetOrders()[0]
		return true
	})
	return found
}

// A poster is bought; the node is killed between its word and the parcel, and the parcel leaves, once. A second poster
// breaks, and its buyer gets the money back.
func TestAPhysicalOrderSurvivesTheDeathOfItsNode(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a platform and kills a node; run without -short")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	dir := t.TempDir()
	p := startPlatform(t, dir, []string{"us-central1"}, []string{"us-west1"}, false)
	code, out, stderr := p.verb(t, "drops", "create", "--channel", "test", "--title", "Poster", "--units", "20", "--price", "19", "--sku", "poster", "--opens", "1s", "--duration", "30m")
	if code != exitDone {
		t.Fatalf("exit %d: %s%s", code, out, stderr)
	}
	slip := filepath.Join(dir, "address")
	if err := os.WriteFile(slip, []byte(address), 0o600); err != nil {
		t.Fatal(err)
	}
	var logs bytes.Buffer
	first := p.startNode(t, dir, "1m", &logs)
	var created fulfillmentv1.CreateDropResponse
	if err := protojson.Unmarshal([]byte(out), &created); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := p.verb(t, "buy", "--wait", "30s", "--drop", created.GetDrop().GetDrop().GetDropId()); code != exitRefused || !strings.Contains(stderr, "delivery_details") {
		t.Errorf("a parcel to nowhere: exit %d: %s", code, stderr)
	}
	result := make(chan bought, 1)
	go func() {
		code, out, stderr := p.verb(t, "buy", "--wait", "1m", "--delivery", slip)
		var b bought
		if err := json.Unmarshal([]byte(out), &b); err != nil || code != exitDone {
			t.Errorf("buy: exit %d, %v: %s%s", code, err, out, stderr)
		}
		result <- b
	}()
	acked := p.orderIn(t, fulfillmentv1.OrderState_ORDER_STATE_ACKED)
	_ = first.Process.Kill()
	_ = first.Wait() // killed
	second := p.startNode(t, dir, "0s", &logs)
	if b := <-result; b.Purchase.State != "PURCHASE_STATE_SHIPPED" || b.Outcome.State != b.Purchase.State {
		t.Errorf("bought %+v", b)
	}
	sent := p.orderIn(t, fulfillmentv1.OrderState_ORDER_STATE_SHIPPED)
	if sent.GetOrderId() != acked.GetOrderId() || sent.GetAttempt() != 1 || sent.GetWorker() != acked.GetWorker() || sent.GetTrackingReference() == "" {
		t.Errorf("got %v, it was %v", sent, acked)
	}
	_ = second.Process.Kill()
	_ = second.Wait() // killed

	go p.breakOne(t, p.joinDepot(t))
	code, out, stderr = p.verb(t, "buy", "--wait", "8s", "--delivery", slip)
	var b bought
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.Purchase.State != "PURCHASE_STATE_CHOICE_REQUIRED" {
		t.Fatalf("a broken poster: exit %d, %v: %s%s", code, err, out, stderr)
	}
	if code, out, stderr := p.verb(t, "purchase", "choose", b.PurchaseID, "money"); code != exitDone {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	p.until(t, "the money is back", func() bool {
		_, out, _ := p.verb(t, "purchase", "get", b.PurchaseID)
		return strings.Contains(out, "PURCHASE_STATE_REFUNDED")
	})
	_, out, _ = p.verb(t, "orders")
	if strings.Contains(out+logs.String(), "CANARY") {
		t.Error("the address is in a log or a list")
	}
	p.auditHolds(t)
}

// clumsy is a node that takes one order and drops it.
type clumsy struct {
	line fulfillmentv1.OrderService_WorkOrdersClient
	key  *sealed.Key
}

// joinDepot makes one, and waits until viewers know its key.
func (p *platform) joinDepot(t *testing.T) clumsy {
	t.Helper()
	conn, err := rpc.Dial(p.Fulfillment, rpc.DialConfig{Token: p.Tokens[auth.Node]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	key, err := sealed.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line, err := fulfillmentv1.NewOrderServiceClient(conn).WorkOrders(t.Context())
	if err == nil {
		err = line.Send(&fulfillmentv1.WorkOrdersRequest{Message: &fulfillmentv1.WorkOrdersRequest_Hello{Hello: &fulfillmentv1.NodeHello{
			NodeId: "0192d3a0-0000-7000-8000-00000000000a", Skus: []string{"poster"}, MaxParallel: 1, DeliveryKeys: [][]byte{key.Public()},
		}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	offers := p.dial(t, p.Routers[0], auth.Viewer).offers
	p.until(t, "viewers know the node's key", func() bool {
		drop, err := nextOpen(t.Context(), offers, "test", "", goods{parcels: true}, func(*offerv1.Drop) {})
		return err == nil && slices.ContainsFunc(drop.GetDeliveryKeys(), func(k []byte) bool { return bytes.Equal(k, key.Public()) })
	})
	return clumsy{line, key}
}

func (p *platform) breakOne(t *testing.T, c clumsy) {
	line, err := c.line, error(nil)
	for err == nil {
		var m *fulfillmentv1.WorkOrdersResponse
		if m, err = line.Recv(); err != nil {
			break
		}
		a := m.GetAssignment()
		if a == nil {
			if m.GetAnswer().GetStep() == fulfillmentv1.WorkStep_WORK_STEP_REJECT {
				return
			}
			continue
		}
		details, unread := sealed.Open(a.GetDeliveryDetails(), []*sealed.Key{c.key}, sealed.Purchase{DropID: a.GetDropId(), ID: a.GetPurchaseId()})
		if unread != nil || string(details) != address {
			t.Errorf("the node was not told where to: %v", unread)
		}
		for _, step := range []fulfillmentv1.WorkStep{fulfillmentv1.WorkStep_WORK_STEP_ACCEPT, fulfillmentv1.WorkStep_WORK_STEP_REJECT} {
			report := &fulfillmentv1.WorkReport{OrderId: a.GetOrderId(), Attempt: a.GetAttempt(), Step: step, Reason: fulfillmentv1.RejectReason_REJECT_REASON_DAMAGED}
			if err == nil {
				err = line.Send(&fulfillmentv1.WorkOrdersRequest{Message: &fulfillmentv1.WorkOrdersRequest_Report{Report: report}})
			}
		}
	}
	t.Errorf("the node's line: %v", err)
}

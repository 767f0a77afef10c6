package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// bought is what the tests read of `buy -o json`.
type bought struct {
	PurchaseID, Receipt, Decision, Region string
	Purchase                              struct {
		State, LicenceKey, Reason string
		Voucher                   struct{ VoucherID, Kind string }
	}
	Outcome struct{ State string }
	Steps   []struct {
		Name string
		Ms   float64
	}
}

func (p *platform) buy(t *testing.T, wantCode int, args ...string) (b bought, stderr string) {
	t.Helper()
	code, out, stderr := p.verb(t, append([]string{"buy", "--wait", "1m"}, args...)...)
	if code != wantCode {
		t.Fatalf("buy %v: exit %d, want %d: %s\n%s", args, code, wantCode, stderr, out)
	}
	if err := json.Unmarshal([]byte(out), &b); err != nil {
		t.Fatalf("buy %v printed %q: %v", args, out, err)
	}
	return b, stderr
}

// The path of a newcomer: buy, be declined, explain, look up, audit, drain; then stop, start again and find it all.
func TestTheVerbsOnARunningPlatform(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a platform with real delays for some seconds; run without -short")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // where buy keeps receipts
	dir := t.TempDir()
	regions := []string{"europe-west3", "us-central1"}
	p := startPlatform(t, dir, regions, []string{"europe-west1", "us-west1"}, false, "poster")
	drop := p.createDrop(t, 1000, 30*time.Minute)

	b, _ := p.buy(t, exitDone)
	if b.Purchase.State != "PURCHASE_STATE_DELIVERED" || b.Outcome.State != b.Purchase.State || b.Purchase.LicenceKey == "" {
		t.Errorf("bought %+v", b)
	}
	for _, step := range b.Steps {
		if step.Ms <= 0 {
			t.Errorf("step %s took %v ms", step.Name, step.Ms)
		}
	}
	if claimed, _ := p.buy(t, exitDone, "--claim", "--drop", drop.GetDropId()); claimed.Purchase.State != "PURCHASE_STATE_DELIVERED" {
		t.Errorf("claimed %+v", claimed)
	}
	for payment, want := range map[string]string{
		"tp_action_required": "PURCHASE_STATE_DELIVERED", "tp_timeout_before": "PURCHASE_STATE_DELIVERED",
		"tp_timeout_after": "PURCHASE_STATE_DELIVERED", "tp_500_once": "PURCHASE_STATE_DELIVERED",
	} {
		if got, _ := p.buy(t, exitDone, "--payment", payment); got.Purchase.State != want {
			t.Errorf("%s ended %s, want %s", payment, got.Purchase.State, want)
		}
	}
	declined, stderr := p.buy(t, exitRefused, "--payment", "tp_decline")
	if v := declined.Purchase.Voucher; v.Kind != "VOUCHER_KIND_PRICE_LOCK" || !strings.Contains(stderr, v.VoucherID) || v.VoucherID == "" {
		t.Errorf("declined: %+v, %s", declined.Purchase, stderr)
	}

	p.pauses(t, drop, regions)
	p.changes(t)
	p.sendsAParcel(t, dir)
	p.makesGood(t, b.PurchaseID, declined.PurchaseID)
	p.explains(t, b.Decision, regions)
	p.refusesTheWrongRole(t)
	p.checks(t, 4)
	p.drains(t, regions)
	p.auditHolds(t)

	if err := p.stop(); err != nil {
		t.Fatalf("stopping: %v", err)
	}
	p = startPlatform(t, dir, regions, []string{"us-west1"}, false)
	code, out, errOut := p.verb(t, "purchase", "get", b.PurchaseID)
	if code != exitDone || !strings.Contains(out, b.Purchase.LicenceKey) {
		t.Errorf("after the restart the purchase is %d %s %s", code, out, errOut)
	}
	p.auditHolds(t)
	if again, _ := p.buy(t, exitDone); again.PurchaseID == b.PurchaseID {
		t.Error("the restarted platform sold the same purchase")
	}
}

// pauses holds the drop: every region must refuse, and sell again afterwards. Draining the others makes each answer.
func (p *platform) pauses(t *testing.T, drop *offerv1.Drop, regions []string) {
	t.Helper()
	if code, out, errOut := p.verb(t, "drops", "pause", drop.GetDropId(), "--dry-run"); code != exitDone || !strings.Contains(out, "Viewers get no more offers") {
		t.Fatalf("a dry run: exit %d: %s %s", code, out, errOut)
	}
	p.buy(t, exitDone, "--drop", drop.GetDropId())
	if code, _, errOut := p.verb(t, "drops", "pause", drop.GetDropId(), "--reason", "test"); code != exitDone {
		t.Fatalf("drops pause: exit %d: %s", code, errOut)
	}
	offers := p.dial(t, p.Routers[0], auth.Viewer).offers
	for _, only := range regions {
		for _, other := range regions {
			if other != only {
				p.until(t, other+" drains", func() bool { // refused as the last region until the router has heard that the first is back
					code, _, _ := p.verb(t, "drain", other)
					return code == exitDone
				})
			}
		}
		p.until(t, only+" refuses while the drop is paused", func() bool {
			var header metadata.MD
			_, err := offers.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{
				Hints: &offerv1.RoutingHints{DropId: drop.GetDropId(), RequestId: only}, ViewerSessionId: buyer.NewSession(),
			}, grpc.Header(&header))
			return rpcerr.Reason(err) == errorsv1.Reason_REASON_DROP_NOT_OPEN &&
				slices.Equal(header.Get(buyer.RegionHeader), []string{only})
		})
		for _, other := range regions {
			p.verb(t, "undrain", other)
		}
	}
	p.until(t, "somebody who waits is told of the pause", func() bool {
		_, _, errOut := p.verb(t, "buy", "--drop", drop.GetDropId(), "--wait", "2s")
		return strings.Contains(errOut, "is paused")
	})
	if code, _, errOut := p.verb(t, "drops", "resume", drop.GetDropId()); code != exitDone {
		t.Fatalf("drops resume: exit %d: %s", code, errOut)
	}
	p.buy(t, exitDone, "--drop", drop.GetDropId())
}

// sendsAParcel buys a physical good, which the platform's own depot sends; who says where to buys no digital good.
func (p *platform) sendsAParcel(t *testing.T, dir string) {
	t.Helper()
	if code, _, errOut := p.verb(t, "drops", "create", "--channel", "atelier", "--title", "Print", "--units", "5", "--price", "34", "--sku", "poster",
		"--opens", "1s", "--duration", "10m"); code != exitDone {
		t.Fatalf("drops create: exit %d: %s", code, errOut)
	}
	slip := filepath.Join(dir, "address")
	if err := os.WriteFile(slip, []byte("Main Street 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, _ := p.buy(t, exitDone, "--delivery", slip); b.Purchase.State != "PURCHASE_STATE_SHIPPED" || b.Outcome.State != b.Purchase.State {
		t.Errorf("bought %+v", b)
	}
	if b, _ := p.buy(t, exitDone); b.Purchase.State != "PURCHASE_STATE_DELIVERED" {
		t.Errorf("without an address it bought %+v", b)
	}
}

// makesGood refunds a part of a delivered purchase, and buys with the price lock of a declined one.
func (p *platform) makesGood(t *testing.T, delivered, declined string) {
	t.Helper()
	verb := func(want int, args ...string) string {
		t.Helper()
		code, out, errOut := p.verb(t, args...)
		if code != want {
			t.Errorf("%v: exit %d, want %d: %s%s", args, code, want, out, errOut)
		}
		return out + errOut
	}
	for range 2 { // a dry run changes nothing
		if out := verb(exitDone, "refund", delivered, "--reason", "a scratch", "--amount", "0.01"); !strings.Contains(out, `"refundId": ""`) {
			t.Errorf("a dry run: %s", out)
		}
	}
	for range 2 { // and a request id is one refund
		verb(exitDone, "refund", delivered, "--reason", "a scratch", "--amount", "0.01", "--request-id", "r1", "--yes")
	}
	if out := verb(exitRefused, "refund", delivered, "--reason", "too much", "--amount", "1000000"); !strings.Contains(out, "NOT_REFUNDABLE") {
		t.Errorf("more than was captured: %s", out)
	}
	if out := verb(exitRefused, "purchase", "choose", delivered, "money"); !strings.Contains(out, "NO_CHOICE_PENDING") {
		t.Errorf("a choice about a delivered purchase: %s", out)
	}
	var got struct {
		Purchase struct {
			Voucher struct{ VoucherID, Text string }
		}
	}
	if err := json.Unmarshal([]byte(verb(exitDone, "purchase", "get", declined)), &got); err != nil {
		t.Fatal(err)
	}
	b, _ := p.buy(t, exitDone, "--voucher", got.Purchase.Voucher.Text)
	if out := verb(exitDone, "voucher", got.Purchase.Voucher.VoucherID); !strings.Contains(out, b.PurchaseID) || strings.Contains(out, got.Purchase.Voucher.Text) {
		t.Errorf("the voucher of purchase %s: %s", b.PurchaseID, out)
	}
	verb(exitRefused, "buy", "--wait", "1m", "--voucher", got.Purchase.Voucher.Text)
}

func (p *platform) explains(t *testing.T, decision string, regions []string) {
	t.Helper()
	code, out, errOut := p.verb(t, "explain", decision)
	if code != exitDone || !strings.Contains(out, `"explanation"`) {
		t.Errorf("explain: exit %d: %s%s", code, out, errOut)
	}
	for _, r := range regions {
		if !strings.Contains(out, r) {
			t.Errorf("explain does not name %s: %s", r, out)
		}
	}
	var simulated struct{ Actual, Simulated struct{ Region string } }
	code, out, errOut = p.verb(t, "what-if", decision, "--drain", regions[0], "--slow", regions[1]+"=1ms")
	if err := json.Unmarshal([]byte(out), &simulated); code != exitDone || err != nil || simulated.Simulated.Region != regions[1] {
		t.Errorf("what-if: exit %d, %v, %s%s", code, err, out, errOut)
	}
	if code, _, errOut := p.verb(t, "what-if", decision, "--drain", "atlantis"); code != exitRefused || !strings.Contains(errOut, "REGION_NOT_FOUND") {
		t.Errorf("what if atlantis: exit %d: %s", code, errOut)
	}
	if code, _, errOut := p.verb(t, "explain", "europe-west1/nobody-made-this"); code != exitRefused || !strings.Contains(errOut, "DECISION_NOT_FOUND") {
		t.Errorf("an unknown decision: exit %d: %s", code, errOut)
	}
}

func (p *platform) refusesTheWrongRole(t *testing.T) {
	t.Helper()
	_, err := p.dial(t, p.Routers[0], auth.SRE).catalog.CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{RequestId: "x"})
	if err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
		t.Errorf("an SRE planned a drop: %v", err)
	}
	code, _, errOut := p.verb(t, "drops", "create", "--channel", "NOT A SLUG", "--title", "t", "--units", "1", "--price", "1")
	if code != exitRefused || !strings.Contains(errOut, "INVALID_REQUEST") || !strings.Contains(errOut, "channel_id") {
		t.Errorf("a bad channel: exit %d: %s", code, errOut)
	}
}

func (p *platform) drains(t *testing.T, regions []string) {
	t.Helper()
	if code, _, errOut := p.verb(t, "drain", "atlantis"); code != exitRefused || !strings.Contains(errOut, "REGION_NOT_FOUND") {
		t.Errorf("draining an unknown region: exit %d: %s", code, errOut)
	}
	code, out, errOut := p.verb(t, "drain", regions[0], "--reason", "test", "--wait")
	if code != exitDone || !strings.Contains(out, `"drained": true`) {
		t.Fatalf("drain: exit %d: %s%s", code, out, errOut)
	}
	if b, _ := p.buy(t, exitDone); b.Region != regions[1] {
		t.Errorf("bought in %s while it was drained", b.Region)
	}
	if code, _, errOut := p.verb(t, "drain", regions[1]); code != exitRefused || !strings.Contains(errOut, "LAST_REGION") {
		t.Errorf("draining the last region: exit %d: %s", code, errOut)
	}
	if code, _, errOut := p.verb(t, "undrain", regions[0]); code != exitDone {
		t.Fatalf("undrain: exit %d: %s", code, errOut)
	}
	p.until(t, "the undrained region sells again", func() bool {
		b, _ := p.buy(t, exitDone)
		return b.Region == regions[0]
	})
}

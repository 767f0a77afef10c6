package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// changes extends a drop and closes it: a dry run says what it would meet and changes nothing, a repeated request is one
// change, and what cannot be is refused with its reason.
func (p *platform) changes(t *testing.T) {
	t.Helper()
	decode := func(want int, args ...string) *fulfillmentv1.ChangeDropResponse {
		t.Helper()
		code, out, errOut := p.verb(t, append([]string{"drops"}, args...)...)
		resp := &fulfillmentv1.ChangeDropResponse{}
		if err := protojson.Unmarshal([]byte(out), resp); code != want || err != nil {
			t.Fatalf("drops %v: exit %d, want %d, %v: %s%s", args, code, want, err, out, errOut)
		}
		return resp
	}
	refused := func(want int, text string, args ...string) {
		t.Helper()
		if code, out, errOut := p.verb(t, append([]string{"drops"}, args...)...); code != want || !strings.Contains(errOut, text) || out != "" {
			t.Errorf("drops %v: exit %d, want %d with %s: %s%s", args, code, want, text, out, errOut)
		}
	}
	code, out, errOut := p.verb(t, "drops", "create", "--channel", "attic", "--title", "To change", "--units", "7", "--price", "1", "--opens", "1s", "--duration", "20m")
	var created fulfillmentv1.CreateDropResponse
	if err := protojson.Unmarshal([]byte(out), &created); code != exitDone || err != nil {
		t.Fatalf("drops create: exit %d, %v: %s%s", code, err, out, errOut)
	}
	id, planned := created.GetDrop().GetDrop().GetDropId(), created.GetDrop().GetDrop().GetCloseTime().AsTime()
	closes := func(resp *fulfillmentv1.DropStatus) time.Time {
		return resp.GetDrop().GetDrop().GetCloseTime().AsTime()
	}
	say := func(resp *fulfillmentv1.ChangeDropResponse, sentence string) {
		t.Helper()
		if !slices.ContainsFunc(resp.GetBlastRadius().GetConsequences(), func(s string) bool { return strings.Contains(s, sentence) }) {
			t.Errorf("want %q among %q", sentence, resp.GetBlastRadius().GetConsequences())
		}
	}
	b, _ := p.buy(t, exitDone, "--drop", id) // so that somebody holds a lease
	if b.PurchaseID == "" {
		t.Errorf("bought %+v", b)
	}

	for range 2 { // a dry run changes nothing
		would := decode(exitDone, "extend", id, "--by", "5m", "--dry-run")
		if !closes(would.GetBefore()).Equal(planned) || !closes(would.GetAfter()).Equal(planned.Add(5*time.Minute)) {
			t.Errorf("a dry run: from %v to %v", closes(would.GetBefore()), closes(would.GetAfter()))
		}
		if r := would.GetBlastRadius(); r.GetNodes() == 0 || r.GetRegions() == 0 || r.GetUnitsUnsold() > 7 || r.GetWindowChange().AsDuration() != 5*time.Minute {
			t.Errorf("a dry run meets %v", r)
		}
		say(would, "Viewers can get offers until ")
	}
	for range 2 { // and a request id is one change
		did := decode(exitDone, "extend", id, "--by", "5m", "--request-id", "e1", "--reason", "test")
		if !closes(did.GetAfter()).Equal(planned.Add(5 * time.Minute)) {
			t.Errorf("extended to %v, want %v", closes(did.GetAfter()), planned.Add(5*time.Minute))
		}
	}
	refused(exitUsage, "--by", "extend", id)
	refused(exitRefused, "open for", "extend", id, "--by", "1000h")
	say(decode(exitDone, "resume", id), "Nothing changes.") // it was not paused
	refused(exitRefused, "DROP_NOT_FOUND", "extend", "0192d3a0-0000-7000-8000-00000000000b", "--by", "5m")
	refused(exitRefused, "DROP_NOT_FOUND", "close", "0192d3a0-0000-7000-8000-00000000000b")
	refused(exitRefused, "DROP_CHANGE_REFUSED", "extend", id, "--by=-5m")

	would := decode(exitDone, "close", id, "--dry-run")
	say(would, "Viewers get no more offers")
	say(would, "Offers that are out can be redeemed until they expire")
	if r := would.GetBlastRadius(); r.GetWindowChange().AsDuration() >= 0 || r.GetUnitsUnsold() == 0 {
		t.Errorf("a dry run meets %v", r)
	}
	offers := p.dial(t, p.Routers[0], auth.Viewer).offers
	ask := func() error {
		_, err := offers.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{
			Hints: &offerv1.RoutingHints{DropId: id, RequestId: "late"}, ViewerSessionId: buyer.NewSession(),
		})
		return err
	}
	if err := ask(); err != nil {
		t.Errorf("after a dry run of closing: %v", err)
	}
	did := decode(exitDone, "close", id, "--reason", "test")
	if now := time.Now(); closes(did.GetAfter()).After(now) {
		t.Errorf("closes at %v, now is %v", closes(did.GetAfter()), now)
	}
	p.until(t, "viewers are told that the drop is closed", func() bool { return rpcerr.Reason(ask()) == errorsv1.Reason_REASON_DROP_NOT_OPEN })
	refused(exitRefused, "DROP_CHANGE_REFUSED", "extend", id, "--by", "5m")
	say(decode(exitDone, "close", id), "Nothing changes.") // it had closed
}

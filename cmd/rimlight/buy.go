package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/cardnumber"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sealed"
)

type buyCmd struct {
	clientFlags
	Drop     string        `help:"Buy from this drop; default: the next one that is open, of a physical good with --delivery and of a digital one without."`
	Channel  string        `help:"Only this channel's drops."`
	Payment  string        `help:"Payment reference; the test provider knows tp_ok, tp_decline, tp_action_required, tp_timeout_before, tp_timeout_after, tp_500_once, tp_500_kept, tp_refund_slow, tp_refund_fails, tp_mix, tp_card_NAME." default:"tp_ok"`
	Voucher  string        `help:"Pay with this voucher first: its text, from 'purchase get'."`
	Delivery string        `help:"Where a physical good goes: a file of up to 2 KiB, or - for standard input. It consents to delivery, and is sealed before it leaves." placeholder:"FILE"`
	Claim    bool          `help:"Ask and redeem in one round trip."`
	Approve  bool          `help:"TEST: play the customer who confirms the payment when the provider asks." default:"true" negatable:""`
	Session  string        `help:"Viewer session, 32 hex digits; default: a fresh one."`
	Wait     time.Duration `help:"How long to wait for an open drop and then for the outcome." default:"5m"`
}

// savedReceipt is what `buy` keeps, so that `purchase get ID` can show who it is.
type savedReceipt struct {
	Receipt string `json:"receipt"`
	Region  string `json:"region"`
	DropID  string `json:"dropId"`
}

func (c *buyCmd) Run(ctx context.Context, s *streams) error {
	session, err := hex.DecodeString(c.Session)
	if err != nil || (len(session) != 0 && len(session) != 16) {
		return usageError{"--session takes 32 hex digits"}
	}
	if _, err := ids.Bytes(c.Drop); c.Drop != "" && err != nil {
		return usageError{fmt.Sprintf("--drop takes a drop's id, a UUID as 'drops list' prints it, not %q", c.Drop)}
	}
	details, err := c.details()
	if err != nil {
		return err
	}
	conn, err := c.dial(auth.Viewer)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	offers := offerv1.NewOfferServiceClient(conn)
	var next *offerv1.Drop // that it waits for
	drop, err := nextOpen(ctx, offers, c.Channel, c.Drop, goods{digital: len(details) == 0, parcels: len(details) > 0}, c.announce(s, &next))
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded { // ours, or the router's word for it
		return lateError{c.nothingOpened(next)}
	}
	if err != nil {
		return fmt.Errorf("waiting for an open drop: %w", err)
	}
	req := buyer.Request{Drop: drop, PaymentReference: c.Payment, Voucher: c.Voucher, Claim: c.Claim}
	if len(details) > 0 {
		req.DeliveryDetails, req.Consent = details, &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}}
	}
	if len(session) > 0 {
		req.ViewerSessionID = session
	}
	req.OnState = func(p *offerv1.Purchase) {
		if p.GetState() == offerv1.PurchaseState_PURCHASE_STATE_ACTION_REQUIRED && c.Approve {
			_, err := verifierv1.NewTestPaymentServiceClient(conn).CompleteAction(ctx,
				&verifierv1.CompleteActionRequest{PaymentIntentId: p.GetPaymentIntentId()})
			if err != nil {
				fmt.Fprintf(s.err, "the payment could not be confirmed: %v\n", err)
			}
		}
	}
	req.OnReceipt = func(res *buyer.Result) {
		if _, err := saveFile("receipts", res.PurchaseID, savedReceipt{res.Receipt, res.Region, drop.GetDropId()}); err != nil {
			fmt.Fprintf(s.err, "the receipt could not be kept: %v\n", err)
		}
	}
	b := &buyer.Buyer{Offers: offers}
	res, buyErr := b.Buy(ctx, req)
	if err := c.show(s, drop, res, buyErr); err != nil {
		return err
	}
	if buyErr != nil && res.Receipt != "" {
		fmt.Fprintf(s.err, "The purchase was accepted and goes on; ask later: rimlight purchase get %s\n", res.PurchaseID)
	}
	return verdict(res, buyErr)
}

// nothingOpened says what did not open in time.
func (c *buyCmd) nothingOpened(next *offerv1.Drop) string {
	switch {
	case next.GetState() == offerv1.DropState_DROP_STATE_PAUSED:
		return fmt.Sprintf("%q is paused, and did not go on within %v", next.GetTitle(), c.Wait)
	case c.Drop != "":
		return fmt.Sprintf("drop %s did not open within %v", c.Drop, c.Wait)
	case c.Channel != "":
		return fmt.Sprintf("no drop of channel %q opened within %v", c.Channel, c.Wait)
	}
	return fmt.Sprintf("no drop opened within %v", c.Wait)
}

// details reads where the good goes, which no flag takes: other users see a command line.
func (c *buyCmd) details() ([]byte, error) {
	if c.Delivery == "" {
		return nil, nil
	}
	var from io.Reader = os.Stdin
	if c.Delivery != "-" {
		file, err := os.Open(c.Delivery)
		if err != nil {
			return nil, usageError{fmt.Sprintf("--delivery: %v", err)}
		}
		defer func() { _ = file.Close() }() // it was only read
		from = file
	}
	details, err := io.ReadAll(io.LimitReader(from, sealed.MaxDetails+1))
	if err != nil {
		return nil, fmt.Errorf("reading the delivery details: %w", err)
	}
	if len(details) == 0 || len(details) > sealed.MaxDetails {
		return nil, usageError{fmt.Sprintf("--delivery takes 1 to %d bytes", sealed.MaxDetails)}
	}
	if cardnumber.In(details) {
		return nil, usageError{"--delivery takes no card number"}
	}
	return details, nil
}

// verdict turns the result into the command's: only a delivery is a success.
func verdict(res *buyer.Result, err error) error {
	if errors.Is(err, buyer.ErrRefused) {
		return refusal{fmt.Sprintf("%s: %s", reasonName(res.Refusal.GetReason()), res.Refusal.GetMessage())}
	}
	if err != nil {
		return err
	}
	switch p := res.Purchase; p.GetState() {
	case offerv1.PurchaseState_PURCHASE_STATE_VOUCHER:
		v := p.GetVoucher()
		return refusal{fmt.Sprintf("%s: made good with voucher %s (%s, %s %s)", reasonName(p.GetReason()), v.GetVoucherId(),
			short(v.GetKind(), "VOUCHER_KIND_"), money(v.GetPrice()), until(v))}
	case offerv1.PurchaseState_PURCHASE_STATE_REFUSED, offerv1.PurchaseState_PURCHASE_STATE_REFUNDED:
		return refusal{reasonName(p.GetReason())}
	}
	return nil
}

// until says how long a voucher is good.
func until(v *offerv1.Voucher) string {
	if v.GetExpireTime() == nil {
		return "for ever"
	}
	return "until " + v.GetExpireTime().AsTime().Format(time.DateOnly)
}

func reasonName(r fmt.Stringer) string { return strings.TrimPrefix(r.String(), "REASON_") }

func (c *buyCmd) announce(s *streams, last **offerv1.Drop) func(*offerv1.Drop) {
	var said string
	return func(next *offerv1.Drop) {
		*last = next
		text := "waiting for a drop"
		if next != nil {
			text = fmt.Sprintf("waiting for %q, it opens at %s", next.GetTitle(), clock(next.GetOpenTime()))
			switch next.GetState() {
			case offerv1.DropState_DROP_STATE_PAUSED:
				text = fmt.Sprintf("%q is paused: waiting until it goes on", next.GetTitle())
			case offerv1.DropState_DROP_STATE_OPEN:
				text = fmt.Sprintf("waiting for somebody who can send %q", next.GetTitle())
			}
		}
		if text != said {
			said = text
			s.progress(text)
		}
	}
}

// buyOutput is the document of `buy -o json`; its messages are in proto JSON.
type buyOutput struct {
	Drop       json.RawMessage `json:"drop"`
	Offer      json.RawMessage `json:"offer,omitempty"`
	OfferToken string          `json:"offerToken,omitempty"`
	Receipt    string          `json:"receipt,omitempty"`
	PurchaseID string          `json:"purchaseId,omitempty"`
	Region     string          `json:"region,omitempty"`
	Decision   string          `json:"decision,omitempty"`
	Purchase   json.RawMessage `json:"purchase,omitempty"`
	Outcome    json.RawMessage `json:"outcome,omitempty"`
	Refusal    json.RawMessage `json:"refusal,omitempty"`
	Error      string          `json:"error,omitempty"`
	Steps      []buyer.Step    `json:"steps"`
}

func (c *buyCmd) show(s *streams, drop *offerv1.Drop, res *buyer.Result, buyErr error) error {
	decision := ""
	for _, step := range res.Steps {
		if step.Decision != "" {
			decision = step.Decision
		}
	}
	if c.Output == "table" {
		return showTable(s.out, drop, res, decision)
	}
	out := buyOutput{
		OfferToken: res.OfferToken, Receipt: res.Receipt, PurchaseID: res.PurchaseID, Region: res.Region, Decision: decision, Steps: res.Steps,
	}
	if buyErr != nil {
		out.Error = buyErr.Error()
	}
	for _, part := range []struct {
		to *json.RawMessage
		m  proto.Message
	}{{&out.Drop, drop}, {&out.Offer, res.Offer}, {&out.Purchase, res.Purchase}, {&out.Outcome, res.Outcome}, {&out.Refusal, res.Refusal}} {
		if !part.m.ProtoReflect().IsValid() { // a nil message: it did not get that far
			continue
		}
		raw, err := protojson.Marshal(part.m)
		if err != nil {
			return fmt.Errorf("encoding the result: %w", err)
		}
		*part.to = raw
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	return printRawJSON(s.out, raw)
}

func showTable(out io.Writer, drop *offerv1.Drop, res *buyer.Result, decision string) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row(w, "drop", drop.GetTitle())
	row(w, "price", money(drop.GetPrice()))
	if res.PurchaseID != "" {
		row(w, "purchase", res.PurchaseID)
		row(w, "region", res.Region)
	}
	row(w, "decision", decision)
	if p := res.Purchase; p != nil {
		row(w, "state", short(p.GetState(), "PURCHASE_STATE_"))
		if p.GetLicenceKey() != "" {
			row(w, "licence key", p.GetLicenceKey())
		}
	}
	for _, step := range res.Steps {
		row(w, "  "+strings.ToLower(strings.TrimPrefix(step.Name, "PURCHASE_STATE_")), fmt.Sprintf("%.1f ms", step.Millis), step.Region)
	}
	return w.Flush()
}

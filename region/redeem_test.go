package region_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
)

func TestOneTokenRedeemedAThousandTimesIsOneReceipt(t *testing.T) {
	inOpenDrop(t, 50, 10, func(t *testing.T, w *world) {
		text := w.mustOffer(1)
		receipts := make([]string, 1000)
		var all sync.WaitGroup
		for i := range receipts {
			all.Go(func() {
				m, err := w.redeem(1, text)
				if err != nil {
					t.Errorf("redeeming: %v", err)
				}
				receipts[i] = m.GetReceipt()
			})
		}
		all.Wait()
		for _, r := range receipts {
			if r != receipts[0] {
				t.Fatal("two receipts for one token")
			}
		}
		redeemed := 0
		for _, r := range w.records() {
			if r.GetRedeemed() != "" {
				redeemed++
			}
		}
		if redeemed != 1 {
			t.Errorf("got %d redemptions in the journal, want 1", redeemed)
		}
	})
}

func TestTwentyUnitsForFourHundredViewersAreTwentyReceipts(t *testing.T) {
	inOpenDrop(t, 20, 3, func(t *testing.T, w *world) {
		var mu sync.Mutex
		serials, noes := map[uint32]string{}, map[string]int{}
		var all sync.WaitGroup
		for i := range 400 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				o, err := w.offer(i)
				for err == nil { // NO_UNIT_HERE is not final
					var m *offerv1.RedeemOfferResponse
					if m, err = w.redeem(i, o.GetOfferToken()); err == nil {
						mu.Lock()
						defer mu.Unlock()
						if other, twice := serials[serialOf(t, m.GetReceipt())]; twice {
							t.Errorf("%s and %d have the same serial", other, i)
						}
						serials[serialOf(t, m.GetReceipt())] = fmt.Sprint(i)
						return
					}
					if status.Code(err) == codes.ResourceExhausted {
						time.Sleep(300 * time.Millisecond)
						err = nil
					}
				}
				mu.Lock()
				defer mu.Unlock()
				noes[status.Convert(err).Code().String()]++
				wantReason(t, err, "SOLD_OUT")
			})
		}
		all.Wait()
		if len(serials) != 20 {
			t.Errorf("got %d receipts, want 20; %v", len(serials), noes)
		}
	})
}

func TestRestartKeepsReceiptsAndSerials(t *testing.T) {
	for name, stop := range map[string]func(*world){
		"after an orderly stop": func(w *world) {
			if err := w.end(); err != nil {
				w.t.Errorf("Run: %v", err)
			}
		},
		"after a power cut": (*world).crash,
	} {
		t.Run(name, func(t *testing.T) {
			inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
				texts, receipts, serials := map[int]string{}, map[int]string{}, map[uint32]bool{}
				for i := range 10 {
					texts[i] = w.mustOffer(i)
					receipts[i] = w.mustRedeem(i, texts[i]).GetReceipt()
					serials[serialOf(t, receipts[i])] = true
				}
				w.stock.set(func() { w.stock.down = true })
				stop(w)
				w.start() // the centre is away: it serves from the journal
				for i := range 10 {
					if got := w.mustRedeem(i, texts[i]).GetReceipt(); got != receipts[i] {
						t.Errorf("session %d has another receipt after the restart", i)
					}
				}
				for i := range 10 {
					serial := serialOf(t, w.mustRedeem(100+i, w.mustOffer(100+i)).GetReceipt())
					if serials[serial] {
						t.Errorf("serial %d was handed out twice", serial)
					}
					serials[serial] = true
				}
				checkChain(t, w)
			})
		})
	}
}

// checkChain follows the receipts' hashes and accept times through the journal.
func checkChain(t *testing.T, w *world) {
	t.Helper()
	var last *offerv1.Receipt
	var hash [sha256.Size]byte
	for _, r := range w.records() {
		if r.GetRedeemed() == "" {
			continue
		}
		m, err := decodeReceipt(r.GetRedeemed())
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case last == nil && len(m.GetPreviousReceiptHash()) != 0:
			t.Error("the first receipt names one before it")
		case last != nil && (!bytes.Equal(m.GetPreviousReceiptHash(), hash[:]) || !m.GetAcceptTime().AsTime().After(last.GetAcceptTime().AsTime())):
			t.Error("the chain of receipts is broken")
		}
		last, hash = m, sha256.Sum256([]byte(r.GetRedeemed()))
	}
}

func TestAnUnansweredRedemptionIsNotPromised(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		w.end()
		w.options.SyncTime = 10 * time.Second // the power goes while the disk is at it
		w.start()
		text := w.mustOffer(1)
		answer := make(chan error, 1)
		go func() { _, err := w.redeem(1, text); answer <- err }()
		synctest.Wait()
		go w.memory.Crash()
		wantReason(t, <-answer, "STORE_UNAVAILABLE")
		w.stop()
		<-w.ended
		w.options.SyncTime = 0
		w.start()
		w.mustRedeem(1, text) // the record reached the disk or not; K is accepted once
	})
}

func TestRedemptionRefusals(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		good := w.mustOffer(1)
		other := dropOf("01890000-0000-7000-8000-000000000001", 1, time.Now())
		stranger, err := token.NewSigner(make([]byte, 32), offerv1.KeyOwner_KEY_OWNER_NODE, "stranger", "far")
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := stranger.OfferToken(&offerv1.OfferToken{
			TokenId: make([]byte, 16), DropId: make([]byte, 16), ViewerSessionId: session(1), Price: w.drop.Drop.Price})
		if err != nil {
			t.Fatal(err)
		}
		change := func(fn func(*offerv1.RedeemOfferRequest)) *offerv1.RedeemOfferRequest {
			r := w.redeemRequest(1, good)
			fn(r)
			return r
		}
		middle := []byte(good)
		middle[len(middle)/2] ^= 1
		for name, c := range map[string]struct {
			request *offerv1.RedeemOfferRequest
			code    codes.Code
			reason  string
		}{
			"a token with one bit changed": {change(func(r *offerv1.RedeemOfferRequest) { r.OfferToken = string(middle) }), codes.InvalidArgument, "TOKEN_INVALID"},
			"no token at all":              {change(func(r *offerv1.RedeemOfferRequest) { r.OfferToken = "x" }), codes.InvalidArgument, "TOKEN_INVALID"},
			"a token signed by nobody we know": {
				change(func(r *offerv1.RedeemOfferRequest) { r.OfferToken = foreign }), codes.Unavailable, "KEY_UNKNOWN"},
			"another session's token": {change(func(r *offerv1.RedeemOfferRequest) { r.ViewerSessionId = session(2) }), codes.InvalidArgument, "TOKEN_MISMATCH"},
			"another drop's token":    {change(func(r *offerv1.RedeemOfferRequest) { r.Hints.DropId = other.Drop.DropId }), codes.InvalidArgument, "TOKEN_MISMATCH"},
			"a card number as reference": {
				change(func(r *offerv1.RedeemOfferRequest) { r.PaymentReference = "4111-1111-1111-1111" }), codes.InvalidArgument, "CARD_NUMBER_REFUSED"},
			"details without consent": {
				change(func(r *offerv1.RedeemOfferRequest) { r.DeliveryDetails = []byte("Main Street 1") }), codes.FailedPrecondition, "CONSENT_REQUIRED"},
			"details with an unreadable consent": {change(func(r *offerv1.RedeemOfferRequest) {
				r.DeliveryDetails = []byte("Main Street 1")
				r.Consent = &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}, TcfString: "CPxy"}
			}), codes.FailedPrecondition, "CONSENT_REQUIRED"},
		} {
			_, err := w.node.RedeemOffer(t.Context(), c.request) // no t.Run inside a bubble
			if got := rpcerr.Reason(err).String(); got != "REASON_"+c.reason || status.Code(err) != c.code {
				t.Errorf("%s: got %v and %s, want %v and %s", name, status.Code(err), got, c.code, c.reason)
			}
		}
		w.mustRedeem(1, good) // and none of it spoiled the token
		_, err = w.node.RedeemOffer(t.Context(), change(func(r *offerv1.RedeemOfferRequest) { r.PaymentReference = "tp_decline" }))
		wantReason(t, err, "REQUEST_REPLAYED")
	})
}

func TestTokenTimes(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		at, late := w.mustOffer(1), w.mustOffer(2)
		time.Sleep(62 * time.Second) // 60 s TTL and the grace of 2 s, to the instant
		w.mustRedeem(1, at)
		time.Sleep(time.Millisecond)
		_, err := w.redeem(2, late)
		wantReason(t, err, "TOKEN_EXPIRED")
		w.mustRedeem(1, at) // what was accepted stays accepted
		time.Sleep(5 * time.Second)
		last := w.mustOffer(3) // the drop is open for some seconds more
		time.Sleep(30 * time.Second)
		if _, err := w.offer(4); err == nil {
			t.Error("an offer after the drop closed")
		}
		w.mustRedeem(3, last)
	})
}

func TestOffersFollowTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 50, 50)
		w.start()
		_, err := w.offer(1)
		wantReason(t, err, "DRAINING") // no epoch yet
		time.Sleep(time.Second)
		_, err = w.offer(1)
		wantReason(t, err, "DROP_NOT_OPEN")
		time.Sleep(19*time.Second - 1)
		_, err = w.offer(1)
		wantReason(t, err, "DROP_NOT_OPEN")
		time.Sleep(time.Nanosecond)
		w.mustOffer(1)
		w.drop.Drop.DropId = "01890000-0000-7000-8000-000000000001"
		_, err = w.offer(1)
		wantReason(t, err, "DROP_NOT_FOUND")
		if err := w.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestClaimIsOnePurchase(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		request := &offerv1.ClaimOfferRequest{
			Hints: w.hints("tap-1"), ViewerSessionId: session(1), PaymentReference: "tp_ok",
			MaxPrice: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1990},
		}
		answers := make([]*offerv1.ClaimOfferResponse, 20)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				time.Sleep(time.Duration(i%3) * time.Millisecond)
				m, err := w.node.ClaimOffer(t.Context(), request)
				if err != nil {
					t.Errorf("claiming: %v", err)
				}
				answers[i] = m
			})
		}
		all.Wait()
		for _, m := range answers[1:] {
			if !proto.Equal(m, answers[0]) {
				t.Fatalf("two answers to one claim: %v and %v", m, answers[0])
			}
		}
		dear := proto.CloneOf(request)
		dear.ViewerSessionId, dear.MaxPrice.MinorUnits = session(2), 1989
		if m, err := w.node.ClaimOffer(t.Context(), dear); err != nil || m.GetRefused().GetReason().String() != "REASON_PRICE_ABOVE_LIMIT" {
			t.Errorf("a price above the viewer's most: got %v, %v, want PRICE_ABOVE_LIMIT", m, err)
		}
		dear.MaxPrice = &offerv1.Money{CurrencyCode: "USD", MinorUnits: 1 << 30}
		if m, err := w.node.ClaimOffer(t.Context(), dear); err != nil || m.GetRefused().GetReason().String() != "REASON_PRICE_ABOVE_LIMIT" {
			t.Errorf("a most in another currency: got %v, %v, want PRICE_ABOVE_LIMIT", m, err)
		}
		again := proto.CloneOf(request)
		again.Hints.RequestId = "tap-2"
		if m, err := w.node.ClaimOffer(t.Context(), again); err != nil || m.GetRefused().GetReason().String() != "REASON_VIEWER_LIMIT" {
			t.Errorf("a second purchase of one session: got %v, %v, want VIEWER_LIMIT", m, err)
		}
	})
}

func TestModes(t *testing.T) {
	inOpenDrop(t, 50, 50, func(t *testing.T, w *world) {
		text := w.mustOffer(1)
		set := func(mode regionv1.RegionMode) {
			t.Helper()
			if _, err := w.node.SetMode(t.Context(), &regionv1.SetModeRequest{Mode: mode, RequestId: "r"}); err != nil {
				t.Fatalf("SetMode: %v", err)
			}
		}
		set(regionv1.RegionMode_REGION_MODE_CORDONED)
		_, err := w.offer(2)
		wantReason(t, err, "DRAINING")
		receipt := w.mustRedeem(1, text).GetReceipt()
		set(regionv1.RegionMode_REGION_MODE_SERVING)
		text3 := w.mustOffer(3)
		set(regionv1.RegionMode_REGION_MODE_DRAINED)
		_, err = w.redeem(3, text3)
		wantReason(t, err, "DRAINING")
		if got := w.mustRedeem(1, text).GetReceipt(); got != receipt {
			t.Error("a drained node forgot a receipt")
		}
		time.Sleep(5 * time.Second)
		w.stock.set(func() {
			if len(w.stock.returned) != 49 {
				t.Errorf("a drained node gave %d units back, want all 49 untouched", len(w.stock.returned))
			}
		})
		w.crash()
		w.start()
		if w.node.Mode() != regionv1.RegionMode_REGION_MODE_DRAINED {
			t.Errorf("after a restart the mode is %v", w.node.Mode())
		}
	})
}

func TestFullQueueShedsWithoutLosingUnits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20, 20)
		w.options.QueueRecords = 3
		w.options.SyncTime = 100 * time.Millisecond
		w.start()
		time.Sleep(21 * time.Second)
		shed := 0
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 20 {
			text := w.mustOffer(i)
			all.Go(func() {
				if _, err := w.redeem(i, text); err != nil {
					wantReason(t, err, "OVERLOADED")
					mu.Lock()
					defer mu.Unlock()
					shed++
				}
			})
		}
		all.Wait()
		if shed == 0 {
			t.Error("a queue of 3 took 20 redemptions at once")
		}
		for i := range shed { // others come for what was shed
			w.mustRedeem(100+i, w.mustOffer(100+i))
		}
		if err := w.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestTwoOffersOfOneSessionAreOnePurchase(t *testing.T) {
	inOpenDrop(t, 5, 5, func(t *testing.T, w *world) {
		first := w.mustOffer(1)
		m, err := w.node.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{Hints: w.hints("another"), ViewerSessionId: session(1)})
		if err != nil {
			t.Fatal(err)
		}
		w.mustRedeem(1, first)
		_, err = w.redeem(1, m.GetGranted().GetOfferToken())
		wantReason(t, err, "VIEWER_LIMIT")
	})
}

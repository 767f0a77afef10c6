package token_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/token"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

// vectors are what every reader of signed texts must agree on; web/test holds the browser SDK against the same file.
type vectors struct {
	Keys  []vectorKey  `json:"keys"`
	Texts []vectorText `json:"texts"`
	// TokenIDs are derived from intentions, and purchase ids from those.
	TokenIDs []vectorID `json:"token_ids"`
}

type vectorKey struct {
	KeyID     string `json:"key_id"`
	PublicKey string `json:"public_key"`
	Owner     int32  `json:"owner"`
	NodeID    string `json:"node_id"`
}

type vectorText struct {
	Rule string `json:"rule"`
	Kind string `json:"kind"` // offer_token, receipt or outcome
	Text string `json:"text"`
	Want string `json:"want"` // ok, malformed, unknown_key or forged
	// PurchaseID is what a genuine receipt or outcome says.
	PurchaseID string `json:"purchase_id,omitempty"`
}

type vectorID struct {
	Session    string `json:"session"`
	DropID     string `json:"drop_id"`
	RequestID  string `json:"request_id"`
	TokenID    string `json:"token_id"`
	PurchaseID string `json:"purchase_id"`
}

func TestVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	made := makeVectors(t)
	want, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code signs: every text out there would be refused. If that is meant: go test ./internal/token -update", file)
	}
	k := &token.Keys{}
	for _, key := range made.Keys {
		k.Add(&offerv1.SigningKey{KeyId: unhex(t, key.KeyID), PublicKey: unhex(t, key.PublicKey), Owner: offerv1.KeyOwner(key.Owner), NodeId: key.NodeID})
	}
	wants := map[string]error{"ok": nil, "malformed": token.ErrMalformed, "unknown_key": token.ErrUnknownKey, "forged": token.ErrForged}
	for _, v := range made.Texts {
		var err error
		switch v.Kind {
		case "offer_token":
			_, err = k.OpenOfferToken(v.Text)
		case "receipt":
			_, _, err = k.OpenReceipt(v.Text)
		case "outcome":
			_, err = k.OpenOutcome(v.Text)
		}
		if !errors.Is(err, wants[v.Want]) {
			t.Errorf("%s: got %v, want %s", v.Rule, err, v.Want)
		}
	}
}

func makeVectors(t *testing.T) vectors {
	t.Helper()
	node, other, stranger := signer(t, 1, nodeOwner, "n1"), signer(t, 2, nodeOwner, "n2"), signer(t, 4, nodeOwner, "n4")
	centre := signer(t, 3, verifierOwner, "")
	m := must[string](t)
	offer := m(node.OfferToken(claims()))
	purchase := token.PurchaseID(claims().GetTokenId())
	redemption := &offerv1.Receipt{
		OfferToken: offer, PurchaseId: purchase, Serial: 7, LeaseId: "l1", Epoch: 1, NodeId: "n1", Region: "europe-west3",
		AcceptTime: &timestamppb.Timestamp{Seconds: 1_700_000_001, Nanos: 500}, PaymentReference: "tp_ok",
	}
	receipt := m(node.Receipt(redemption))
	elsewhere := &offerv1.Receipt{OfferToken: offer, NodeId: "n1", PurchaseId: strings.Repeat("0", 32)}
	outcome := m(centre.Outcome(&offerv1.Outcome{
		PurchaseId: purchase, State: offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, Reason: errorsv1.Reason_REASON_PAYMENT_DECLINED,
		Price: claims().GetPrice(), FinalTime: &timestamppb.Timestamp{Seconds: 1_700_000_002},
	}))
	v := vectors{Texts: []vectorText{
		{"a genuine offer token", "offer_token", offer, "ok", ""},
		{"a genuine receipt", "receipt", receipt, "ok", purchase},
		{"a genuine outcome", "outcome", outcome, "ok", purchase},
		{"nothing", "receipt", "", "malformed", ""},
		{"no base64url", "receipt", "!!" + receipt, "malformed", ""},
		{"padding", "receipt", receipt + "=", "malformed", ""},
		{"a line break inside", "receipt", receipt[:40] + "\n" + receipt[40:], "malformed", ""},
		{"the other alphabet", "receipt", strings.NewReplacer("-", "+", "_", "/").Replace(receipt), "malformed", ""},
		{"a key that nobody published", "offer_token", m(stranger.OfferToken(claims())), "unknown_key", ""},
		{"a bit of the signature flipped", "receipt", flip(t, receipt, 100), "forged", ""},
		{"a bit of the payload flipped", "receipt", flip(t, receipt, 8*80), "forged", ""},
		{"an offer token as a receipt", "receipt", offer, "forged", ""},
		{"a receipt as an offer token", "offer_token", receipt, "forged", ""},
		{"a receipt as an outcome", "outcome", receipt, "forged", ""},
		{"an outcome as a receipt", "receipt", outcome, "forged", ""},
		{"a receipt that names another node", "receipt", m(other.Receipt(redemption)), "forged", ""},
		{"a receipt with another token's purchase id", "receipt", m(node.Receipt(elsewhere)), "malformed", ""},
	}}
	for _, s := range []*token.Signer{node, other, centre} {
		key := s.Public()
		v.Keys = append(v.Keys, vectorKey{hex.EncodeToString(key.GetKeyId()), hex.EncodeToString(key.GetPublicKey()), int32(key.GetOwner()), key.GetNodeId()})
	}
	session, drop := bytes.Repeat([]byte{9}, 16), bytes.Repeat([]byte{0xab}, 16)
	id := token.DeriveTokenID(session, drop, "request-1")
	v.TokenIDs = []vectorID{{hex.EncodeToString(session), "abababab-abab-abab-abab-abababababab", "request-1", hex.EncodeToString(id), token.PurchaseID(id)}}
	return v
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	return must[[]byte](t)(hex.DecodeString(s))
}

package shorthand_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/shorthand"
)

// lines notes what a text says.
type lines struct{ said []string }

func (l *lines) Record(place int64, record []byte) error {
	l.said = append(l.said, fmt.Sprintf("%d record %x", place, record))
	return nil
}

func (l *lines) Sale(place int64, s shorthand.Sale) error {
	l.said = append(l.said, fmt.Sprintf("%d sale %v %s %x %s %d", place, s.Purchase, s.Session, s.Drop[:1], s.Unit.Lease, s.Unit.Serial))
	return nil
}

func (l *lines) Outcome(place int64, o shorthand.Outcome) error {
	l.said = append(l.said, fmt.Sprintf("%d outcome %v %v %d", place, o.Purchase, o.State, o.Cursor))
	return nil
}

func encode(t testing.TB, r *regionv1.JournalRecord) []byte {
	t.Helper()
	raw, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func sold(t testing.TB, k, drop byte, leaseID string, serial uint32) []byte {
	t.Helper()
	signer, err := token.NewSigner(make([]byte, 32), offerv1.KeyOwner_KEY_OWNER_NODE, "n", "r")
	if err != nil {
		t.Fatal(err)
	}
	offer, err := signer.OfferToken(&offerv1.OfferToken{
		TokenId: bytes.Repeat([]byte{k}, 16), DropId: bytes.Repeat([]byte{drop}, 16), ViewerSessionId: []byte("session-00000001"),
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := signer.Receipt(&offerv1.Receipt{OfferToken: offer, LeaseId: leaseID, Serial: serial, PaymentReference: "tp_secret"})
	if err != nil {
		t.Fatal(err)
	}
	return encode(t, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Redeemed{Redeemed: text}})
}

func written(t testing.TB, records ...[]byte) []byte {
	t.Helper()
	var w shorthand.Writer
	for _, r := range records {
		if err := w.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if w.Items() != len(records) {
		t.Errorf("%d items of %d records", w.Items(), len(records))
	}
	return w.Text()
}

func purchase(k byte) string { return token.PurchaseID(bytes.Repeat([]byte{k}, 16)) }

func outcomeOf(t testing.TB, id string) []byte {
	t.Helper()
	return encode(t, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Outcome{Outcome: &regionv1.OutcomeSeen{
		Cursor: 7, Purchase: &offerv1.Purchase{PurchaseId: id, State: offerv1.PurchaseState_PURCHASE_STATE_REFUNDED},
	}}})
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	started := encode(t, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Started{Started: &regionv1.Started{Life: 2}}})
	stranger := outcomeOf(t, "of another node")
	text := written(t, started, sold(t, 1, 9, "l1", 5), sold(t, 2, 9, "l1", 300), outcomeOf(t, purchase(1)), sold(t, 3, 9, "l2", 1),
		sold(t, 4, 8, "l2", 2), stranger)
	var got lines
	if n, err := shorthand.Read(text, &got); err != nil || n != 7 {
		t.Errorf("got %d items, %v", n, err)
	}
	want := []string{
		fmt.Sprintf("1 record %x", started),
		"2 sale " + purchase(1) + " session-00000001 09 l1 5",
		"3 sale " + purchase(2) + " session-00000001 09 l1 300",
		"4 outcome " + purchase(1) + " PURCHASE_STATE_REFUNDED 7",
		"5 sale " + purchase(3) + " session-00000001 09 l2 1",
		"6 sale " + purchase(4) + " session-00000001 08 l2 2",
		fmt.Sprintf("7 record %x", stranger),
	}
	if g, w := strings.Join(got.said, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	if bytes.Contains(text, []byte("tp_secret")) {
		t.Error("the text holds a payment reference")
	}
}

func TestATextThatIsNotWholeIsRefused(t *testing.T) {
	text := written(t, sold(t, 1, 9, "l1", 5), outcomeOf(t, purchase(1)))
	for n := range text {
		items, err := shorthand.Read(text[:n], &lines{})
		if whole := err == nil && items == 1; !whole && !errors.Is(err, shorthand.ErrMalformed) && (err != nil || items != 0 || n != 1) {
			t.Errorf("%d of %d bytes: got %d items, %v", n, len(text), items, err)
		}
	}
	other := bytes.Clone(text)
	other[0]++
	if _, err := shorthand.Read(other, &lines{}); !errors.Is(err, shorthand.ErrMalformed) {
		t.Errorf("another version: got %v", err)
	}
}

func TestARecordThatIsNoneIsRefused(t *testing.T) {
	var w shorthand.Writer
	for name, record := range map[string][]byte{
		"no record":  {0xff},
		"no receipt": encode(t, &regionv1.JournalRecord{Record: &regionv1.JournalRecord_Redeemed{Redeemed: "x"}}),
	} {
		if err := w.Add(record); err == nil || w.Items() != 0 {
			t.Errorf("%s: got %v and %d items", name, err, w.Items())
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(written(f, sold(f, 1, 9, "l1", 5), sold(f, 2, 9, "l1", 6), outcomeOf(f, purchase(1)), outcomeOf(f, "x")))
	f.Fuzz(func(t *testing.T, text []byte) {
		var l lines
		if _, err := shorthand.Read(text, &l); err != nil && !errors.Is(err, shorthand.ErrMalformed) {
			t.Errorf("got %v", err)
		}
	})
}

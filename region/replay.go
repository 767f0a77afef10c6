package region

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/region/lease"
)

// replay rebuilds the node from its journal: from the snapshots, and then from the records that follow. It runs before
// anything else does, so it takes no lock but where a method does.
func (n *Node) replay(ctx context.Context) error {
	through, next, err := n.replaySnapshots(ctx)
	if err != nil {
		return err
	}
	err = journal.Replay(ctx, n.deps.Journal, through, func(r journal.Record) error {
		var m regionv1.JournalRecord
		if err := proto.Unmarshal(r.Payload, &m); err != nil {
			return fmt.Errorf("decoding: %w", err)
		}
		n.offered = r.Sequence
		return n.replayRecord(r.Sequence, &m, next)
	})
	if err != nil {
		return err
	}
	n.snapshots.begin(through)
	n.grown(int(n.offered - through))
	n.life++
	n.publishCatalogue(next, n.deps.Now())
	return nil
}

func (n *Node) replayRecord(sequence int64, m *regionv1.JournalRecord, next *catalogue) error {
	t := n.till
	switch r := m.GetRecord().(type) {
	case *regionv1.JournalRecord_Started:
		n.life = r.Started.GetLife()
	case *regionv1.JournalRecord_Superseded:
		n.superseded = r.Superseded.GetBootId()
		n.setEpoch(0)
	case *regionv1.JournalRecord_Joined:
		if disk := r.Joined.GetDiskId(); disk == "" || disk == n.deps.Identity.DiskID { // "": before disks were noted
			n.setEpoch(r.Joined.GetEpoch())
		} else { // the directory moved: this disk has no epoch before it joined
			n.setEpoch(0)
		}
	case *regionv1.JournalRecord_Leased:
		t.book.Adopt(leaseOf(r.Leased))
	case *regionv1.JournalRecord_Returned:
		return t.book.Return(lease.Return{Lease: r.Returned.GetLeaseId(), Serials: r.Returned.GetSerials()})
	case *regionv1.JournalRecord_Redeemed:
		return n.replaySale(sequence, r.Redeemed)
	case *regionv1.JournalRecord_ModeChanged:
		n.takeMode(r.ModeChanged)
	case *regionv1.JournalRecord_Drop:
		d := newKnownDrop(r.Drop)
		next.drops[d.id] = d
		next.revision = max(next.revision, r.Drop.GetDrop().GetRevision())
	case *regionv1.JournalRecord_Outcome:
		t.cursor = max(t.cursor, r.Outcome.GetCursor())
		t.learn(r.Outcome.GetPurchase(), sequence)
	case *regionv1.JournalRecord_Sealed:
		t.sealAt(sequence)
	case *regionv1.JournalRecord_Keys:
		n.keys.Add(r.Keys.GetKeys()...)
	default:
		// Written by a newer program, which may have meant "never sell this": going on could break that.
		return errors.New("a kind of record that this program does not know")
	}
	return nil
}

func (n *Node) replaySale(sequence int64, text string) error {
	t := n.till
	s, err := readSale(sequence, text)
	if err != nil {
		return err
	}
	if !mutant.On(mutant.ForgetUsedSerials) {
		if err := t.book.Use(s.unit); err != nil {
			return err
		}
	}
	t.sales[s.purchaseID] = s
	t.count(s.drop, s.session, 1)
	t.keep(s)
	t.chain(text, s.acceptTime)
	return nil
}

// chain makes a receipt the one that the next one names.
func (t *till) chain(text string, acceptTime time.Time) {
	hash := sha256.Sum256([]byte(text))
	t.lastHash, t.lastAccept = hash[:], acceptTime
}

// readSale makes a durable sale of its receipt.
func readSale(sequence int64, text string) (*sale, error) {
	var receipt offerv1.Receipt
	var offer offerv1.OfferToken
	if err := token.DecodeTrusted(text, &receipt); err != nil {
		return nil, fmt.Errorf("decoding a receipt: %w", err)
	}
	if err := token.DecodeTrusted(receipt.GetOfferToken(), &offer); err != nil {
		return nil, fmt.Errorf("decoding a receipt's offer token: %w", err)
	}
	if len(offer.GetTokenId()) != 16 || len(offer.GetViewerSessionId()) != 16 {
		return nil, errors.New("a receipt without a token id or a session")
	}
	s := &sale{
		purchaseID: token.PurchaseID(offer.GetTokenId()), drop: dropText(&offer), session: [16]byte(offer.GetViewerSessionId()),
		unit: lease.Unit{Lease: receipt.GetLeaseId(), Serial: receipt.GetSerial()},
		body: bodyOf(receipt.GetPaymentReference(), receipt.GetVoucher(), receipt.GetDeliveryDetails()), acceptTime: receipt.GetAcceptTime().AsTime(),
		done: make(chan struct{}), sequence: sequence,
	}
	close(s.done)
	return s, nil
}

// setEpoch makes an epoch current that is in the journal.
func (n *Node) setEpoch(epoch int64) {
	n.till.mu.Lock()
	defer n.till.mu.Unlock()
	n.till.epoch = epoch
	n.till.book.SetEpoch(epoch)
}

func leaseOf(m *fulfillmentv1.Lease) lease.Lease {
	return lease.Lease{ID: m.GetLeaseId(), Drop: m.GetDropId(), Epoch: m.GetEpoch(), Serials: m.GetSerials()}
}

package world

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/token"
)

// law is one invariant of docs/settlement.md, section 6. check calls broken for everything that contradicts it.
type law struct {
	name, rule string
	check      func(e *Evidence, x *index, broken func(format string, args ...any))
}

// laws are all of them.
var laws = []law{
	{"I1", "at most one order per unit, delivered no more than there are", oneOrderPerUnit},
	{"I1", "at most one parcel per order, for those that are shipped", oneParcelPerOrder},
	{"I2", "at most one capture per purchase, refunds of no more than that, each once; the provider's books equal the ledger", oneCapture},
	{"I3", "every receipt reaches exactly one terminal, signed outcome", everyReceiptEnds},
	{"I4", "no genuine winning receipt ends unit-denied that came before its lease was given up", noUnitDenied},
	{"I5", "postings sum to zero; what a purchase ends in is one of goods, money back and a voucher", booksBalance},
	{"I5", "a voucher is spent once and never below zero; the ledger owes what is left of them", vouchersAreSpentOnce},
	{"caps", "a card pays for its share of a drop and no more, and is told so only then", cardsKeepTheirShare},
	{"audit", "the audit's equations hold", equationsHold},
	{"I6", "one K, one viewer session, one winner; no session gets more than its share", oneWinner},
	{"I7", "free + leased + sold = stock, and nothing stays leased or quarantined", stockAddsUp},
	{"I8", "the same request replayed gives the same answer", replaysAgree},
	{"I8", "a choice between voucher and money that was taken stands", choicesStand},
	{"I9", "nothing of an old epoch settles into a fresh lease, and none is granted under one", epochsAreFenced},
	{"I10", "a serial that a journal used is never handed out again by that node; receipts are one chain", serialsUsedOnce},
	{"I11", "a job that is done has its effect", jobsHaveEffects},
	{"I12", "no personal data in logs, metrics and errors, and no address readable between viewer and depot", nothingLeaks},
	{"I13", "after healing every saga is terminal within T", everythingSettles},
	{"I14", "with willing buyers for three times the stock, at most 1 % stays unsold", stockSells},
	{"pause", "two seconds after a pause, and until it ends, no node sells of the drop", pausedSellsNothing},
	{"time back", "a drop closes later by no more than the cap, and what is sold in that time has fulfillment's signed word for it", timeBackIsGranted},
	{"watch", "watch streams tell every change in its order, once, over any break", streamsTellAll},
	{"cancel", "a token that was cancelled is refused for ever", noesStand},
	{"fence", "a fenced node is lent nothing", fencesHold},
	{"copy", "of the processes on copies of one directory at most one goes on", copiesGiveWay},
	{"return", "a return is in the journal before it is sent", returnsAreWritten},
	{"room", "a node refuses for want of room while its disk is full, and accepts again when there is room", roomIsFound},
	{"edge", "no INTERNAL, no UNKNOWN, no answer that the protocol does not know", answersAreTyped},
}

// index is the evidence by its keys.
type index struct {
	receipts   map[string]opened // by text; only genuine ones
	unreadable map[string]bool   // those of them that only lost journals had
	forged     []string          // what is wrong with the others
	lost       map[string]bool   // those whose key nobody knows any more
	purchases  map[string]*Purchase
	byToken    map[string]*Purchase
	candidates map[string][]*Candidate // by token
	drops      map[string]int          // id to place in Config.Drops
}

// opened is what a receipt says.
type opened struct {
	purchase, token, session, drop, lease, nodeID string
	serial                                        uint32
	epoch                                         int64
	previous                                      []byte
	late                                          time.Duration // accepted after the token's time
	accepted                                      time.Time
	offered                                       time.Time
	closes                                        time.Time // by the word that the offer carries; zero: none that is genuine
}

func newIndex(e *Evidence) *index {
	x := &index{
		receipts: map[string]opened{}, lost: map[string]bool{}, unreadable: map[string]bool{}, purchases: map[string]*Purchase{}, byToken: map[string]*Purchase{},
		candidates: map[string][]*Candidate{}, drops: map[string]int{},
	}
	keys := e.keys()
	see := func(text, host, where string) {
		if _, known := x.receipts[text]; known {
			return
		}
		r, offer, err := keys.OpenReceipt(text)
		if errors.Is(err, token.ErrUnknownKey) && e.Config.losesKeys(host) {
			x.lost[text] = true
			return
		}
		if err != nil {
			x.forged = append(x.forged, fmt.Sprintf("a receipt %s: %v", where, err))
			return
		}
		var closes time.Time
		if w, err := keys.OpenTimeBack(offer.GetTimeBack()); err == nil && bytes.Equal(w.GetDropId(), offer.GetDropId()) {
			closes = time.UnixMicro(w.GetCloseTimeUs())
		}
		x.receipts[text] = opened{
			purchase: r.GetPurchaseId(), token: hex.EncodeToString(offer.GetTokenId()), session: hex.EncodeToString(offer.GetViewerSessionId()),
			drop: ids.Text(offer.GetDropId()), lease: r.GetLeaseId(), nodeID: r.GetNodeId(), serial: r.GetSerial(), epoch: r.GetEpoch(),
			previous: r.GetPreviousReceiptHash(), late: r.GetAcceptTime().AsTime().Sub(time.UnixMicro(offer.GetExpireTimeUs())),
			accepted: r.GetAcceptTime().AsTime(), offered: time.UnixMicro(offer.GetIssueTimeUs()), closes: closes,
		}
	}
	read := map[string]bool{}
	for _, j := range e.Journals {
		for _, entry := range j.Entries {
			if entry.Kind == "redeemed" {
				see(entry.Receipt, j.Host, fmt.Sprintf("in record %d of %s", entry.Sequence, j.Host))
				read[entry.Receipt] = read[entry.Receipt] || !j.Lost
			}
		}
	}
	for _, a := range e.Answers {
		see(a.Receipt, a.Region, fmt.Sprintf("that viewer %d got from %s", a.Viewer, a.Region))
	}
	for text, living := range read {
		x.unreadable[text] = !living
	}
	for i := range e.Purchases {
		p := &e.Purchases[i]
		x.purchases[p.ID], x.byToken[p.Token] = p, p
	}
	for i := range e.Candidates {
		c := &e.Candidates[i]
		x.candidates[c.Token] = append(x.candidates[c.Token], c)
	}
	for i, id := range e.DropIDs {
		x.drops[id] = i
	}
	return x
}

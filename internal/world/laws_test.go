package world_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/balance"
	"github.com/rimlight/rimlight/internal/world"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
	"github.com/rimlight/rimlight/verifier/saga"
)

// doctored is one lie about a world that kept every law, and the law that must notice it.
type doctored struct {
	law, lie string
	tell     func(*world.Evidence)
}

func delivered(e *world.Evidence) *world.Purchase { return nth(e, saga.Delivered, 0) }

// nth is the n-th purchase in a state.
func nth(e *world.Evidence, s saga.State, n int) *world.Purchase {
	for i := range e.Purchases {
		if e.Purchases[i].State == s {
			if n--; n < 0 {
				return &e.Purchases[i]
			}
		}
	}
	panic("no such purchase in the evidence")
}

func without[T any](list []T, drop func(T) bool) []T {
	i := slices.IndexFunc(list, drop)
	return slices.Delete(slices.Clone(list), i, i+1)
}

func entry(j *world.Journal, kind string) world.Entry {
	return j.Entries[slices.IndexFunc(j.Entries, func(e world.Entry) bool { return e.Kind == kind })]
}

var lies = []doctored{
	{"return", "a unit went back that the journal has", func(e *world.Evidence) {
		e.Returns = append(e.Returns, world.Return{Host: e.Journals[0].Host, Lease: "lease", Serials: []uint32{1}})
	}},
	{"cancel", "a token of a delivered purchase was cancelled", func(e *world.Evidence) {
		e.Cancelled = append(e.Cancelled, delivered(e).Token)
	}},
	{"cancel", "a cancelled token is unknown", func(e *world.Evidence) { e.Cancelled = append(e.Cancelled, "00") }},
	{"cancel", "a cancelled token is unknown, and a restored verifier forgot another one", func(e *world.Evidence) {
		e.Cancelled, e.Lost = append(e.Cancelled, "00"), []world.Lost{{Cancelled: map[string]bool{"01": true}}}
	}},
	{"I3", "a purchase was delivered before a restore, and ended otherwise after it", func(e *world.Evidence) {
		p := delivered(e)
		e.Lost = []world.Lost{{Histories: map[string][]int{p.ID: {int(saga.Delivered)}}}}
		p.State, p.Outcome = saga.Voucher, "another"
	}},
	{"I3", "an end was signed twice, and a restored verifier had not forgotten the first", func(e *world.Evidence) {
		p := delivered(e)
		e.Lost = []world.Lost{{Histories: map[string][]int{p.ID: {int(saga.Received)}}}}
		p.Outcome = "another"
	}},
	{"I4", "a receipt was denied its unit, and a restored verifier forgot another release", func(e *world.Evidence) {
		e.Lost = []world.Lost{{Released: map[string]bool{"lease/1": true}}}
		nth(e, saga.Voucher, 0).Reason = saga.UnitDenied
	}},
	{"watch", "a purchase's stream went back, and a restored verifier forgot other states", func(e *world.Evidence) {
		t := &e.Told[longest(e)]
		e.Lost = []world.Lost{{Histories: map[string][]int{t.PurchaseID: {int(saga.Refunded)}}}}
		slices.Reverse(t.States)
	}},
	{"fence", "a node got stock after it was fenced", func(e *world.Evidence) {
		l := e.Leases[3]
		e.Fences = append(e.Fences, world.Fenced{Node: l.Node, Drop: l.Drop, Epoch: l.Epoch, Leases: 3})
	}},
	{"copy", "two processes go on that began from one directory", func(e *world.Evidence) { copyOf(e, e.Journals[0], "none", 1) }},
	{"I9", "a unit of a lease that was given up is delivered", func(e *world.Evidence) {
		e.Tombstones[delivered(e).Lease] = 1
	}},
	{"room", "a node still finds no room", func(e *world.Evidence) { e.StillFull = []string{"us-central1"} }},
	{"room", "a node finds no room on an empty disk", func(e *world.Evidence) {
		e.FullSpans = []world.FullSpan{{Host: "us-central1", From: time.Second, To: 2 * time.Second}}
		e.RoomRefusals = []world.RoomRefusal{{Host: "europe-west3", At: time.Second}}
	}},
	{"I1", "a unit has a second order", func(e *world.Evidence) {
		o := e.Orders[0]
		o.ID, o.LicenceKey = "other", "other"
		e.Orders = append(e.Orders, o)
	}},
	{"I1", "more was delivered than there is", func(e *world.Evidence) { e.Config.Drops[0].Units = 1 }},
	{"I1", "one licence key was given away twice", func(e *world.Evidence) { e.Orders[0].LicenceKey = e.Orders[1].LicenceKey }},
	{"I2", "a purchase is charged twice", func(e *world.Evidence) { e.Charges = append(e.Charges, e.Charges[0]) }},
	{"I2", "a delivered purchase is not charged", func(e *world.Evidence) { e.Charges = e.Charges[1:] }},
	{"I2", "a failed purchase is charged", func(e *world.Evidence) {
		p := nth(e, saga.Voucher, 0)
		e.Charges = append(e.Charges, world.Charge{Purchase: p.ID, Currency: p.Currency, MinorUnits: p.MinorUnits})
	}},
	{"I2", "a charge has another amount", func(e *world.Evidence) { e.Charges[0].MinorUnits++ }},
	{"I3", "a receipt has no end", func(e *world.Evidence) { e.Endings = e.Endings[1:] }},
	{"I3", "an outcome is another purchase's", func(e *world.Evidence) { e.Endings[0].Outcome = e.Endings[1].Outcome }},
	{"I3", "an outcome is forged", func(e *world.Evidence) { e.Endings[0].Outcome += "AAAA" }},
	{"I3", "a viewer was told another state than was signed", func(e *world.Evidence) { e.Endings[0].State = "PURCHASE_STATE_SHIPPED" }},
	{"I3", "an accepted purchase never reached the verifier", func(e *world.Evidence) { e.Purchases = e.Purchases[1:] }},
	{"I3", "a receipt is forged", func(e *world.Evidence) { e.Answers[0].Receipt = e.Answers[0].Receipt[:len(e.Answers[0].Receipt)-4] }},
	{"I3", "a purchase is not final", func(e *world.Evidence) { delivered(e).State = saga.Ordered }},
	{"I4", "a genuine receipt was denied its unit", func(e *world.Evidence) { nth(e, saga.Voucher, 0).Reason = saga.UnitDenied }},
	{"I5", "a posting is a cent too much", func(e *world.Evidence) { e.Postings[0].MinorUnits++ }},
	{"I5", "a voucher is missing", func(e *world.Evidence) { e.Vouchers = e.Vouchers[1:] }},
	{"I5", "a buyer who got the goods has a voucher too", func(e *world.Evidence) {
		e.Vouchers = append(e.Vouchers, world.Voucher{Token: delivered(e).Token, Kind: 1})
	}},
	{"I6", "a token has two winners", func(e *world.Evidence) { e.Candidates = append(e.Candidates, winnerOf(e, delivered(e).Token)) }},
	{"I6", "a purchase changed its session", func(e *world.Evidence) { delivered(e).Session = strings.Repeat("0", 32) }},
	{"I6", "a session got two units of a drop", func(e *world.Evidence) {
		one, two := nth(e, saga.Delivered, 0), nth(e, saga.Delivered, 1)
		two.Drop, two.Session = one.Drop, one.Session
	}},
	{"I7", "a unit stays leased", func(e *world.Evidence) { e.Units[0].State = 2 }},
	{"I7", "a sold unit is nobody's", func(e *world.Evidence) { e.Units[soldUnit(e)].Token = "" }},
	{"I7", "a sold unit is free", func(e *world.Evidence) { e.Units[soldUnit(e)].State = 1 }},
	{"I7", "a unit is missing", func(e *world.Evidence) { e.Units = e.Units[1:] }},
	{"I8", "a repeat was answered with another receipt", func(e *world.Evidence) {
		a := e.Answers[0]
		a.Receipt = e.Answers[1].Receipt
		e.Answers = append(e.Answers, a)
	}},
	{"I8", "a purchase has two outcomes", func(e *world.Evidence) {
		end := e.Endings[0]
		end.Outcome = e.Endings[1].Outcome
		e.Endings = append(e.Endings, end)
	}},
	{"I4", "a receipt came in time and was denied its unit", func(e *world.Evidence) {
		p := nth(e, saga.Voucher, 0)
		p.Reason, p.Arrived = saga.UnitDenied, time.Second
		e.Tombstones = map[string]time.Duration{p.Lease: time.Hour}
	}},
	{"I7", "a lease stays quarantined", func(e *world.Evidence) { e.Leases[0].State, e.Leases[0].Quarantined = 2, true }},
	{"I9", "a lease was granted under an old epoch", func(e *world.Evidence) {
		last := e.Leases[len(e.Leases)-1]
		last.Epoch--
		e.Leases = append(e.Leases, last)
	}},
	{"I9", "a lease was given up before its drop was over", func(e *world.Evidence) {
		e.Tombstones = map[string]time.Duration{e.Leases[0].ID: 20 * time.Second}
	}},
	{"I9", "a redemption settled into another node's lease", func(e *world.Evidence) {
		for i := range e.Leases {
			e.Leases[i].Node = "another"
		}
	}},
	{"I10", "a serial is sold twice from one lease", func(e *world.Evidence) {
		j := &e.Journals[0]
		j.Entries = append(j.Entries, entry(j, "redeemed"))
	}},
	{"I10", "a serial is sold after it went back", func(e *world.Evidence) {
		j := &e.Journals[0]
		sold := entry(j, "redeemed")
		for _, c := range e.Candidates {
			if c.Receipt == sold.Receipt {
				back := world.Entry{Kind: "returned", Lease: c.Lease, Serials: []uint32{c.Serial}}
				i := slices.IndexFunc(j.Entries, func(x world.Entry) bool { return x.Receipt == sold.Receipt })
				j.Entries = slices.Insert(j.Entries, i, back)
				return
			}
		}
	}},
	{"I10", "a receipt fell out of the chain", func(e *world.Evidence) {
		j := &e.Journals[0]
		j.Entries = without(j.Entries, func(x world.Entry) bool { return x.Kind == "redeemed" })
	}},
	{"I11", "a job is open", func(e *world.Evidence) { e.Jobs = []world.Job{{Kind: "order"}} }},
	{"I11", "a delivered purchase has no order", func(e *world.Evidence) { e.Orders = e.Orders[1:] }},
	{"I11", "an order delivered another unit", func(e *world.Evidence) { e.Orders[0].Serial += 10_000 }},
	{"I11", "a released unit is still sold", func(e *world.Evidence) {
		p, u := nth(e, saga.Voucher, 0), &e.Units[soldUnit(e)]
		u.Lease, u.Token, u.Serial = p.Lease, p.Token, p.Serial
	}},
	{"I12", "a receipt is in the log", func(e *world.Evidence) { e.Heard += "\n" + e.Answers[0].Receipt + "\n" }},
	{"I12", "a licence key is in the log", func(e *world.Evidence) { e.Heard += " key=" + e.Orders[0].LicenceKey }},
	{"I13", "something is still open", func(e *world.Evidence) { e.Unfinished = 1 }},
	{"I13", "a viewer still waits", func(e *world.Evidence) { e.Complete = false }},
	{"I13", "a drop is not settled", func(e *world.Evidence) { e.DropStates[0] = "open" }},
	{"I14", "a wanted unit stayed unsold", func(e *world.Evidence) {
		for i, u := range e.Units {
			if u.Drop == e.DropIDs[2] && u.State == 3 {
				e.Units[i].State, e.Units[i].Released = 1, 0
			}
		}
	}},
	{"watch", "a change was told twice", func(e *world.Evidence) {
		w := &e.Watched[0]
		w.Items = append([]world.Item{w.Items[0]}, w.Items...)
	}},
	{"watch", "a change was not told", func(e *world.Evidence) { e.Watched[1].Items = e.Watched[1].Items[1:] }},
	{"watch", "two changes came in the wrong order", func(e *world.Evidence) {
		items := e.Watched[0].Items
		items[0], items[len(items)-1] = items[len(items)-1], items[0]
	}},
	{"watch", "the catalogue's stream missed a change", func(e *world.Evidence) { e.Boards[0].Drops[e.DropIDs[0]]-- }},
	{"watch", "the catalogue's stream missed a change, and told the next one", func(e *world.Evidence) { e.Boards[0].Missed = 1 }},
	{"watch", "the catalogue's stream told a change twice", func(e *world.Evidence) { e.Boards[0].Repeats = 1 }},
	{"watch", "the catalogue's stream began anew", func(e *world.Evidence) { e.Boards[0].Restarts = 1 }},
	{"watch", "a region's viewers never heard that a drop is settled", func(e *world.Evidence) { e.Boards[1].Drops[e.DropIDs[0]]-- }},
	{"watch", "a region's viewers never heard of a drop", func(e *world.Evidence) { delete(e.Boards[1].Drops, e.DropIDs[0]) }},
	{"watch", "a purchase's stream went back", func(e *world.Evidence) { slices.Reverse(e.Told[longest(e)].States) }},
	{"watch", "a purchase's stream told a state twice", func(e *world.Evidence) {
		t := &e.Told[longest(e)]
		t.States = append(t.States, t.States[len(t.States)-1])
	}},
	{"watch", "a cursor went back", func(e *world.Evidence) { e.Watched[0].Backwards = 1 }},
	{"I3", "a viewer was told no for good and was charged", func(e *world.Evidence) {
		e.Noes = []world.No{{Viewer: 1, PurchaseID: delivered(e).ID}}
	}},
	{"pause", "a drop was paused all the while and sold", func(e *world.Evidence) {
		e.Pauses = []world.Pause{{Drop: delivered(e).Drop, To: e.Settled}}
	}},
	{"time back", "a drop was closed later than the cap allows", func(e *world.Evidence) {
		c := e.Closings[delivered(e).Drop]
		c.Granted = c.Granted.Add(31 * time.Second)
		e.Closings[delivered(e).Drop] = c
	}},
	{"time back", "a drop was to close earlier, and was sold from after that without a word", func(e *world.Evidence) {
		for i := range e.Config.Drops {
			e.Config.Drops[i].Lasts = 0
		}
	}},
	{"audit", "an equation does not hold", func(e *world.Evidence) { e.Equations = []balance.Equation{{Law: "all is well"}} }},
	{"edge", "a service answered INTERNAL", func(e *world.Evidence) { e.Misdeeds = map[string]int{"a method": 1} }},
	{"edge", "a viewer got an answer that is none", func(e *world.Evidence) { e.Surprises = []string{"UNKNOWN"} }},
}

// longest finds the stream that told a purchase's most states.
func longest(e *world.Evidence) (at int) {
	for i, t := range e.Told {
		if len(t.States) > len(e.Told[at].States) {
			at = i
		}
	}
	return at
}

func soldUnit(e *world.Evidence) int {
	return slices.IndexFunc(e.Units, func(u world.Unit) bool { return u.State == 3 })
}

func winnerOf(e *world.Evidence, token string) world.Candidate {
	return e.Candidates[slices.IndexFunc(e.Candidates, func(c world.Candidate) bool { return c.Token == token && c.State == 1 })]
}

// Each law notices each lie that it is about.
func TestLawsNoticeLies(t *testing.T) {
	t.Parallel()
	truth, all := tellTruth(t, world.Calm(7).Scaled(10)), lies
	for name, form := range world.CanaryForms() {
		all = append(all, doctored{"I12", "a viewer's data is in the log, " + name, func(e *world.Evidence) {
			e.Heard += fmt.Sprintf(`{"level":"WARN","error":"..%s.."}`, form)
		}})
	}
	// What a library would print of a session, whatever its place in the text.
	for shift := range 3 {
		all = append(all, doctored{"I12", fmt.Sprintf("a session is in the log, as JSON with %d bytes before", shift), func(e *world.Evidence) {
			b, _ := json.Marshal([]byte(strings.Repeat("\x7f", shift) + "canary-session"))
			e.Heard += string(b)
		}})
	}
	noticed := noticeLies(t, truth, all)
	for _, law := range []string{"audit", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "watch", "cancel", "fence", "return", "room", "copy", "edge"} {
		if !noticed[law] {
			t.Errorf("nobody lied about %s", law)
		}
	}
}

// tellTruth plays a world that keeps every law.
func tellTruth(t *testing.T, cfg world.Config) (truth *world.Evidence) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if truth, err = world.Play(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	})
	if r := world.Judge(truth); len(r.Violations) > 0 {
		t.Fatal(r)
	}
	return truth
}

// noticeLies tells each lie to the laws, and which laws lies were told about.
func noticeLies(t *testing.T, truth *world.Evidence, all []doctored) map[string]bool {
	noticed := map[string]bool{}
	for _, d := range all {
		t.Run(d.law+" "+d.lie, func(t *testing.T) {
			e := clone(t, truth)
			d.tell(e)
			if broken := world.Judge(e).Broken(); !slices.Contains(broken, d.law) {
				t.Errorf("it breaks %v", broken)
			}
		})
		noticed[d.law] = true
	}
	return noticed
}

func clone(t *testing.T, e *world.Evidence) *world.Evidence {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	c := &world.Evidence{}
	if err := json.Unmarshal(b, c); err != nil {
		t.Fatal(err)
	}
	c.Config = e.Config
	c.Config.Drops = slices.Clone(e.Config.Drops)
	return c
}

// mutation is a guard that is switched off in the running platform, with the laws of which at least one must break.
type mutation struct {
	off  string
	laws []string
	cfg  world.Config
}

// crashing is a node that loses its power often in the middle of its sales.
func crashing(seed uint64) world.Config {
	cfg := shop(seed, 300, 700)
	cfg.SyncTime = 50 * time.Millisecond
	for i := range 8 {
		cfg.Schedule = append(cfg.Schedule, world.Fault{
			Kind: world.Crash, Host: "us-central1", At: time.Duration(18+10*i) * time.Second, For: 2 * time.Second,
		})
	}
	return cfg
}

var mutations = []mutation{
	{"the provider charges once", []string{"I2"}, shop(11, 30, 60).WithPayment(func(p *testpsp.Provider) payment.Provider {
		return &chargesTwice{Provider: p, made: map[string]payment.Request{}}
	})},
	{"units of duplicates and of failed purchases are released", []string{"I7"}, world.Calm(12).Scaled(20).
		WithStock(func(c fulfillmentv1.StockServiceClient) fulfillmentv1.StockServiceClient { return &releasesNothing{c} })},
	{"a receipt is answered after the fsync", []string{"I3"}, crashing(13).WithJournal(func(m *journal.Memory) world.BrokenJournal {
		return newHasty(m)
	})},
	{"a replay remembers used serials", []string{"I10"}, crashing(14).WithJournal(func(m *journal.Memory) world.BrokenJournal {
		return &forgets{Memory: m}
	})},
}

// Each guard is what holds a law: without it the world breaks.
func TestLawsNoticeMissingGuards(t *testing.T) {
	long(t)
	t.Parallel()
	for _, m := range mutations {
		t.Run(m.off, func(t *testing.T) {
			r := observe(t, m.cfg)
			if !slices.ContainsFunc(m.laws, func(law string) bool { return slices.Contains(r.Broken(), law) }) {
				t.Errorf("broke %v, want one of %v\n%v", r.Broken(), m.laws, r)
			}
		})
	}
}

// chargesTwice makes and captures a second intent with a key of its own, as a caller would that takes a fresh key after
// an unknown outcome.
type chargesTwice struct {
	*testpsp.Provider

	mu   sync.Mutex // guards made
	made map[string]payment.Request
}

func (p *chargesTwice) CreateIntent(ctx context.Context, key string, r payment.Request) (payment.Intent, error) {
	in, err := p.Provider.CreateIntent(ctx, key, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[in.ID] = r
	return in, err
}

func (p *chargesTwice) Capture(ctx context.Context, id string) (payment.Intent, error) {
	p.mu.Lock()
	r := p.made[id]
	p.mu.Unlock()
	again, err := p.Provider.CreateIntent(ctx, "fresh key "+id, r)
	if err == nil {
		_, err = p.Confirm(ctx, again.ID)
	}
	if err == nil {
		_, err = p.Provider.Capture(ctx, again.ID)
	}
	if err != nil {
		return payment.Intent{}, err
	}
	return p.Provider.Capture(ctx, id)
}

// releasesNothing says that it did.
type releasesNothing struct {
	fulfillmentv1.StockServiceClient
}

func (*releasesNothing) ReleaseUnits(context.Context, *fulfillmentv1.ReleaseUnitsRequest, ...grpc.CallOption) (*fulfillmentv1.ReleaseUnitsResponse, error) {
	return &fulfillmentv1.ReleaseUnitsResponse{}, nil
}

// hasty tells that records are durable before they are: a second disk that takes no time answers for the real one.
type hasty struct {
	*journal.Memory
	quick *journal.Memory
}

func newHasty(m *journal.Memory) *hasty {
	h := &hasty{m, (&journal.Disk{}).OpenMemory(journal.MemoryOptions{})}
	err := journal.Replay(context.Background(), m, 0, func(r journal.Record) error {
		_, err := journal.Append(context.Background(), h.quick, r.Payload)
		return err
	})
	if err != nil {
		panic(err)
	}
	return h
}

func (h *hasty) Enqueue(payloads ...[]byte) (*journal.Commit, error) {
	if _, err := h.Memory.Enqueue(payloads...); err != nil {
		return nil, err
	}
	return h.quick.Enqueue(payloads...)
}

func (h *hasty) Close() error {
	if err := h.quick.Close(); err != nil {
		return err
	}
	return h.Memory.Close()
}

func (h *hasty) Crash() {
	h.quick.Crash()
	h.Memory.Crash()
}

// forgets leaves redemptions out when the node replays, for which it reads all records.
type forgets struct {
	*journal.Memory
	replayed bool // a page that is not full was the last one
}

func (*forgets) ReadSnapshots(context.Context, func(journal.Snapshot) error) error { return nil }

func (f *forgets) ReadAfter(ctx context.Context, sequence int64, limit int) ([]journal.Record, error) {
	records, err := f.Memory.ReadAfter(ctx, sequence, limit)
	if f.replayed || err != nil {
		return records, err
	}
	f.replayed = len(records) < limit
	for i := range records {
		var m regionv1.JournalRecord
		if err := proto.Unmarshal(records[i].Payload, &m); err != nil {
			return nil, err
		}
		if m.GetRedeemed() != "" { // replaced by what says nothing
			if records[i].Payload, err = proto.Marshal(&regionv1.JournalRecord{Record: &regionv1.JournalRecord_Keys{Keys: &regionv1.KeysSeen{}}}); err != nil {
				return nil, err
			}
		}
	}
	return records, nil
}

// The same seed draws the same audience and the same faults, another seed others.
func TestPlanFollowsFromTheSeed(t *testing.T) {
	a, b, c := world.NewPlan(world.Stormy(1)), world.NewPlan(world.Stormy(1)), world.NewPlan(world.Stormy(2))
	if !reflect.DeepEqual(a, b) {
		t.Error("one seed drew two plans")
	}
	if reflect.DeepEqual(a, c) {
		t.Error("two seeds drew one plan")
	}
}

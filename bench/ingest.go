package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// ingester is a verifier that takes redemptions in and does nothing else with them: its loops do not run.
type ingester struct {
	keys    []*offerv1.SigningKey
	signers []*token.Signer // of nodes
	client  verifierv1.VerifierServiceClient
	closers []func() error
}

// keyService answers for fulfillment: it knows the nodes' keys.
type keyService struct {
	fulfillmentv1.StockServiceClient
	keys []*offerv1.SigningKey
}

// ListNodeKeys implements StockServiceClient.
func (k keyService) ListNodeKeys(context.Context, *fulfillmentv1.ListNodeKeysRequest, ...grpc.CallOption) (*fulfillmentv1.ListNodeKeysResponse, error) {
	return &fulfillmentv1.ListNodeKeysResponse{Keys: k.keys}, nil
}

type (
	noOrders struct {
		fulfillmentv1.OrderServiceClient
	}
	noCatalog struct {
		fulfillmentv1.CatalogServiceClient
	}
)

func newIngester(ctx context.Context, db *sqldb.DB, dir string) (in *ingester, err error) {
	in = &ingester{}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.close())
		}
	}()
	for range rawWriters {
		seed, err := token.NewSeed(rand.Reader)
		if err != nil {
			return in, err
		}
		signer, err := token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_NODE, ids.NewV7(time.Now(), rand.Reader), "bench")
		if err != nil {
			return in, err
		}
		in.signers, in.keys = append(in.signers, signer), append(in.keys, signer.Public())
	}
	books, err := sqldb.OpenSQLite(ctx, filepath.Join(dir, "unused-psp.db"))
	if err != nil {
		return in, err
	}
	in.closers = append(in.closers, books.Close)
	psp, err := testpsp.New(books, testpsp.Config{Now: time.Now, Random: rand.Reader})
	if err != nil {
		return in, err
	}
	svc, err := verifier.New(verifier.Config{}, verifier.Deps{
		DB: db, Stock: keyService{keys: in.keys}, Orders: noOrders{}, Catalog: noCatalog{}, Payment: psp, Now: time.Now, Random: rand.Reader,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return in, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return in, err
	}
	server := grpc.NewServer()
	svc.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	in.closers = append(in.closers, func() error { server.Stop(); return <-served })
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return in, err
	}
	in.closers = append(in.closers, conn.Close)
	in.client = verifierv1.NewVerifierServiceClient(conn)
	return in, nil
}

func (in *ingester) close() error {
	var errs []error
	for i := len(in.closers) - 1; i >= 0; i-- {
		errs = append(errs, in.closers[i]())
	}
	return errors.Join(errs...)
}

// receipts are batches of what a node accepted.
func (in *ingester) receipts(node, batches int) ([][]*verifierv1.JournalEntry, error) {
	signer, lease := in.signers[node], ids.NewV7(time.Now(), rand.Reader)
	drop, err := newID()
	if err != nil {
		return nil, err
	}
	all := make([][]*verifierv1.JournalEntry, batches)
	for i := range batches * rawBatch {
		k, err := newID()
		if err != nil {
			return nil, err
		}
		now := time.Now()
		offer, err := signer.OfferToken(&offerv1.OfferToken{
			TokenId: k[:], DropId: drop[:], OfferVersion: 1, ViewerSessionId: k[:], Arm: "five", Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900},
			IssueTimeUs: now.UnixMicro(), ExpireTimeUs: now.Add(time.Minute).UnixMicro(),
		})
		if err != nil {
			return nil, err
		}
		receipt, err := signer.Receipt(&offerv1.Receipt{
			OfferToken: offer, PurchaseId: token.PurchaseID(k[:]), Serial: uint32(i + 1), LeaseId: lease, Epoch: 1,
			NodeId: in.keys[node].GetNodeId(), Region: "bench", AcceptTime: timestamppb.New(now), PaymentReference: "tp_ok",
		})
		if err != nil {
			return nil, err
		}
		all[i/rawBatch] = append(all[i/rawBatch], &verifierv1.JournalEntry{Sequence: int64(i + 1), Receipt: receipt})
	}
	return all, nil
}

// forward is a node's stream: it sends its batches and reads until the last is acknowledged.
func (in *ingester) forward(ctx context.Context, node int, batches [][]*verifierv1.JournalEntry) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := in.client.SubmitRedemptions(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Hello{Hello: &verifierv1.Hello{
		NodeId: in.keys[node].GetNodeId(), Region: "bench", JournalId: "bench", OutcomeCursor: 1 << 40, // news is another figure
	}}}); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error {
		for _, b := range batches {
			if err := stream.Send(&verifierv1.SubmitRedemptionsRequest{Message: &verifierv1.SubmitRedemptionsRequest_Batch{
				Batch: &verifierv1.EntryBatch{Entries: b},
			}}); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		defer cancel() // a send may wait for a stream that nobody reads any more
		for last := int64(len(batches) * rawBatch); ; {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			if ack := m.GetAcknowledgement(); len(ack.GetRejectedSequences()) > 0 {
				return fmt.Errorf("%d receipts were rejected", len(ack.GetRejectedSequences()))
			} else if ack.GetSequence() == last {
				return nil
			}
		}
	})
	return g.Wait()
}

// ingest measures, on stores of one engine, receipts that the verifier takes in, and the rows that it makes of one, put
// into the same tables by its own store without a signature or a question.
func (e *settler) ingest(ctx context.Context, batches int) (err error) {
	db, err := e.open(ctx, e.dir, "ingest", verifier.Migrate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	in, err := newIngester(ctx, db, e.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	each := max(1, batches/rawWriters)
	all := make([][][]*verifierv1.JournalEntry, rawWriters)
	for node := range all {
		if all[node], err = in.receipts(node, each); err != nil {
			return err
		}
	}
	took, err := together(ctx, func(ctx context.Context, node int) error { return in.forward(ctx, node, all[node]) })
	if err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	e.ingested = append(e.ingested, float64(each*rawWriters*rawBatch)/took.Seconds())
	rows := store.New(db)
	took, err = together(ctx, func(ctx context.Context, _ int) error {
		for range each {
			if err := rows.Write(ctx, bareRows(ctx)); err != nil {
				return err
			}
		}
		return nil
	})
	e.bare = append(e.bare, float64(each*rawWriters*rawBatch)/took.Seconds())
	return err
}

func together(ctx context.Context, do func(context.Context, int) error) (time.Duration, error) {
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range rawWriters {
		g.Go(func() error { return do(ctx, i) })
	}
	err := g.Wait()
	return time.Since(start), err
}

// bareRows is a batch of purchases that were received: purchase, redemption, job, event.
func bareRows(ctx context.Context) func(*store.Tx) error {
	receipt, node := fmt.Sprintf("%0*d", rawBytes, 0), store.ID{1}
	return func(tx *store.Tx) error {
		arrival, err := tx.TakeArrivals(ctx, rawBatch)
		if err != nil {
			return err
		}
		for i := range rawBatch {
			k, err := newID()
			if err != nil {
				return err
			}
			p := &store.Purchase{
				TokenID: k, PurchaseID: k, Arrival: arrival + int64(i), DropID: node, ViewerSessionID: k, State: saga.Received, NodeID: node,
				Serial: uint32(i + 1), LeaseID: k, CurrencyCode: "EUR", MinorUnits: 1900, Charged: 1900, PaymentReference: "tp_ok",
			}
			c := &store.Candidate{TokenID: k, NodeID: node, Serial: p.Serial, LeaseID: k, Arrival: p.Arrival, State: store.Winner, Receipt: receipt}
			if err := errors.Join(tx.InsertPurchase(ctx, p), tx.InsertCandidate(ctx, c), tx.AddJob(ctx, store.Job{Kind: store.SettleJob, TokenID: k}, 1)); err != nil {
				return err
			}
			tx.Announce(p)
		}
		return nil
	}
}

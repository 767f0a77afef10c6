package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc"
)

// perConnection is what a port for strangers allows.
const perConnection = 64

// settled is how long a crowd is left alone before its memory is read: handshakes leave garbage behind.
const settled = 5 * time.Second

// measureStreams holds idle viewers at a router that is a process of its own, and tells all of them news.
func measureStreams(ctx context.Context, s settings) (section, error) {
	memory := table{header: []string{"idle WatchDrops streams over TLS", "streams", "resident memory of the router, MiB", "more than without, KiB per stream"}}
	fanOut := table{header: []string{"a new drop, from CreateDrop to", "median round, ms", "lowest to highest round"}}
	program, err := s.build(ctx, "rimlight", nil)
	if err != nil {
		return section{}, err
	}
	cert, err := certificate(s.dir)
	if err != nil {
		return section{}, err
	}
	crowd := s.pick(5_000, 50)
	err = inWorld(ctx, s.dir, func(w *world) error {
		return s.besideRouterProcess(ctx, program.path, w.addr, cert, func(ctx context.Context, pid int, addr string) error {
			empty, err := processMemory(pid)
			if err != nil {
				return err
			}
			for _, row := range []struct {
				name         string
				streams, per int
			}{
				{"one a connection, as browsers are", s.pick(2_000, 20), 1},
				{fmt.Sprintf("%d a connection", perConnection), s.pick(10_000, 100), perConnection},
			} {
				held, err := s.crowd(ctx, addr, row.streams, row.per, nil, func(ctx context.Context) error {
					return pause(ctx, time.Duration(s.pick(int(settled), 0)))
				}, pid)
				if err != nil {
					return err
				}
				memory.add(row.name, fmt.Sprint(row.streams), mebibytes(held.now), fmt.Sprintf("%.0f", float64(held.now-empty.now)/float64(row.streams)/1024))
			}
			return s.tell(ctx, w, addr, crowd, &fanOut)
		})
	})
	return section{
		tables: []table{memory, fanOut},
		cannot: fmt.Sprintf("viewers on a network: all are on this machine, %d of them in the process that also runs the region's node, and share its cores "+
			"with the router. The second row of memory reuses what the first one left to the Go runtime. Memory is resident memory with the runtime's own slack in it; "+
			"the node's end of each stream is not in it. The way to the last stream holds the producer's call and fulfillment's commit.", crowd),
	}, err
}

// crowd holds streams at a router while fn runs, and tells the router's memory at its end.
func (s settings) crowd(
	ctx context.Context, addr string, streams, per int, heard func(*offerv1.WatchDropsResponse), fn func(context.Context) error, pid int,
) (memory, error) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	var conns []*grpc.ClientConn
	defer func() {
		for _, c := range conns {
			_ = c.Close() // the figure is taken
		}
	}()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer leave()
	var opened errgroup.Group
	opened.SetLimit(callers)
	for i := 0; i < streams; i += per {
		conn, err := rpc.Dial(addr, rpc.DialConfig{TLS: &tls.Config{InsecureSkipVerify: true}}) // made for this run
		if err != nil {
			return memory{}, err
		}
		conns = append(conns, conn)
		for range min(per, streams-i) {
			opened.Go(func() error {
				stream, err := offerv1.NewOfferServiceClient(conn).WatchDrops(ctx, &offerv1.WatchDropsRequest{})
				if err != nil {
					return err
				}
				if _, err = stream.Recv(); err != nil {
					return err
				}
				watching.Go(func() {
					for m, err := stream.Recv(); err == nil; m, err = stream.Recv() {
						if heard != nil {
							heard(m)
						}
					}
				})
				return nil
			})
		}
	}
	if err := opened.Wait(); err != nil {
		return memory{}, err
	}
	if err := fn(ctx); err != nil {
		return memory{}, err
	}
	return processMemory(pid)
}

// tell plans drops, and times until the streams of a crowd have heard of each.
func (s settings) tell(ctx context.Context, w *world, addr string, streams int, t *table) error {
	var mu sync.Mutex // guards what is below
	var news string   // the drop that is waited for
	var at []time.Duration
	var begin time.Time
	all := make(chan struct{}, 1)
	heard := func(m *offerv1.WatchDropsResponse) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		if news == "" || m.GetChanged().GetTitle() != news {
			return
		}
		if at = append(at, now.Sub(begin)); len(at) == streams {
			news = ""
			all <- struct{}{}
		}
	}
	var first, most, last []time.Duration
	_, err := s.crowd(ctx, addr, streams, perConnection, heard, func(ctx context.Context) error {
		for round := range s.pick(9, 1) {
			title := fmt.Sprintf("news %d", round)
			mu.Lock()
			news, at, begin = title, nil, time.Now()
			mu.Unlock()
			if _, err := w.catalog.CreateDrop(ctx, &fulfillmentv1.CreateDropRequest{
				RequestId: ids.NewV7(time.Now(), rand.Reader), ChannelId: "bench", Title: title, Units: 1,
				Price:    &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900},
				OpenTime: timestamppb.New(time.Now().Add(time.Hour)), Duration: durationpb.New(90 * time.Second),
			}); err != nil {
				return err
			}
			select {
			case <-all:
			case <-time.After(stockPatience):
				return errors.New("not every stream heard of a drop")
			case <-ctx.Done():
				return ctx.Err()
			}
			mu.Lock()
			first, most, last = append(first, quantile(at, 0)), append(most, quantile(at, 0.99)), append(last, quantile(at, 1))
			mu.Unlock()
		}
		return nil
	}, os.Getpid())
	if err != nil {
		return err
	}
	for _, row := range []struct {
		name string
		took []time.Duration
	}{{"the first stream", first}, {fmt.Sprintf("99 %% of %d streams", streams), most}, {"the last stream", last}} {
		t.add(row.name, millis(median(row.took)), spread(row.took, millis))
	}
	return nil
}

// besideRouterProcess runs fn while `rimlight router` is up, in a process of its own, before the node at an address.
func (s settings) besideRouterProcess(
	ctx context.Context, program, node string, cert keyPair, fn func(ctx context.Context, pid int, addr string) error,
) error {
	return s.besideListener(ctx, fn, program, "router", "--name", "bench", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
		"--tokens", filepath.Join(s.dir, "tokens.json"), "--region", "bench="+node, "--tls-cert", cert.cert, "--tls-key", cert.key)
}

// listens are in the line, on standard error, in which a service says where it is.
const listens = " listens on "

// besideListener runs fn while a service is up, in a process of its own.
func (s settings) besideListener(ctx context.Context, fn func(ctx context.Context, pid int, addr string) error, program string, args ...string) error {
	words := &waitFor{words: []byte(listens), seen: make(chan struct{})}
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(running, program, args...)
	cmd.Stdout, cmd.Stderr = s.log, words
	return s.beside(ctx, stop, cmd, words, func(ctx context.Context, _ time.Duration) error {
		_, addr, _ := bytes.Cut(words.so.Bytes(), words.words)
		return fn(ctx, cmd.Process.Pid, string(bytes.TrimSpace(addr)))
	})
}

// keyPair are the files of a certificate.
type keyPair struct{ cert, key string }

// certificate makes one for this machine.
func certificate(dir string) (keyPair, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return keyPair{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return keyPair{}, err
	}
	pair := keyPair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	return pair, errors.Join(
		os.WriteFile(pair.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(pair.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

package process_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func common(t *testing.T, name string, tokens auth.Tokens) process.Common {
	return process.Common{
		Listen: "127.0.0.1:0", DataDir: filepath.Join(t.TempDir(), name), Tokens: tokens, Version: "test",
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
}

// runs runs a process until the test ends.
func runs(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running: %v", err)
		}
	})
}

// Viewers' port serves viewers; what operators do is behind the other one.
func TestTheCentreIsBehindTheOperatorPortOnly(t *testing.T) {
	tokens := auth.NewTokens()
	fulfillment, err := process.StartFulfillment(t.Context(), process.Fulfillment{Common: common(t, "fulfillment", tokens)})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, fulfillment.Run)
	r, err := process.StartRouter(t.Context(), process.Router{
		Common: common(t, "router", tokens), Name: "r1", AdminListen: "127.0.0.1:0", Fulfillment: fulfillment.Addr(),
		Regions: map[string]string{"nowhere": "127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, r.Run)
	list := func(addr string) error {
		conn, err := rpc.Dial(addr, rpc.DialConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = fulfillmentv1.NewCatalogServiceClient(conn).ListDrops(t.Context(), &fulfillmentv1.ListDropsRequest{})
		return err
	}
	if err := list(r.AdminAddr); err != nil {
		t.Errorf("at the operator port: %v", err)
	}
	if err := list(r.Addr()); rpcerr.Reason(err) != errorsv1.Reason_REASON_UNKNOWN_METHOD {
		t.Errorf("at the public port: got %v, want UNKNOWN_METHOD", err)
	}
}

func TestThePublicPortSpeaksTLSWithHTTP2(t *testing.T) {
	certificate, roots := selfSigned(t)
	r, err := process.StartRouter(t.Context(), process.Router{
		Common: common(t, "router", nil), Name: "r1", AdminListen: "127.0.0.1:0", Regions: map[string]string{"nowhere": "127.0.0.1:1"},
		TLS: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, r.Run)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, DisableKeepAlives: true,
	}}
	res, err := client.Get("https://" + r.Addr() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil || res.ProtoMajor != 2 || !strings.Contains(string(page), "Router r1") {
		t.Errorf("got HTTP/%d, %v, %q", res.ProtoMajor, err, page)
	}
	if policy := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") {
		t.Errorf("the page's policy is %q", policy)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

package main

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// startTLSRouter runs a router whose certificate no system trusts, and returns its port and the certificate's file.
func startTLSRouter(t *testing.T) (port, certificate string) {
	t.Helper()
	donor := httptest.NewTLSServer(nil) // only for its certificate, which is for 127.0.0.1
	certificates, raw := donor.TLS.Certificates, donor.Certificate().Raw
	donor.Close()
	certificate = filepath.Join(t.TempDir(), "router.pem")
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.LoadOrCreate(filepath.Join(t.TempDir(), "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	router, err := process.StartRouter(t.Context(), process.Router{
		Common: process.Common{
			Listen: "127.0.0.1:0", Tokens: tokens, Version: "test", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		},
		Name: "secure", Regions: map[string]string{"europe-west3": "127.0.0.1:1"}, Operator: true,
		TLS: &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("stopping the router: %v", err)
		}
	})
	_, port, _ = strings.Cut(router.Addr(), ":")
	return port, certificate
}

func TestARouterIsTrustedByItsAuthority(t *testing.T) {
	port, certificate := startTLSRouter(t)
	noPEM := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(noPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	here, elsewhere := "https://127.0.0.1:"+port, "https://localhost:"+port
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"an authority that is named is trusted", []string{"regions", "--router", here, "--ca-file", certificate}, exitDone, ""},
		{"an unknown one is not, and the flag is named", []string{"regions", "--router", here}, exitUnreachable, "--ca-file"},
		{"nor by a stream", []string{"drops", "watch", "--router", here}, exitUnreachable, "unknown authority"},
		{"nor by a buyer, who does not wait for it", []string{"buy", "--router", here, "--wait", "10m"}, exitUnreachable, "--ca-file"},
		{"a certificate for another name is not", []string{"regions", "--router", elsewhere, "--ca-file", certificate}, exitUnreachable, "localhost"},
		{"a file that is not there", []string{"regions", "--router", here, "--ca-file", noPEM + "x"}, exitUsage, "--ca-file"},
		{"a file without a certificate", []string{"regions", "--router", here, "--ca-file", noPEM}, exitUsage, "no certificate in PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errOut := exec(t, c.args...)
			if code != c.code || !strings.Contains(errOut, c.says) {
				t.Errorf("exit %d, want %d with %q: %s%s", code, c.code, c.says, out, errOut)
			}
		})
	}
}

package process_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

func TestProductionRefusesTheTestProviderBeforeItMakesAFile(t *testing.T) {
	c := common(t, "centre", auth.NewTokens())
	_, err := process.StartVerifier(t.Context(), process.Verifier{Common: c, Fulfillment: "127.0.0.1:1", Profile: "production"})
	if !errors.Is(err, process.ErrNoProvider) {
		t.Errorf("got %v", err)
	}
	if files, err := filepath.Glob(filepath.Join(c.DataDir, "*")); err != nil || len(files) != 0 {
		t.Errorf("made %v, %v", files, err)
	}
}

// TestAStoreServesOneProcess: two verifiers on one store would drive the same purchases.
func TestAStoreServesOneProcess(t *testing.T) {
	c := common(t, "centre", auth.NewTokens())
	fulfillment, err := process.StartFulfillment(t.Context(), process.Fulfillment{Common: c})
	if err != nil {
		t.Fatal(err)
	}
	v := process.Verifier{Common: c, Fulfillment: fulfillment.Addr(), Profile: "dev"}
	verifier, err := process.StartVerifier(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	c.Metrics, v.Metrics = prometheus.NewRegistry(), prometheus.NewRegistry() // as another process has
	if _, err := process.StartFulfillment(t.Context(), process.Fulfillment{Common: c}); err == nil || !strings.Contains(err.Error(), "is locked by process") {
		t.Errorf("a second fulfillment on the store: got %v", err)
	}
	if _, err := process.StartVerifier(t.Context(), v); err == nil || !strings.Contains(err.Error(), "is locked by process") {
		t.Errorf("a second verifier on the store: got %v", err)
	}
	runs(t, verifier.Run)
	runs(t, fulfillment.Run)
}

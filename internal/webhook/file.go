package webhook

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// LoadOrCreateSecret reads a secret's file, making it at the first start.
func LoadOrCreateSecret(path string) (Secret, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret, err := NewSecret(rand.Reader)
		if err != nil {
			return nil, err
		}
		raw = []byte(secret.Text() + "\n")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("making the webhook secret's directory: %w", err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return nil, fmt.Errorf("writing the webhook secret: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("reading the webhook secret: %w", err)
	}
	secret, err := ParseSecret(string(raw))
	if err != nil {
		return nil, fmt.Errorf("reading the webhook secret %s: %w", path, err)
	}
	return secret, nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// Where `rimlight dev` leaves its role tokens and where `rimlight buy` keeps receipts: the user's own configuration
// directory, mode 0700, one small JSON file per router or purchase.

func configDir(kind string) (string, error) {
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("finding the configuration directory: %w", err)
	}
	return filepath.Join(base, "rimlight", kind), nil
}

// saveFile leaves the file whole and synced, or the one that was there: a receipt may be all that is left of a purchase.
func saveFile(kind, name string, v any) (string, error) {
	dir, err := configDir(kind)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("saving %s: %w", kind, err)
	}
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", fmt.Errorf("saving %s: %w", kind, err)
	}
	file, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("saving %s: %w", kind, err)
	}
	path := filepath.Join(dir, filepath.Base(name)+".json")
	_, err = file.Write(append(raw, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("saving %s: %w", kind, err), os.Remove(file.Name()))
	}
	return path, nil
}

func loadFile(kind, name string, v any) error {
	dir, err := configDir(kind)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)+".json"))
	if err != nil {
		return fmt.Errorf("reading %s: %w", kind, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("reading %s: %w", kind, err)
	}
	return nil
}

// saveCredentials leaves the tokens for clients on this machine; forget takes them away.
func saveCredentials(address string, t auth.Tokens) (forget func(), err error) {
	path, err := saveFile("credentials", address, t)
	if err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(path) }, nil // the next start overwrites what is left
}

// savedCredentials finds what a dev platform left; none is not an error, since reads need none.
func savedCredentials(address string) (auth.Tokens, error) {
	var t auth.Tokens
	if err := loadFile("credentials", address, &t); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return t, nil
}

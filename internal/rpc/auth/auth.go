// Package auth names the roles that may change things and checks their bearer tokens.
//
// Until people have identities there is one random token per role, made at a deployment's first start. A call carries
// it as "authorization: Bearer TOKEN"; the interceptors of internal/rpc look it up and put the role into the context.
// Methods without a rule are open: viewers' calls and reads without secrets.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Role is who calls.
type Role string

// The roles. Service is what the platform's own processes are to each other; Node is a microfulfillment node, which stands
// in somebody's storeroom and may do no more than work on orders.
const (
	Viewer           Role = "viewer"
	CommunityManager Role = "community-manager"
	Producer         Role = "producer"
	Finance          Role = "finance"
	SRE              Role = "sre"
	Service          Role = "service"
	Node             Role = "node"
)

// Rules say which roles may call a method, by full method name ("/rimlight.region.v1.RegionService/SetMode").
type Rules map[string][]Role

// Tokens are the secrets of the roles. They never reach a log.
type Tokens map[Role]string

// secretRoles are the roles that a deployment has a token for; a viewer needs none.
var secretRoles = []Role{CommunityManager, Producer, Finance, SRE, Service, Node}

// minSecret is the shortest token taken, in characters: 96 bits in base64.
const minSecret = 16

// NewTokens makes fresh ones.
func NewTokens() Tokens {
	t := Tokens{}
	for _, r := range secretRoles {
		b := make([]byte, 24)
		rand.Read(b) // never fails since Go 1.24
		t[r] = base64.RawURLEncoding.EncodeToString(b)
	}
	return t
}

// LoadOrCreate reads a token file (JSON, role to token, mode 0600), making it at the first start.
func LoadOrCreate(path string) (Tokens, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the role tokens: %w", err)
	}
	var t Tokens
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, fmt.Errorf("reading the role tokens %s: %w", path, err)
	}
	if err := t.validate(); err != nil {
		return nil, fmt.Errorf("reading the role tokens %s: %w", path, err)
	}
	return t, nil
}

// validate refuses what would start and then let nobody in, or the wrong ones.
func (t Tokens) validate() error {
	var problems []error
	owner := map[string]Role{}
	for _, r := range secretRoles {
		secret := t[r]
		if r == Node && secret == "" {
			continue // a file from before there were nodes: none may work
		}
		if len(secret) < minSecret {
			problems = append(problems, fmt.Errorf("role %q has a token of %d characters, at least %d are needed", r, len(secret), minSecret))
		} else if other, taken := owner[secret]; taken {
			problems = append(problems, fmt.Errorf("roles %q and %q have the same token", other, r))
		}
		owner[secret] = r
	}
	for r := range t {
		if !slices.Contains(secretRoles, r) {
			problems = append(problems, fmt.Errorf("there is no role %q", r))
		}
	}
	return errors.Join(problems...)
}

// Load reads one role's token from such a file, which may hold no other: whoever has a machine needs no more than its role.
func Load(path string, role Role) (Tokens, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the token of role %q: %w", role, err)
	}
	var t Tokens
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, fmt.Errorf("reading the token of role %q in %s: %w", role, path, err)
	}
	if len(t[role]) < minSecret {
		return nil, fmt.Errorf("%s has no token of role %q, of at least %d characters", path, role, minSecret)
	}
	return Tokens{role: t[role]}, nil
}

func create(path string) (Tokens, error) {
	t := NewTokens()
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the role tokens: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the role tokens' directory: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("writing the role tokens: %w", err)
	}
	return t, nil
}

// RoleOf finds the role of a bearer token. It takes the same time whichever role matches.
func (t Tokens) RoleOf(token string) (Role, bool) {
	got := sha256.Sum256([]byte(token))
	var found Role
	for role, secret := range t {
		want := sha256.Sum256([]byte(secret))
		if secret != "" && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			found = role
		}
	}
	return found, found != ""
}

type contextKey struct{}

// NewContext returns a context of a caller with a role.
func NewContext(ctx context.Context, role Role) context.Context {
	return context.WithValue(ctx, contextKey{}, role)
}

// FromContext is the caller's role; Viewer when it showed no token.
func FromContext(ctx context.Context) Role {
	if r, ok := ctx.Value(contextKey{}).(Role); ok {
		return r
	}
	return Viewer
}

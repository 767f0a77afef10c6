package auth_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rimlight/rimlight/internal/rpc/auth"
)

func TestTokensAreMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "tokens.json")
	first, err := auth.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := auth.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Error("the second start has other tokens")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.LoadOrCreate(path); err == nil {
		t.Error("a damaged file was taken, or silently replaced")
	}
}

// A file that would start a platform whose services refuse each other, or let one role be another, is refused at once.
func TestTokenFilesThatCannotWorkAreRefused(t *testing.T) {
	for rule, change := range map[string]func(auth.Tokens){
		"a role without a token":     func(t auth.Tokens) { delete(t, auth.Service) },
		"a token that can be tried":  func(t auth.Tokens) { t[auth.SRE] = "short" },
		"one token for two roles":    func(t auth.Tokens) { t[auth.SRE] = t[auth.Producer] },
		"a role that does not exist": func(t auth.Tokens) { t["admin"] = t[auth.SRE] + "x" },
	} {
		tokens := auth.NewTokens()
		change(tokens)
		raw, err := json.Marshal(tokens)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "tokens.json")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := auth.LoadOrCreate(path); err == nil {
			t.Errorf("%s: taken", rule)
		} else if strings.Contains(err.Error(), tokens[auth.Producer]) {
			t.Errorf("%s: the error tells a secret", rule)
		}
	}
}

func TestRoleOf(t *testing.T) {
	tokens := auth.NewTokens()
	for role, secret := range tokens {
		if got, ok := tokens.RoleOf(secret); !ok || got != role {
			t.Errorf("%s's token gave %q, %v", role, got, ok)
		}
	}
	for _, bad := range []string{"", "x", tokens[auth.SRE] + "x"} {
		if got, ok := tokens.RoleOf(bad); ok {
			t.Errorf("a wrong token gave %q", got)
		}
	}
	if _, ok := (auth.Tokens{auth.SRE: ""}).RoleOf(""); ok {
		t.Error("an empty secret opens with an empty token")
	}
}

func TestContextCarriesTheRole(t *testing.T) {
	if got := auth.FromContext(context.Background()); got != auth.Viewer {
		t.Errorf("got %q without a token, want %q", got, auth.Viewer)
	}
	if got := auth.FromContext(auth.NewContext(context.Background(), auth.SRE)); got != auth.SRE {
		t.Errorf("got %q, want %q", got, auth.SRE)
	}
}

// A node's machine is given a file with its own token and no other, and an older platform's file goes on without nodes.
func TestANodeNeedsNoTokenButItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	all, err := auth.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := auth.Load(path, auth.Node); err != nil || len(got) != 1 || got[auth.Node] != all[auth.Node] {
		t.Errorf("got %d tokens, %v", len(got), err)
	}
	write := func(tokens auth.Tokens) {
		raw, err := json.Marshal(tokens)
		if err == nil {
			err = os.WriteFile(path, raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(auth.Tokens{auth.Node: all[auth.Node]})
	if _, err := auth.Load(path, auth.Node); err != nil {
		t.Errorf("its own token alone: %v", err)
	}
	delete(all, auth.Node)
	write(all)
	if _, err := auth.LoadOrCreate(path); err != nil {
		t.Errorf("a file from before there were nodes: %v", err)
	}
	if _, err := auth.Load(path, auth.Node); err == nil {
		t.Error("a node started without a token")
	}
}

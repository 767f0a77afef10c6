package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/rimlight/rimlight"

// file is one file of the repository.
type file struct {
	path    string // from the repository's root, with slashes
	content []byte
	syntax  *ast.File // nil when it is not Go
	fset    *token.FileSet
}

func (f file) dir() string  { return path.Dir(f.path) }
func (f file) isGo() bool   { return f.syntax != nil }
func (f file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// generated follows https://go.dev/s/generatedcode; what is not Go is generated when it stands under gen.
func (f file) generated() bool {
	return f.isGo() && ast.IsGenerated(f.syntax) || under(f.path, "gen")
}

func (f file) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(pos).Line)
}

// imports gives the imported paths; those of this module lose its name: "router/arbiter".
func (f file) imports() []string {
	var paths []string
	for _, spec := range f.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			paths = append(paths, strings.TrimPrefix(p, module+"/"))
		}
	}
	return paths
}

// under says whether a path is one of the roots or inside one.
func under(p string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return p == root || strings.HasPrefix(p, root+"/")
	})
}

func parse(name string, content []byte) (file, error) {
	f := file{path: name, content: content}
	if !strings.HasSuffix(name, ".go") {
		return f, nil
	}
	f.fset = token.NewFileSet()
	var err error
	f.syntax, err = parser.ParseFile(f.fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
	return f, err
}

// repository reads the files that git tracks, and those that it would.
func repository(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("needs a git checkout and git: %v", err)
	}
	var files []file
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if os.IsNotExist(err) {
			continue // deleted, not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(content, 0) >= 0 {
			continue // binary
		}
		f, err := parse(name, content)
		if err != nil {
			t.Error(err)
			continue
		}
		files = append(files, f)
	}
	return files
}

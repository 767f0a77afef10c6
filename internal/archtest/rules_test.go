package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const maxLines = 600

// bubbleMark, with a reason, in a function's doc says that it is only called in synctest bubbles; elsewhere in a file,
// that all of the file's functions are.
const bubbleMark = "//rimlight:bubble "

// packageDocs: a package says in one place what it is.
func packageDocs(files []file) []string {
	type facts struct {
		name string
		docs []string
	}
	packages := map[string]*facts{}
	for _, f := range files {
		if !f.isGo() || f.generated() {
			continue
		}
		p := packages[f.dir()]
		if p == nil {
			p = &facts{name: strings.TrimSuffix(f.syntax.Name.Name, "_test")}
			packages[f.dir()] = p
		}
		if f.syntax.Doc == nil {
			continue
		}
		p.docs = append(p.docs, f.path)
		if text := f.syntax.Doc.Text(); p.name != "main" && !strings.HasPrefix(text, "Package "+p.name+" ") {
			p.docs = append(p.docs, f.path+" (does not begin with \"Package "+p.name+"\")")
		}
	}
	var found []string
	for dir, p := range packages {
		if len(p.docs) != 1 {
			found = append(found, fmt.Sprintf("%s has %d package docs, not one: %v", dir, len(p.docs), p.docs))
		}
	}
	slices.Sort(found)
	return found
}

// sleepingTests: a test in real time waits for a condition; only virtual time may pass by sleeping. What is passed to
// synctest.Test, or to a helper of the same package that calls it, perhaps through another helper, runs in a bubble.
// Benchmarks may sleep: an open loop waits for each call's intended start.
func sleepingTests(files []file) []string {
	helpers := bubbleHelpers(files)
	var found []string
	for _, f := range files {
		if !f.isTest() || markedFile(f) {
			continue
		}
		timePkg, synctestPkg := importName(f, "time"), importName(f, "testing/synctest")
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				return !marked(n.Doc) && !strings.HasPrefix(n.Name.Name, "Benchmark")
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && helpers[f.dir()+"."+name.Name] || isCall(n, synctestPkg, "Test") {
					return false
				}
				if isCall(n, timePkg, "Sleep") {
					found = append(found, f.at(n.Pos())+" sleeps outside a synctest bubble")
				}
			}
			return true
		})
	}
	return found
}

// bubbleHelpers are the functions of tests that lead to synctest.Test, by directory and name.
func bubbleHelpers(files []file) map[string]bool {
	helpers := map[string]bool{}
	for grown := true; grown; {
		grown = false
		for _, f := range files {
			if !f.isTest() {
				continue
			}
			synctestPkg := importName(f, "testing/synctest")
			for _, d := range f.syntax.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || helpers[f.dir()+"."+fn.Name.Name] {
					continue
				}
				if callsAny(fn, func(call *ast.CallExpr) bool {
					name, ok := call.Fun.(*ast.Ident)
					return ok && helpers[f.dir()+"."+name.Name] || isCall(call, synctestPkg, "Test")
				}) {
					helpers[f.dir()+"."+fn.Name.Name] = true
					grown = true
				}
			}
		}
	}
	return helpers
}

func callsAny(in ast.Node, is func(*ast.CallExpr) bool) bool {
	found := false
	ast.Inspect(in, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		found = found || ok && is(call)
		return !found
	})
	return found
}

func marked(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		reason, ok := strings.CutPrefix(c.Text, bubbleMark)
		return ok && strings.TrimSpace(reason) != ""
	})
}

// markedFile looks for a mark that belongs to no function.
func markedFile(f file) bool {
	ofFunctions := map[*ast.CommentGroup]bool{}
	for _, d := range f.syntax.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			ofFunctions[fn.Doc] = true
		}
	}
	return slices.ContainsFunc(f.syntax.Comments, func(g *ast.CommentGroup) bool { return !ofFunctions[g] && marked(g) })
}

// importName is what a file calls an imported package; "" when it does not import it.
func importName(f file, imported string) string {
	for _, spec := range f.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err != nil || p != imported {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

func isCall(call *ast.CallExpr, pkg, function string) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || pkg == "" || sel.Sel.Name != function {
		return false
	}
	ident, ok := sel.X.(*ast.Ident)
	return ok && ident.Name == pkg
}

var codeExtensions = []string{".go", ".ts", ".js", ".css", ".html", ".proto", ".sql", ".sh"}

// longFiles: past 600 lines a file is two ideas.
func longFiles(files []file) []string {
	var found []string
	for _, f := range files {
		if f.generated() || under(f.path, "third_party", "web/dist") || !slices.Contains(codeExtensions, path.Ext(f.path)) {
			continue
		}
		if n := bytes.Count(f.content, []byte("\n")); n > maxLines {
			found = append(found, fmt.Sprintf("%s has %d lines, more than %d", f.path, n, maxLines))
		}
	}
	return found
}

// machineWords are paths of one machine and hosts of package registries. A clone elsewhere has neither, and a file that
// names a mirror sends strangers there. The pattern is in pieces so that this file does not match itself.
var machineWords = regexp.MustCompile(strings.Join([]string{
	`(^|[\s"'=:(])/(wor` + `k|roo` + `t|hom` + `e|User` + `s)/[A-Za-z0-9_.-]+`,
	`registry\.(npm` + `js|yarn` + `pkg)\.`,
	`(proxy|sum)\.gola` + `ng\.org`, `goproxy\.(io|cn)`,
	`(^|[^a-z])(ghcr|docker|quay)\.` + `io/`, `deb\.deb` + `ian\.org`, `pypi\.o` + `rg`,
	`"resolved": *"ht` + `tps?:`,
}, "|"))

func machineNames(files []file) []string {
	var found []string
	for _, f := range files {
		for i, line := range bytes.Split(f.content, []byte("\n")) {
			if hit := machineWords.Find(line); hit != nil {
				found = append(found, fmt.Sprintf("%s:%d names %q", f.path, i+1, strings.TrimSpace(string(hit))))
			}
		}
	}
	return found
}

// decisionNumbers wants each decision record to begin with its own number. Two branches easily take the same next one.
func decisionNumbers(files []file) []string {
	var found []string
	taken := map[string]string{}
	for _, f := range files {
		number, _, numbered := strings.Cut(path.Base(f.path), "-")
		if f.dir() != "docs/decisions" || !numbered {
			continue
		}
		if other, is := taken[number]; is {
			found = append(found, fmt.Sprintf("%s has the number of %s", f.path, other))
		}
		taken[number] = f.path
		if !bytes.HasPrefix(f.content, []byte("# "+number+": ")) {
			found = append(found, f.path+" does not begin with its number")
		}
	}
	return found
}

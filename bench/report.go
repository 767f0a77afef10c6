package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// section is a measured figure.
type section struct {
	tables []table
	aim    string // whether an aim is met, and what stands behind the tables; may be empty
	cannot string // what the tables cannot show
}

// table is markdown's.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) markdown(b *strings.Builder) {
	line := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.header)
	rule := make([]string, len(t.header))
	for i := range rule {
		rule[i] = "---:"
	}
	rule[0] = "---"
	fmt.Fprintf(b, "|%s|\n", strings.Join(rule, "|"))
	for _, r := range t.rows {
		line(r)
	}
	b.WriteByte('\n')
}

func (s section) markdown(machine string) string {
	var b strings.Builder
	for _, t := range s.tables {
		t.markdown(&b)
	}
	if s.aim != "" {
		fmt.Fprintf(&b, "%s\n\n", s.aim)
	}
	fmt.Fprintf(&b, "What this cannot show: %s\n\n*%s*\n", s.cannot, machine)
	return b.String()
}

// updateFile replaces a figure's place in a file.
func updateFile(path, name, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	updated, err := replace(old, name, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, updated, 0o644)
}

// replace puts text between the two markers of a figure.
func replace(document []byte, name, text string) ([]byte, error) {
	begin, end := fmt.Sprintf("<!-- figure %s -->\n", name), fmt.Sprintf("<!-- end of %s -->", name)
	before, rest, found := bytes.Cut(document, []byte(begin))
	if !found {
		return nil, fmt.Errorf("the marker %q is missing", strings.TrimSpace(begin))
	}
	_, after, found := bytes.Cut(rest, []byte(end))
	if !found {
		return nil, fmt.Errorf("the marker %q is missing after its beginning", end)
	}
	return []byte(string(before) + begin + text + end + string(after)), nil
}

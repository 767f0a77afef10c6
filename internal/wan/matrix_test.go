package wan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/wan"
)

const header = "provider,snapshot,from,to,min_ms,avg_ms,max_ms,mdev_ms\n"

const whole = header + `x,2020,a,a,0,0.1,1,0
x,2020,a,b,9,10.5,11,1
x,2020,b,a,9,12,13,1
x,2020,b,b,0,0.2,1,0
`

func TestDefault(t *testing.T) {
	m := wan.Default()
	if got := len(m.Names()); got != 20 {
		t.Errorf("got %d regions, want 20", got)
	}
	for _, from := range m.Names() {
		for _, to := range m.Names() {
			d, ok := m.RTT(from, to)
			if !ok || d <= 0 || d > 500*time.Millisecond || from != to && d < time.Millisecond {
				t.Errorf("%s to %s: got %v, %v", from, to, d, ok)
			}
		}
	}
	if d, _ := m.RTT("asia-east1", "asia-east2"); d != 18908*time.Microsecond {
		t.Errorf("asia-east1 to asia-east2: got %v, want the file's average of 18.908 ms", d)
	}
}

func TestParse(t *testing.T) {
	m, err := wan.Parse(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := m.RTT("a", "b"); !ok || d != 10500*time.Microsecond {
		t.Errorf("a to b: got %v, want the average of 10.5 ms", d)
	}
	if d, ok := m.RTT("b", "a"); !ok || d != 12*time.Millisecond {
		t.Errorf("b to a: got %v, want its own 12 ms", d)
	}
	if _, ok := m.RTT("a", "c"); ok {
		t.Error("an unknown region has no round trip")
	}
	for _, tc := range []struct {
		name, text, want string
	}{
		{"no header", "", "header"},
		{"no region", header, "no region"},
		{"an unknown column", "colour," + whole, `line 1: unknown column "colour"`},
		{"a missing column", "provider,from,to\n", `line 1: column "snapshot" is missing`},
		{"a column twice", strings.Replace(whole, "mdev_ms", "max_ms", 1), `line 1: column "max_ms" twice`},
		{"a missing pair", strings.Replace(whole, "x,2020,b,a,9,12,13,1\n", "", 1), "line 3: b is named here, but the pair b to a is missing"},
		{"a missing pair with itself", strings.Replace(whole, "x,2020,b,b,0,0.2,1,0\n", "", 1), "b to b is missing"},
		{"a row twice", whole + "x,2020,a,b,9,10,11,1\n", "line 6: a to b is on line 3 already"},
		{"a negative time", strings.Replace(whole, "10.5", "-1", 1), "line 3: avg_ms: -1 ms is not within 0 to 10000 ms"},
		{"an absurd time", strings.Replace(whole, "10.5", "10001", 1), "line 3: avg_ms: 10001 ms"},
		{"infinity", strings.Replace(whole, "10.5", "Inf", 1), "line 3: avg_ms: +Inf ms"},
		{"no number at all", strings.Replace(whole, "10.5", "NaN", 1), "line 3: avg_ms: NaN ms"},
		{"a word", strings.Replace(whole, "10.5", "far", 1), `line 3: avg_ms: "far" is no number`},
		{"a bad time in a column that does not count", strings.Replace(whole, ",11,", ",-11,", 1), "line 3: max_ms: -11 ms"},
		{"too few fields", whole + "x,2020,a\n", "line 6: wrong number of fields"},
		{"a nameless region", whole + "x,2020,,b,9,10,11,1\n", "line 6: a region without a name"},
	} {
		if _, err := wan.Parse(strings.NewReader(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q in it", tc.name, err, tc.want)
		}
	}
	_, err = wan.Parse(strings.NewReader(strings.NewReplacer("10.5", "-1", "12", "NaN").Replace(whole)))
	if err == nil || !strings.Contains(err.Error(), "line 3") || !strings.Contains(err.Error(), "line 4") {
		t.Errorf("two problems: got %v, want both", err)
	}
}

func TestNearest(t *testing.T) {
	m, err := wan.Parse(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, from string
		among      []string
		want       string
	}{
		{"itself is nearest", "a", []string{"b", "a"}, "a"},
		{"the only one", "a", []string{"b"}, "b"},
		{"unknown ones do not count", "a", []string{"c", "b"}, "b"},
		{"nobody", "a", nil, ""},
		{"from nowhere", "c", []string{"a"}, ""},
	} {
		if got, ok := m.Nearest(tc.from, tc.among); got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: got %q, %v, want %q", tc.name, got, ok, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add(header + "x,2020,a,a,0,1e309,1,0\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := wan.Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, from := range m.Names() {
			for _, to := range m.Names() {
				if d, ok := m.RTT(from, to); !ok || d < 0 || d > 10*time.Second {
					t.Fatalf("%q to %q: %v, %v", from, to, d, ok)
				}
			}
		}
	})
}

package sim

import (
	"slices"
	"strings"
	"testing"
)

func TestScenarioFilesAreComplete(t *testing.T) {
	var ids []string
	for _, s := range scenarios(t) {
		ids = append(ids, s.ID)
	}
	want := []string{"S1", "S2", "S2-overload", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10"}
	if !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
}

// Roles, not names: the suite plays over a matrix that nobody has seen before, however small.
func TestScenariosFitAnyMatrix(t *testing.T) {
	for _, n := range []int{2, 3, 7} {
		for _, s := range scenarios(t) {
			for k := range s.Parts {
				if _, err := build(s, &s.Parts[k], Options{Matrix: line(t, n, 30)}); err != nil {
					t.Errorf("%d regions: %v", n, err)
				}
			}
		}
	}
}

func TestBadScenariosNameTheLine(t *testing.T) {
	part := func(rest string) string {
		return "{\n\"id\": \"X\",\n\"parts\": [\n{\"name\": \"p\", \"load\": 0.5, \"seconds\": 5" + rest + "}\n]\n}"
	}
	for _, c := range []struct{ name, text, want string }{
		{"no JSON", "{\n\"id\": oops}", "x.json: line 2"},
		{"a field that nobody knows", "{\n\"id\": \"X\",\n\"colour\": 1}", "x.json: line 3"},
		{"text for a number", part(",\n\"restricted\": \"no\""), "x.json: line 5"},
		{"no part", "{\"id\": \"X\"}", "at least one part"},
		{"an absurd load", strings.Replace(part(""), "0.5", "50", 1), "x.json: line 4: part \"p\""},
		{"a negative time", part(", \"faults\": [\n{\"kind\": \"cut\", \"region\": \"busiest\", \"from\": -1, \"to\": 2}]"), "x.json: line 5"},
		{"a fault that nobody knows", part(", \"faults\": [\n{\"kind\": \"meteor\", \"region\": \"busiest\", \"from\": 1, \"to\": 2}]"), "line 5: part \"p\": unknown kind of fault \"meteor\""},
		{"a fault without its field", part(", \"faults\": [\n{\"kind\": \"slow\", \"region\": \"busiest\", \"from\": 1, \"to\": 2}]"), "line 5: part \"p\": slow"},
		{"a crowd of nobody", part(", \"crowds\": [{\"region\": \"busiest\", \"from\": 1, \"to\": 1, \"factor\": 2}]"), "line 4: part \"p\": a crowd"},
	} {
		_, err := ParseScenario("x.json", strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
}

func TestAnUnknownRegionNamesTheLineAndWhatThereIs(t *testing.T) {
	text := "{\"id\": \"X\", \"parts\": [{\"name\": \"p\", \"load\": 0.5, \"seconds\": 5, \"faults\": [\n" +
		"{\"kind\": \"cut\", \"region\": \"atlantis\", \"from\": 1, \"to\": 2}]}]}"
	s, err := ParseScenario("x.json", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	_, err = build(s, &s.Parts[0], Options{Matrix: line(t, 3, 30)})
	for _, want := range []string{"x.json: line 2", "\"atlantis\"", "busiest", "r1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestHalfOfTheMatrixIsHalf(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	one, again, other := randomHalf(names, 1), randomHalf(names, 1), randomHalf(names, 2)
	if len(one) != 4 || !slices.Equal(one, again) || slices.Equal(one, other) {
		t.Errorf("got %v, %v and %v", one, again, other)
	}
}

func TestCapacityScalesRegionsAndCalls(t *testing.T) {
	s := scenarios(t)[0]
	of := func(capacity float64) (slots int, rate float64) {
		w, err := build(s, &s.Parts[0], Options{Matrix: line(t, 6, 30), Capacity: capacity})
		if err != nil {
			t.Fatal(err)
		}
		for i := range w.slots {
			slots += w.slots[i]
		}
		for _, r := range w.rate {
			rate += r
		}
		return slots, rate
	}
	slots, rate := of(1)
	if s, r := of(2); s != 2*slots || r < 1.99*rate || r > 2.01*rate {
		t.Errorf("doubled: %d slots and %.0f calls/s, from %d and %.0f", s, r, slots, rate)
	}
}

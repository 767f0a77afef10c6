package cardnumber_test

import (
	"testing"

	"github.com/rimlight/rimlight/internal/cardnumber"
)

func TestCardNumbers(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"sixteen digits that check":  {"4111111111111111", true},
		"with spaces":                {"4111 1111 1111 1111", true},
		"with dashes, in a sentence": {"card 5500-0055-5555-5559 thanks", true},
		"fifteen digits":             {"378282246310005", true},
		"thirteen digits":            {"4222222222222", true},
		"nineteen digits":            {"6304000000000000000", true},
		"after a house number":       {"12 4111 1111 1111 1111", true},
		"before a postal code":       {"4111 1111 1111 1111 10115", true},
		"with a wrong check digit":   {"4111111111111112", false},
		"twelve digits":              {"411111111111", false},
		"twenty digits in one run":   {"41111111111111110000", false},
		"broken by letters":          {"41111111a11111111", false},
		"a testpsp reference":        {"tp_ok", false},
		"an intent id":               {"pi_3MtwBwLkdIwHu7ix28a3tqPa", false},
		"nothing":                    {"", false},
		"bytes that are no text":     {"\xff4111111111111111", false},
	} {
		if got := cardnumber.In(c.text); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func FuzzCardNumbers(f *testing.F) {
	f.Add("4111 1111 1111 1111")
	f.Fuzz(func(t *testing.T, text string) {
		if cardnumber.In(text) != cardnumber.In([]byte(text)) {
			t.Error("text and bytes differ")
		}
	})
}

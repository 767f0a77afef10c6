package main

import (
	"errors"
	"testing"
)

func TestParseMoney(t *testing.T) {
	for _, c := range []struct {
		rule, text, currency string
		minor                int64
		ok                   bool
	}{
		{"whole units", "19", "EUR", 1900, true},
		{"one decimal", "19.5", "EUR", 1950, true},
		{"two decimals", "19.50", "EUR", 1950, true},
		{"nothing but cents", "0.07", "EUR", 7, true},
		{"yen have no cents", "1900", "JPY", 1900, true},
		{"dinars have three", "1.234", "KWD", 1234, true},
		{"more decimals than the currency has", "19.505", "EUR", 0, false},
		{"decimals of yen", "1.5", "JPY", 0, false},
		{"negative", "-1", "EUR", 0, false},
		{"signed", "+1", "EUR", 0, false},
		{"no number", "free", "EUR", 0, false},
		{"empty", "", "EUR", 0, false},
		{"beyond 63 bits", "99999999999999999999", "EUR", 0, false},
	} {
		got, err := parseMoney(c.text, c.currency)
		if c.ok != (err == nil) || got.GetMinorUnits() != c.minor {
			t.Errorf("%s: %q gave %v, %v", c.rule, c.text, got, err)
		}
		var usage usageError
		if !c.ok && !errors.As(err, &usage) {
			t.Errorf("%s: %v is not a usage error", c.rule, err)
		}
	}
}

func TestAmount(t *testing.T) {
	for _, c := range []struct {
		minor    int64
		currency string
		want     string
	}{
		{1900, "EUR", "19.00 EUR"}, {7, "USD", "0.07 USD"}, {-150, "EUR", "-1.50 EUR"}, {1900, "JPY", "1900 JPY"}, {1, "KWD", "0.001 KWD"}, {0, "EUR", "0.00 EUR"},
	} {
		if got := amount(c.minor, c.currency); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

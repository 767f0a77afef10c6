package main

import (
	"fmt"
	"strconv"
	"strings"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// minorDigits lists the ISO 4217 currencies whose smallest unit is not a hundredth.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0,
	"VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}

func digitsOf(currency string) int {
	if n, ok := minorDigits[currency]; ok {
		return n
	}
	return 2
}

// parseMoney reads "19", "19.5" or "19.50" without ever touching a float.
func parseMoney(text, currency string) (*offerv1.Money, error) {
	whole, fraction, _ := strings.Cut(text, ".")
	digits := digitsOf(currency)
	if len(fraction) > digits {
		return nil, usageError{fmt.Sprintf("%s: %s has %d decimal places", text, currency, digits)}
	}
	if whole == "" {
		return nil, usageError{fmt.Sprintf("%q is not an amount like 19.00", text)}
	}
	minor, err := strconv.ParseUint(whole+fraction+strings.Repeat("0", digits-len(fraction)), 10, 63)
	if err != nil {
		return nil, usageError{fmt.Sprintf("%q is not an amount like 19.00", text)}
	}
	return &offerv1.Money{CurrencyCode: currency, MinorUnits: int64(minor)}, nil
}

func money(m *offerv1.Money) string { return amount(m.GetMinorUnits(), m.GetCurrencyCode()) }

// amount prints minor units for people: 1900 EUR -> "19.00 EUR".
func amount(minor int64, currency string) string {
	sign := ""
	if minor < 0 {
		sign, minor = "-", -minor
	}
	digits := digitsOf(currency)
	text := fmt.Sprintf("%0*d", digits+1, minor)
	if digits > 0 {
		text = text[:len(text)-digits] + "." + text[len(text)-digits:]
	}
	return sign + text + " " + currency
}

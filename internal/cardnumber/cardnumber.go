// Package cardnumber finds what could be payment card numbers: card data never enters the platform. Clients look into
// delivery details before they seal them, regions into payment references.
//
// It is pure, and says nothing about whether a card exists.
package cardnumber

import "unicode/utf8"

// A payment card number has 13 to 19 digits (ISO/IEC 7812-1).
const minCard, maxCard = 13, 19

// In tells whether text holds what could be a payment card number: 13 to 19 digits in groups that at most one
// separator divides, ending in the right check digit (Luhn, ISO/IEC 7812-1 annex B). Any row of whole groups counts,
// so a house number before it hides nothing. One digit run in ten passes by chance: references should not be long
// plain numbers. Bytes that are no UTF-8 are not looked into.
func In[T ~string | ~[]byte](text T) bool {
	if !utf8.Valid([]byte(text)) {
		return false
	}
	var digits []byte // the current row of groups
	var starts []int  // where its groups begin in digits
	inGroup := false
	for i := range len(text) {
		switch c := text[i]; {
		case '0' <= c && c <= '9':
			if !inGroup {
				starts = append(starts, len(digits))
			}
			digits, inGroup = append(digits, c-'0'), true
		case inGroup && isSeparator(c):
			if endsInCard(digits, starts) {
				return true
			}
			inGroup = false
		default:
			if inGroup && endsInCard(digits, starts) {
				return true
			}
			digits, starts, inGroup = digits[:0], starts[:0], false
		}
	}
	return inGroup && endsInCard(digits, starts)
}

func isSeparator(c byte) bool {
	switch c {
	case ' ', '\t', '\n', '-', '.', '/', ':', '_', ',':
		return true
	}
	return false
}

// endsInCard looks at the rows of whole groups that end where digits ends.
func endsInCard(digits []byte, starts []int) bool {
	for i := len(starts) - 1; i >= 0; i-- {
		row := digits[starts[i]:]
		if len(row) > maxCard {
			return false
		}
		if len(row) >= minCard && luhn(row) {
			return true
		}
	}
	return false
}

func luhn(digits []byte) bool {
	sum := 0
	for i, d := range digits {
		v := int(d)
		if (len(digits)-i)%2 == 0 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

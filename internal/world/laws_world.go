package world

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

func nothingLeaks(e *Evidence, _ *index, broken func(string, ...any)) {
	for name, form := range canaryForms() {
		if i := strings.Index(e.Heard, form); i >= 0 {
			broken("a viewer's data (%s): ...%s...", name, strings.ReplaceAll(e.Heard[max(0, i-200):min(len(e.Heard), i+40)], form, "CANARY"))
		}
	}
	secret := map[string]string{}
	for _, a := range e.Answers {
		secret[a.Receipt] = "a receipt"
	}
	for _, end := range e.Endings {
		secret[end.Outcome] = "an outcome"
		if end.LicenceKey != "" {
			secret[end.LicenceKey] = "a licence key"
		}
		if end.Voucher != "" {
			secret[end.Voucher] = "a voucher"
		}
	}
	if e.Addresses > 0 {
		broken("%d orders whose parcels left, or never will, and the address is still kept", e.Addresses)
	}
	for _, where := range e.Readable {
		broken("an address in the clear: %s", where)
	}
	isWord := func(r rune) bool {
		return r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
	}
	for word := range strings.FieldsFuncSeq(e.Heard, func(r rune) bool { return !isWord(r) }) {
		if kind, is := secret[word]; is {
			broken("%s, whole", kind)
		}
	}
}

// canaryForms are the spellings in which viewers' data could show.
func canaryForms() map[string]string {
	list := strings.Trim(fmt.Sprintf("%d", []byte(canary)), "[]")
	forms := map[string]string{
		"plain": canary, "hexadecimal": hex.EncodeToString([]byte(canary)),
		"decimal bytes": list, "decimal bytes, JSON": strings.ReplaceAll(list, " ", ","),
	}
	for shift := range 3 { // base64 has three spellings, by what comes before; the first and last characters mix with it
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
		forms[fmt.Sprintf("base64, shift %d", shift)] = strings.TrimRight(text, "=")[shift+min(shift, 1) : len(strings.TrimRight(text, "="))-1]
	}
	return forms
}

func everythingSettles(e *Evidence, _ *index, broken func(string, ...any)) {
	if !e.Complete || e.Unfinished > 0 {
		broken("%v after the faults were over and the last drop closed, %d purchases, jobs, leases and drops are open, or a viewer waits",
			e.Config.HealWithin, e.Unfinished)
	}
	for i, state := range e.DropStates {
		if state != "settled" {
			broken("drop %d is %s", i, state)
		}
	}
}

func answersAreTyped(e *Evidence, _ *index, broken func(string, ...any)) {
	for _, what := range slices.Sorted(maps.Keys(e.Misdeeds)) {
		broken("%d times: %s", e.Misdeeds[what], what)
	}
	for _, s := range e.Surprises {
		broken("%s", s)
	}
}

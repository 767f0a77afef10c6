// Package catalog says what a drop may be: its defaults, its rules, what is unusual about it, and its state.
//
//	Draft (what a producer asked) ──Plan(now)──> Terms (complete, frozen from ARMED on) + Violations
//	Terms ──Warnings──> sentences
//	Schedule (the part that an operator may still change) ──Pause, Resume, Extend, Close──> Schedule
//	Schedule ──GiveBack (what late answers cost its viewers)──> Schedule
//	Schedule ──State(now)──> dropclock.State
//
// A violation refuses the drop; a warning only tells. Warnings are a function of the terms alone, so a repeated request
// gets the same ones.
//
// It is pure, and knows neither stock nor who asks.
package catalog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rimlight/rimlight/internal/dropclock"
)

// What a draft gets when it says nothing.
const (
	DefaultOpensIn      = 5 * time.Second
	DefaultDuration     = 90 * time.Second
	DefaultArm          = "control"
	DefaultTokenTTL     = time.Minute
	DefaultMaxPerViewer = 1
)

// The limits of a drop.
const (
	MinDuration      = 10 * time.Second
	MaxDuration      = time.Hour
	MaxAhead         = 366 * 24 * time.Hour // a year out is a typing error in the date
	MaxUnits         = 100_000
	MaxTitle         = 120 // characters
	MaxPerViewer     = 100
	MaxPerInstrument = 100
	MaxPrice         = 100_000_000_000 // minor units
	MaxArms          = 8
	MaxArmName       = 32 // bytes; the name is in every offer token
	MaxArmWeight     = 1_000_000
	MinTokenTTL      = time.Second
	MaxTokenTTL      = time.Hour
	usualMinLength   = 90 * time.Second
	usualMaxLength   = 120 * time.Second
	usualShortTTL    = time.Minute
	usualLongTTL     = 5 * time.Minute
	clockDifference  = dropclock.Grace // how far in the past an opening "now" may look from here
)

// Arm is one arm of the experiment on how long an offer stands.
type Arm struct {
	Name     string
	Weight   uint32
	TokenTTL time.Duration
}

// Draft is a drop as a producer asks for it. Zero values of times, MaxPerViewer and Arms mean the defaults.
type Draft struct {
	ChannelID, Title string
	CurrencyCode     string
	MinorUnits       int64
	Units            uint32
	OpenTime         time.Time
	Duration         time.Duration
	MaxPerViewer     uint32
	PerInstrumentCap uint32 // 0: none
	Arms             []Arm
	Physical         bool
	// SKU is what nodes know a physical good by.
	SKU string
}

// Terms are a complete and valid drop.
type Terms struct {
	ChannelID, Title    string
	CurrencyCode        string
	MinorUnits          int64
	Units               uint32
	OpenTime, CloseTime time.Time
	MaxPerViewer        uint32
	PerInstrumentCap    uint32 // 0: none
	Arms                []Arm
	// SKU is empty for a digital good.
	SKU string
}

// Violation is one broken rule: the field of CreateDropRequest, and a sentence.
type Violation struct{ Field, Sentence string }

var (
	channelPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)
	skuPattern      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	armPattern      = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
)

// Plan completes a draft at now. The terms are valid only when there are no violations.
func Plan(d Draft, now time.Time) (Terms, []Violation) {
	var broken []Violation
	require := func(ok bool, field, format string, args ...any) {
		if !ok {
			broken = append(broken, Violation{field, fmt.Sprintf(format, args...)})
		}
	}
	require(channelPattern.MatchString(d.ChannelID), "channel_id", "A channel is 1 to 63 lower-case letters, digits and hyphens, and does not begin with a hyphen.")
	require(strings.TrimSpace(d.Title) != "" && utf8.ValidString(d.Title) && utf8.RuneCountInString(d.Title) <= MaxTitle, "title", "A title has 1 to %d characters.", MaxTitle)
	require(!strings.ContainsFunc(d.Title, unseen), "title", "A title is one line of visible characters.")
	require(currencyPattern.MatchString(d.CurrencyCode), "price.currency_code", "A currency is three capital letters of ISO 4217.")
	require(d.MinorUnits >= 0 && d.MinorUnits <= MaxPrice, "price.minor_units", "A price is 0 to %d minor units.", int64(MaxPrice))
	require(d.Units >= 1 && d.Units <= MaxUnits, "units", "A drop has 1 to %d units.", MaxUnits)

	if d.OpenTime.IsZero() {
		d.OpenTime = now.Add(DefaultOpensIn)
	}
	require(!d.OpenTime.Before(now.Add(-clockDifference)), "open_time", "A drop cannot open in the past.")
	require(!d.OpenTime.After(now.Add(MaxAhead)), "open_time", "A drop opens within a year from now.")
	if d.Duration == 0 {
		d.Duration = DefaultDuration
	}
	require(d.Duration >= MinDuration && d.Duration <= MaxDuration, "duration", "A drop is open for %v to %v.", MinDuration, MaxDuration)
	if d.MaxPerViewer == 0 {
		d.MaxPerViewer = DefaultMaxPerViewer
	}
	require(d.MaxPerViewer <= MaxPerViewer, "max_per_viewer", "A viewer session may buy at most %d.", MaxPerViewer)
	require(d.PerInstrumentCap <= MaxPerInstrument, "per_instrument_cap", "A payment instrument may pay for at most %d, or 0: any number.", MaxPerInstrument)
	require(!d.Physical || skuPattern.MatchString(d.SKU), "sku", "A physical good has a SKU: 1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit.")
	require(d.Physical || d.SKU == "", "sku", "A digital good has no SKU.")
	if len(d.Arms) == 0 {
		d.Arms = []Arm{{Name: DefaultArm, Weight: 1, TokenTTL: DefaultTokenTTL}}
	}
	require(len(d.Arms) <= MaxArms, "arms", "An experiment has at most %d arms.", MaxArms)
	seen := map[string]bool{}
	for i, a := range d.Arms {
		field := func(name string) string { return fmt.Sprintf("arms[%d].%s", i, name) }
		require(len(a.Name) <= MaxArmName && armPattern.MatchString(a.Name), field("name"), "An arm's name is 1 to %d lower-case letters, digits, hyphens and underscores.", MaxArmName)
		require(!seen[a.Name], field("name"), "Every arm has a name of its own.")
		seen[a.Name] = true
		require(a.Weight >= 1 && a.Weight <= MaxArmWeight, field("weight"), "An arm's weight is 1 to %d.", MaxArmWeight)
		require(a.TokenTTL >= MinTokenTTL && a.TokenTTL <= MaxTokenTTL, field("token_ttl"), "An offer stands for %v to %v.", MinTokenTTL, MaxTokenTTL)
	}
	// Stores keep microseconds; a finer time would differ from itself after a restart.
	arms := slices.Clone(d.Arms)
	for i := range arms {
		arms[i].TokenTTL = arms[i].TokenTTL.Truncate(time.Microsecond)
	}
	open := d.OpenTime.UTC().Truncate(time.Microsecond)
	return Terms{
		ChannelID: d.ChannelID, Title: d.Title, CurrencyCode: d.CurrencyCode, MinorUnits: d.MinorUnits, Units: d.Units,
		OpenTime: open, CloseTime: open.Add(d.Duration.Truncate(time.Microsecond)), MaxPerViewer: d.MaxPerViewer, PerInstrumentCap: d.PerInstrumentCap,
		Arms: arms, SKU: d.SKU,
	}, broken
}

// unseen tells characters that do something else than being seen: line breaks, escapes of terminals, and those that turn
// the direction of what follows. Two that join letters and emoji are wanted.
func unseen(r rune) bool { return !unicode.IsGraphic(r) && r != '\u200c' && r != '\u200d' }

// Warnings are what is allowed and unusual about the terms, in sentences.
func (t Terms) Warnings() []string {
	var warnings []string
	if length := t.CloseTime.Sub(t.OpenTime); length < usualMinLength || length > usualMaxLength {
		warnings = append(warnings, fmt.Sprintf("The drop is open for %v; %v to %v is usual.", length, usualMinLength, usualMaxLength))
	}
	for _, a := range t.Arms {
		if a.TokenTTL != usualShortTTL && a.TokenTTL != usualLongTTL {
			warnings = append(warnings, fmt.Sprintf("Offers of arm %q stand for %v; %v or %v is usual.", a.Name, a.TokenTTL, usualShortTTL, usualLongTTL))
		}
	}
	return warnings
}

// LongestTTL is how long the longest-lived offer token stands.
func (t Terms) LongestTTL() time.Duration {
	var longest time.Duration
	for _, a := range t.Arms {
		longest = max(longest, a.TokenTTL)
	}
	return longest
}

// Schedule is what the terms begin with.
func (t Terms) Schedule() Schedule {
	return Schedule{OpenTime: t.OpenTime, CloseTime: t.CloseTime, OverTime: dropclock.OverAt(t.CloseTime, t.LongestTTL())}
}

package catalog_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/catalog"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func draft() catalog.Draft {
	return catalog.Draft{ChannelID: "demo", Title: "Poster", CurrencyCode: "EUR", MinorUnits: 1500, Units: 20}
}

func TestPlanFillsInTheDefaults(t *testing.T) {
	got, violations := catalog.Plan(draft(), now)
	want := catalog.Terms{
		ChannelID: "demo", Title: "Poster", CurrencyCode: "EUR", MinorUnits: 1500, Units: 20,
		OpenTime: now.Add(5 * time.Second), CloseTime: now.Add(95 * time.Second), MaxPerViewer: 1,
		Arms: []catalog.Arm{{Name: "control", Weight: 1, TokenTTL: time.Minute}},
	}
	if diff := cmp.Diff(want, got); diff != "" || violations != nil {
		t.Errorf("violations %v, terms (-want +got):\n%s", violations, diff)
	}
	if w := got.Warnings(); w != nil {
		t.Errorf("the defaults warn: %q", w)
	}
}

func TestTitlesInAnyScript(t *testing.T) {
	for _, title := range []string{"Poster №1", "限定プリント", "پوستر نیم\u200cفاصله", "family 👨\u200d👩\u200d👧 ❤️", "Café !"} {
		d := draft()
		d.Title = title
		if _, violations := catalog.Plan(d, now); violations != nil {
			t.Errorf("%q: %v", title, violations)
		}
	}
}

func TestPlanNamesEachBrokenRule(t *testing.T) {
	arm := catalog.Arm{Name: "a", Weight: 1, TokenTTL: time.Minute}
	for name, c := range map[string]struct {
		change func(*catalog.Draft)
		field  string
	}{
		"a channel is needed":                 {func(d *catalog.Draft) { d.ChannelID = "" }, "channel_id"},
		"a channel has no capitals":           {func(d *catalog.Draft) { d.ChannelID = "Demo" }, "channel_id"},
		"a title is needed":                   {func(d *catalog.Draft) { d.Title = "" }, "title"},
		"a title is one line of 120":          {func(d *catalog.Draft) { d.Title = strings.Repeat("ä", 121) }, "title"},
		"a title is more than blanks":         {func(d *catalog.Draft) { d.Title = " \u2003" }, "title"},
		"a title is one line":                 {func(d *catalog.Draft) { d.Title = "a\nb" }, "title"},
		"a title commands no terminal":        {func(d *catalog.Draft) { d.Title = "\x1b[31mred" }, "title"},
		"a title turns nothing around":        {func(d *catalog.Draft) { d.Title = "\u202eevil" }, "title"},
		"a currency is needed":                {func(d *catalog.Draft) { d.CurrencyCode = "euro" }, "price.currency_code"},
		"a price is not negative":             {func(d *catalog.Draft) { d.MinorUnits = -1 }, "price.minor_units"},
		"a drop has a unit":                   {func(d *catalog.Draft) { d.Units = 0 }, "units"},
		"a drop has 100,000 units at most":    {func(d *catalog.Draft) { d.Units = 100_001 }, "units"},
		"it does not open in the past":        {func(d *catalog.Draft) { d.OpenTime = now.Add(-3 * time.Second) }, "open_time"},
		"it opens within a year":              {func(d *catalog.Draft) { d.OpenTime = now.Add(367 * 24 * time.Hour) }, "open_time"},
		"it is open for 10 s":                 {func(d *catalog.Draft) { d.Duration = 9 * time.Second }, "duration"},
		"it does not close before it opens":   {func(d *catalog.Draft) { d.Duration = -time.Minute }, "duration"},
		"it is open for an hour at most":      {func(d *catalog.Draft) { d.Duration = time.Hour + 1 }, "duration"},
		"a viewer buys 100 at most":           {func(d *catalog.Draft) { d.MaxPerViewer = 101 }, "max_per_viewer"},
		"an experiment has eight arms":        {func(d *catalog.Draft) { d.Arms = make([]catalog.Arm, 9) }, "arms"},
		"an arm has a name":                   {func(d *catalog.Draft) { d.Arms = []catalog.Arm{{Weight: 1, TokenTTL: time.Minute}} }, "arms[0].name"},
		"two arms have two names":             {func(d *catalog.Draft) { d.Arms = []catalog.Arm{arm, arm} }, "arms[1].name"},
		"an arm has a weight":                 {func(d *catalog.Draft) { d.Arms = []catalog.Arm{{Name: "a", TokenTTL: time.Minute}} }, "arms[0].weight"},
		"an offer stands for a second":        {func(d *catalog.Draft) { d.Arms = []catalog.Arm{{Name: "a", Weight: 1}} }, "arms[0].token_ttl"},
		"an offer stands for an hour at most": {func(d *catalog.Draft) { d.Arms = []catalog.Arm{{Name: "a", Weight: 1, TokenTTL: 2 * time.Hour}} }, "arms[0].token_ttl"},
	} {
		t.Run(name, func(t *testing.T) {
			d := draft()
			c.change(&d)
			_, violations := catalog.Plan(d, now)
			for _, v := range violations {
				if v.Field == c.field && strings.HasSuffix(v.Sentence, ".") {
					return
				}
			}
			t.Errorf("got %v, want one of %s", violations, c.field)
		})
	}
}

func TestPlanNamesAllBrokenRulesAtOnce(t *testing.T) {
	_, violations := catalog.Plan(catalog.Draft{Duration: time.Second}, now)
	if len(violations) != 5 {
		t.Errorf("got %d violations, want channel, title, currency, units and duration: %v", len(violations), violations)
	}
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		duration, ttl time.Duration
		want          int
	}{
		"90 s and a minute are usual":       {90 * time.Second, time.Minute, 0},
		"120 s and five minutes are usual":  {120 * time.Second, 5 * time.Minute, 0},
		"a shorter drop is not":             {89 * time.Second, time.Minute, 1},
		"a longer drop is not":              {121 * time.Second, time.Minute, 1},
		"another TTL is not":                {90 * time.Second, 30 * time.Second, 1},
		"both together are told separately": {10 * time.Second, 30 * time.Second, 2},
	} {
		t.Run(name, func(t *testing.T) {
			d := draft()
			d.Duration = c.duration
			d.Arms = []catalog.Arm{{Name: "a", Weight: 1, TokenTTL: c.ttl}}
			terms, violations := catalog.Plan(d, now)
			if violations != nil {
				t.Fatal(violations)
			}
			if got := terms.Warnings(); len(got) != c.want {
				t.Errorf("got %q, want %d", got, c.want)
			}
		})
	}
}

// Whatever a producer asks for, a plan without violations is within the limits, and survives a store of microseconds.
func TestPlanKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draft()
		d.Units = rapid.Uint32().Draw(t, "units")
		d.OpenTime = now.Add(time.Duration(rapid.Int64().Draw(t, "opens in")))
		d.Duration = time.Duration(rapid.Int64().Draw(t, "duration"))
		d.Arms = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) catalog.Arm {
			return catalog.Arm{Name: rapid.String().Draw(t, "name"), Weight: rapid.Uint32().Draw(t, "weight"), TokenTTL: time.Duration(rapid.Int64().Draw(t, "ttl"))}
		}), 0, 10).Draw(t, "arms")
		terms, violations := catalog.Plan(d, now)
		if violations != nil {
			return
		}
		length := terms.CloseTime.Sub(terms.OpenTime)
		if length < catalog.MinDuration || length > catalog.MaxDuration || len(terms.Arms) == 0 || terms.MaxPerViewer == 0 {
			t.Fatalf("got %+v", terms)
		}
		if !time.UnixMicro(terms.OpenTime.UnixMicro()).Equal(terms.OpenTime) || !time.UnixMicro(terms.CloseTime.UnixMicro()).Equal(terms.CloseTime) {
			t.Fatalf("%v to %v is finer than a store", terms.OpenTime, terms.CloseTime)
		}
	})
}

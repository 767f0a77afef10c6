package sim

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// Markdown writes the rows as two tables for people: rimlight beside the best rival and the bound in each scenario, and every policy's worst
// scenario. It needs rows of all of them.
func Markdown(w io.Writer, rows []Row) error {
	const us = "rimlight"
	byScenario := map[string][]Row{}
	var order []string
	for _, r := range rows {
		if byScenario[r.Scenario] == nil {
			order = append(order, r.Scenario)
		}
		byScenario[r.Scenario] = append(byScenario[r.Scenario], r)
	}
	p := printer{w: w}
	p.line("| scenario | bad, rimlight (95 %%) | bad, best rival | bad, bound | mean ms: rimlight, best rival, bound | over 100 ms: rimlight, best rival, bound | recovery ms: rimlight, best rival | extra attempts |")
	p.line("|---|---|---|---|---|---|---|---|")
	for _, id := range order {
		group := byScenario[id]
		ours, bound := find(group, us), find(group, boundName)
		best := func(of func(Row) float64) Row {
			rivals := slices.DeleteFunc(slices.Clone(group), func(r Row) bool { return r.Policy == us || r.Policy == boundName })
			if len(rivals) == 0 {
				return Row{Policy: "none"}
			}
			return slices.MinFunc(rivals, func(a, b Row) int { return cmp.Compare(of(a), of(b)) })
		}
		bad := best(func(r Row) float64 { return r.Over200 })
		mean := best(func(r Row) float64 { return r.Mean })
		p.line("| %s | %s (%s to %s) | %s %s | %s | %.1f, %.1f %s, %.1f | %s, %s, %s | %.0f, %.0f | %s |", id,
			percent(ours.Over200), percent(ours.Over200Low), percent(ours.Over200High), percent(bad.Over200), bad.Policy, percent(bound.Over200),
			ours.Mean, mean.Mean, mean.Policy, bound.Mean,
			percent(ours.Over100), percent(best(func(r Row) float64 { return r.Over100 }).Over100), percent(bound.Over100),
			ours.Recovery, best(func(r Row) float64 { return r.Recovery }).Recovery, percent(ours.ExtraAttempts))
	}
	p.line("")
	p.line("| policy | worst scenario, overload apart | bad there |")
	p.line("|---|---|---|")
	var worst []Row
	for _, r := range rows {
		if r.Part || r.Overload {
			continue
		}
		if i := slices.IndexFunc(worst, func(o Row) bool { return o.Policy == r.Policy }); i < 0 {
			worst = append(worst, r)
		} else if r.Over200 > worst[i].Over200 {
			worst[i] = r
		}
	}
	slices.SortStableFunc(worst, func(a, b Row) int { return cmp.Compare(a.Over200, b.Over200) })
	for _, r := range worst {
		p.line("| %s | %s | %s |", r.Policy, r.Scenario, percent(r.Over200))
	}
	return p.err
}

func find(rows []Row, policy string) Row {
	if i := slices.IndexFunc(rows, func(r Row) bool { return r.Policy == policy }); i >= 0 {
		return rows[i]
	}
	return Row{Policy: policy}
}

func percent(x float64) string { return fmt.Sprintf("%.3f %%", 100*x) }

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

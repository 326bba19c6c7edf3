package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// measureAll is the command "all".
func measureAll(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("all", flag.ContinueOnError)
	count := flags.Int("rounds", 5, "how many `rounds`; figures are their medians")
	which := flags.String("run", "", "measure only groups whose name matches this `regexp`: "+strings.Join(groupNames(), ", "))
	measured := flags.Duration("time", 5*time.Second, "how long traffic is measured in each trial")
	asJSON := flags.Bool("json", false, "print JSON, with the values of all rounds, instead of a table")
	if err := flags.Parse(args); err != nil {
		return err
	}
	selected, err := regexp.Compile(*which)
	switch {
	case err != nil:
		return fmt.Errorf("-run %q: %w", *which, err)
	case flags.NArg() > 0:
		return fmt.Errorf("%q: there are no arguments besides options", flags.Arg(0))
	case *count < 1 || *measured <= 0:
		return errors.New("-rounds must be 1 or more, -time more than 0")
	}
	groups := slices.DeleteFunc(plan(*measured), func(g group) bool { return !selected.MatchString(g.name) })
	if len(groups) == 0 {
		return fmt.Errorf("-run %q matches none of %s", *which, strings.Join(groupNames(), ", "))
	}
	progress := log.New(os.Stderr, "", log.Ltime)
	w, err := openWorkshop(ctx, progress, groups)
	if err != nil {
		return err
	}
	defer w.close()
	about, err := machine(ctx)
	if err != nil {
		return err
	}
	progress.Print(about)
	lines, failed, err := w.measure(ctx, progress, groups, *count)
	if err != nil {
		return err
	}
	if *asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "\t")
		err = out.Encode(map[string]any{"machine": about, "rounds": *count, "rows": lines})
	} else if _, err = fmt.Printf("%s; medians of %d rounds\n\n", about, *count); err == nil {
		err = writeTable(os.Stdout, lines)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d trials have failed", failed)
	}
	return err
}

func groupNames() (names []string) {
	for _, g := range plan(time.Second) {
		names = append(names, g.name)
	}
	return names
}

// measure makes all rounds and returns the table's lines, and how many trials have failed. It tells on progress what it does.
func (w *workshop) measure(ctx context.Context, progress *log.Logger, groups []group, count int) (lines []line, failed int, err error) {
	found := make([]rounds, len(groups))
	for round := range count {
		for i := range groups {
			g := &groups[i]
			trials := slices.DeleteFunc(slices.Clone(g.trials), func(t trial) bool { return !w.has(t.needs) })
			// What comes first must not always be the same, as a machine warms up, and others come and go.
			if round%2 == 1 {
				slices.Reverse(trials)
			}
			results := make(map[string]figures)
			for _, t := range trials {
				f, err := w.try(ctx, &t)
				if ctx.Err() != nil {
					return nil, 0, ctx.Err()
				}
				if err != nil {
					failed++
					progress.Printf("%d/%d %s, %s: failed: %v", round+1, count, g.name, t.name, err)
					continue
				}
				progress.Printf("%d/%d %s, %s: %s", round+1, count, g.name, t.name, f)
				results[t.name] = f
			}
			found[i] = append(found[i], results)
		}
	}
	for i := range groups {
		lines = append(lines, groups[i].lines(found[i])...)
	}
	return lines, failed, nil
}

// try starts a server and measures it.
func (w *workshop) try(ctx context.Context, t *trial) (figures, error) {
	s, err := t.server(ctx, w)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	o := t.load
	o.URL, o.PID, o.Admin, o.Redis, o.API, o.Secret, o.Speech = s.URL, s.PID, s.Admin, s.Redis, s.API, s.Secret, s.Speech
	if err := o.validate(); err != nil {
		return nil, err
	}
	f, err := measure(ctx, &o)
	if err == nil && o.Deflate && f["deflated"] == 0 && o.Admin != "" {
		err = errors.New("the server does not compress")
	}
	return f, err
}

package process

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// Stage is one long-running part of a process.
type Stage struct {
	// Name is for errors.
	Name string
	// Run works until its context ends, then finishes what it has begun. Ending early is an error unless ctx ended, or it
	// says that the process is finished.
	Run func(context.Context) error
}

// errFinished is a stage's end by itself that is meant to end the process, too.
var errFinished = errors.New("process: finished")

// RunStages runs all stages at the same time. When ctx ends, or a stage does, they are stopped one after another, the
// first of the list first and each waited for: list who takes work in before who finishes it.
func RunStages(ctx context.Context, stages ...Stage) error {
	type ended struct {
		index int
		err   error
	}
	done := make(chan ended, len(stages)) // one message each: nobody ever waits to send
	stop := make([]context.CancelFunc, len(stages))
	for i, s := range stages {
		stageCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop[i] = cancel
		go func() { done <- ended{i, s.Run(stageCtx)} }()
	}
	var problems []error
	over := make([]bool, len(stages))
	note := func(e ended, asked bool) {
		over[e.index] = true
		switch {
		case errors.Is(e.err, errFinished):
		case e.err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", stages[e.index].Name, e.err))
		case !asked:
			problems = append(problems, fmt.Errorf("%s ended by itself", stages[e.index].Name))
		}
	}
	select {
	case e := <-done:
		note(e, false)
	case <-ctx.Done():
	}
	for i := range stages {
		stop[i]()
		for !over[i] {
			note(<-done, true)
		}
	}
	return errors.Join(problems...)
}

// Together makes one stage of several that start and stop at the same time. If one fails, all of them stop.
func Together(name string, stages ...Stage) Stage {
	return Stage{Name: name, Run: func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, s := range stages {
			g.Go(func() error {
				err := s.Run(ctx)
				switch {
				case err != nil:
					return fmt.Errorf("%s: %w", s.Name, err)
				case ctx.Err() == nil:
					return fmt.Errorf("%s ended by itself", s.Name)
				}
				return nil
			})
		}
		return g.Wait()
	}}
}

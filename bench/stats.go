package main

import "slices"

// sample is what was found in several rounds.
type sample []float64

// median returns the middle, or the mean of the two in the middle. The sample must not be empty.
func (s sample) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// rounds is what each round has found, by trial.
type rounds []map[string]figures

// of returns a figure of a trial, from the rounds that have it.
func (r rounds) of(trial, figure string) (s sample) {
	for _, round := range r {
		if value, ok := round[trial][figure]; ok {
			s = append(s, value)
		}
	}
	return s
}

// pairs combines a figure of two trials within each round that has both.
func (r rounds) pairs(trial, other, figure string, combine func(a, b float64) float64) (s sample) {
	for _, round := range r {
		a, ok1 := round[trial][figure]
		b, ok2 := round[other][figure]
		if ok1 && ok2 {
			s = append(s, combine(a, b))
		}
	}
	return s
}

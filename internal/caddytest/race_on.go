//go:build race

package caddytest

// With the race detector on in the test, it is on in the processes too.
const race = true

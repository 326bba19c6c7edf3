//go:build !race

package caddytest

const race = false

//go:build !linux

package ws

// Elsewhere nothing is known of what a socket takes at once.

const takenAtOnce = 0

func writable(uintptr) bool { return false }

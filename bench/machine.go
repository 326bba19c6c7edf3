package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine tells in a line where figures are from, and, where the system tells it, how busy others have kept it for a second.
func machine(ctx context.Context) (string, error) {
	about := fmt.Sprintf("%s, %d cores, %s/%s, %s%s", time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		runtime.Version(), processor())
	busy0, all0, known := ticks()
	if !known {
		return about, nil
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	busy1, all1, _ := ticks()
	return about + fmt.Sprintf(", before it %.0f %% busy with other work", 100*(busy1-busy0)/max(all1-all0, 1)), nil
}

// processor returns a comma and the name of the processor, where the system tells it.
func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return ", " + strings.TrimSpace(value)
		}
	}
	return ""
}

// ticks returns how long the machine's cores have worked, and how long they could have.
func ticks() (busy, all float64, known bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, false
	}
	first, _, _ := strings.Cut(string(b), "\n")
	// cpu user nice system idle iowait irq softirq steal guest guest_nice; guests are counted as user already
	fields := strings.Fields(first)
	for i := 1; i < min(len(fields), 9); i++ {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return 0, 0, false
		}
		all += v
		if i != 4 && i != 5 {
			busy += v
		}
	}
	return busy, all, all > 0
}

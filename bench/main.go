// Command bench measures servers of rooms.v1: what a delivery and a connection cost, and how late a message is.
//
//	bench -url ws://localhost:8080/ws -pid 123 -mode fanout    one measurement, on any server
//	bench all                                                  all of them, on servers of its own: see scripts/bench
//	bench bare                                                 the loop that fan-out is compared with
//
// docs/performance.md tells how to read what it finds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "all":
			return measureAll(ctx, args[1:])
		case "bare":
			return serveBare(ctx, args[1:])
		}
	}
	return measureOne(ctx, args)
}

// measureOne is the command without a name.
func measureOne(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	o.flags(flags)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q: the commands are all and bare", flags.Arg(0))
	}
	if err := o.validate(); err != nil {
		return err
	}
	found, err := measure(ctx, &o)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(found)
	}
	fmt.Printf("%s: %s\n", o.Mode, found)
	return nil
}

package module

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "rooms",
		Usage: "<command>",
		Short: "Shows and steers the rooms of a running Caddy",
		Long: `
Asks a running Caddy with the rooms plugin who is connected and what is said,
and tells it to send somebody away or to say something.

It talks to the admin endpoint of one instance. Users are those of all instances that
share a Redis; connections, and the list of rooms, are those of the one asked.

The admin endpoint is that of --address, else that of the configuration
given with --config, else Caddy's default. The hub is that of --hub, and may be left out
where there is only one. With --json the answers of the admin endpoint are printed
for programs, one JSON document a line; without it, tables for people. Errors
go to standard error, and the exit code is then 1.
`,
		CobraFunc: roomsCommand,
	})
}

// roomsCommand makes cmd the command with all its subcommands.
func roomsCommand(cmd *cobra.Command) {
	cmd.Example = `  $ caddy rooms status
  $ caddy rooms members lobby --address unix//run/caddy.sock`
	flags := cmd.PersistentFlags()
	flags.String("address", "", "Address of the admin endpoint, if neither the default nor that of --config")
	flags.StringP("config", "c", "", "Configuration file to take the admin endpoint's address from, if --address is not used")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply (when --config is used)")
	flags.String("hub", "", "Name of the hub, needed if there are several")
	flags.Bool("json", false, "Print JSON for programs, one document a line")
	cmd.AddCommand(statusCommand(), listCommand(), membersCommand(), kickCommand(), publishCommand(), tailCommand(), tokenCommand())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return fmt.Errorf("unknown command %q: there are %s", args[0], strings.Join(names, ", "))
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Shows the hubs, whether they are well, and how much is in them",
		Long: `
Shows each hub of the instance: whether it is ready, degraded, draining or still
starting, how its Redis and the delivery between instances do, and how many
connections it has, rooms that these are in, and memberships of connections in rooms.
Under the table are the problems, in words.

The exit code is 0 also when a hub is degraded. For probes there is
/rooms/health/ready on the admin endpoint.
`,
		Example: `  $ caddy rooms status
  $ caddy rooms status --json --config /etc/caddy/Caddyfile`,
		Args: exactly(),
		RunE: run(func(ctx context.Context, c *console, _ []string) error { return c.status(ctx) }),
	}
}

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rooms",
		Short: "Lists the rooms of a hub",
		Long: `
Lists the rooms in which somebody is who is connected to the instance that is asked,
with the number of users in each, over all instances, and of connections to this one.
A room exists as long as somebody is in it.
`,
		Example: `  $ caddy rooms rooms
  $ caddy rooms rooms --prefix team: --json`,
		Args: exactly(),
	}
	prefix := cmd.Flags().String("prefix", "", "Only rooms whose names begin so")
	cmd.RunE = run(func(ctx context.Context, c *console, _ []string) error { return c.rooms(ctx, *prefix) })
	return cmd
}

func membersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "members ROOM",
		Short: "Lists who is in a room",
		Long: `
Lists the users in a room, over all instances: status, number of connections, for
how long they are there, device, and the state that they show to others. Long
states are cut; --json has all of them.
`,
		Example: `  $ caddy rooms members lobby
  $ caddy rooms members lobby --hub chat --json`,
		Args: exactly("ROOM"),
		RunE: run(func(ctx context.Context, c *console, args []string) error { return c.members(ctx, args[0]) }),
	}
}

func kickCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kick USER",
		Short: "Takes a user out of a room, or disconnects the user",
		Long: `
Without --room, closes all connections of a user, on all instances, and asks the
client to stay away. With --room, takes the user out of that one room; the
connections stay open.

A user who is still let in may come back: refusing that is the task of authentication
and of the room's rules. The number printed is that of the instance asked; the other
instances are told, and do the same.
`,
		Example: `  $ caddy rooms kick ann
  $ caddy rooms kick ann --room lobby`,
		Args: exactly("USER"),
	}
	room := cmd.Flags().String("room", "", "Take the user out of this room only")
	cmd.RunE = run(func(ctx context.Context, c *console, args []string) error {
		if cmd.Flags().Changed("room") {
			return c.kick(ctx, args[0], *room)
		}
		return c.disconnect(ctx, args[0])
	})
	return cmd
}

func publishCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish ROOM DATA",
		Short: "Sends a message to everybody in a room",
		Long: `
Sends a message to all members of a room, on all instances. They get it with "from":null,
as it is from no user. No limit and no rule of the room holds it back.

DATA is JSON, or - to read the JSON from standard input. A string has quotes of its own:
'"like this"'. A number below zero goes after --, as it would be taken for a flag.
`,
		Example: `  $ caddy rooms publish lobby '{"text":"We restart at noon."}' --event notice
  $ jq .release package.json | caddy rooms publish lobby -`,
		Args: exactly("ROOM", "DATA"),
	}
	event := cmd.Flags().String("event", "", `The message's event (default "message")`)
	cmd.RunE = run(func(ctx context.Context, c *console, args []string) error {
		return c.publish(ctx, args[0], args[1], *event)
	})
	return cmd
}

func tailCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tail ROOM",
		Short: "Prints the messages of a room as they pass",
		Long: `
Prints each message of a room as it passes through the instance, until it is
interrupted: time, event, user (- if it is from none) and data. A line that begins
with --- tells that messages may be missing. Nobody in the room notices.

When the server ends the stream, because it stops or a reload has removed the hub, the
exit code is 1.
`,
		Example: `  $ caddy rooms tail lobby
  $ caddy rooms tail lobby --json | jq .data`,
		Args: exactly("ROOM"),
		RunE: run(func(ctx context.Context, c *console, args []string) error { return c.tail(ctx, args[0]) }),
	}
}

// exactly wants one argument for each name, none of them empty.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("got %d arguments, but it is: %s (see --help)", len(args), cmd.UseLine())
		}
		if i := slices.Index(args, ""); i >= 0 {
			return fmt.Errorf("%s is empty", names[i])
		}
		return nil
	}
}

// console is one run of a subcommand, in one goroutine.
type console struct {
	api  *adminClient
	hub  string // of --hub; empty if it is left out
	json bool   // what the API answers is printed as it is
	now  time.Time

	in    io.Reader
	out   io.Writer // what was asked for, and nothing else
	notes io.Writer // what a person should know besides
}

// run lets f do the work of a subcommand.
func run(f func(ctx context.Context, c *console, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		fl := caddycmd.Flags{FlagSet: cmd.Flags()}
		address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
		if err != nil {
			return fmt.Errorf("looking for the admin endpoint's address: %w", err)
		}
		api, err := newAdminClient(address)
		if err != nil {
			return err
		}
		return f(cmd.Context(), &console{
			api: api, hub: fl.String("hub"), json: fl.Bool("json"), now: time.Now(),
			in: cmd.InOrStdin(), out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(),
		}, args)
	}
}

// printJSON prints a document of the API on one line.
func (c *console) printJSON(doc []byte) error {
	line, err := visibleJSON(doc)
	if err != nil {
		return fmt.Errorf("the server's answer is no JSON: %w", err)
	}
	_, err = io.WriteString(c.out, line+"\n")
	return err
}

func (c *console) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}

// note tells something besides on standard error. That it can't be told is no reason to fail.
func (c *console) note(format string, args ...any) {
	_, _ = fmt.Fprintf(c.notes, format+"\n", args...)
}

package module

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddyrooms/caddy-rooms/internal/token"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token USER",
		Short: "Makes a token for development",
		Long: `
Prints a JSON Web Token for a user, as the backend of an app makes it, signed with
HS256. It asks no running Caddy.

The secret, that of the token block of the configuration, is read from a file or from a
variable of the environment: arguments are seen by everybody on the machine.
`,
		Example: `  $ caddy rooms token 42 --secret-env ROOMS_SECRET
  $ caddy rooms token 42 --secret-file secret --expires 5m --claims '{"rooms":{"chat:*":["join","publish","presence"]}}'`,
		Args: exactly("USER"),
	}
	file := cmd.Flags().String("secret-file", "", "File with the secret")
	env := cmd.Flags().String("secret-env", "", "Name of the environment variable with the secret")
	expires := cmd.Flags().String("expires", "1h", "For how long the token is valid; 0 for ever")
	claims := cmd.Flags().String("claims", "{}", "Further claims, a JSON object")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		secret, err := readSecret(*file, *env)
		if err != nil {
			return err
		}
		valid, err := caddy.ParseDuration(*expires)
		if err != nil || valid < 0 || valid > 0 && valid < time.Second {
			return fmt.Errorf("bad --expires '%s' (allowed: a duration like 1h of 1s or more, or 0)", *expires)
		}
		var further map[string]json.RawMessage // decoded, a number could become another
		if err := json.Unmarshal([]byte(*claims), &further); err != nil || further == nil {
			return errors.New("--claims is no JSON object")
		}
		all := map[string]any{}
		for name, claim := range further {
			all[name] = claim
		}
		all["sub"] = args[0]
		raw, err := token.Mint(secret, all, valid)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), raw)
		return err
	}
	return cmd
}

// readSecret reads the secret from where it is said to be.
func readSecret(file, env string) ([]byte, error) {
	switch {
	case (file == "") == (env == ""):
		return nil, errors.New("one of --secret-file and --secret-env is needed")
	case env != "":
		secret, ok := os.LookupEnv(env)
		if !ok {
			return nil, fmt.Errorf("the environment variable %s of --secret-env is not set", env)
		}
		return []byte(strings.TrimSpace(secret)), nil
	}
	text, err := os.ReadFile(file) //nolint:gosec // the user has named it
	if err != nil {
		return nil, fmt.Errorf("reading --secret-file: %w", err)
	}
	return []byte(strings.TrimSpace(string(text))), nil
}

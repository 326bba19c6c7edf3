package module

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/token"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// TokenConfig is which JSON Web Tokens are taken from clients, and from where. One at least of `secrets`, `keys` and `jwks` is required.
type TokenConfig struct {
	// Secrets of HMAC signatures, each of 32 bytes or more; with two, an old one can be replaced without a moment in which neither holds. Write
	// each as `{env.NAME}` or `{file./absolute/path}`: anything else is part of the config in plain text. Default: none.
	Secrets []string `json:"secrets,omitempty"`

	// Files with PEM public keys or certificates: RSA of 2048 bits or more, ECDSA, Ed25519. Default: none.
	Keys []string `json:"keys,omitempty"`

	// The URL at which a server publishes its keys as a JSON Web Key Set: `https://…`, or `http://` of the same machine. It is asked again every
	// 5 minutes of use, and for keys that are not known, and what was had last is used while it can't be reached. It may redirect to such URLs, up
	// to 3 times. Default: none.
	JWKS string `json:"jwks,omitempty"`

	// The algorithms that are allowed. Default: with secrets HS256, HS384 and HS512; with keys RS256, RS384, RS512, PS256, PS384, PS512, ES256,
	// ES384, ES512 and EdDSA.
	Algorithms []string `json:"algorithms,omitempty"`

	// The issuer (`iss`) that tokens must have. Default: any.
	Issuer string `json:"issuer,omitempty"`

	// The audience (`aud`) that tokens must be for. Default: any.
	Audience string `json:"audience,omitempty"`

	// By how much the clocks of who signs and who verifies may differ, up to 10m; -1 for not at all. Default: 10s.
	Leeway caddy.Duration `json:"leeway,omitempty"`

	// The cookie in which a token is looked for too, of pages of the same origin only: the same host, and https where Caddy itself has TLS.
	// Default: none.
	Cookie string `json:"cookie,omitempty"`

	// The query parameter in which a token is looked for too. URLs end in logs and histories. Default: none.
	Query string `json:"query,omitempty"`
}

// parseToken parses which tokens are taken.
func (h *Handler) parseToken(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	t := new(TokenConfig)
	h.Token = t
	return parseBlock(d, "token", []subdirective{
		{word: "secret", parse: texts(&t.Secrets)},
		{word: "key", parse: texts(&t.Keys)},
		{word: "jwks", parse: text(&t.JWKS)},
		{word: "algorithms", parse: texts(&t.Algorithms)},
		{word: "issuer", parse: text(&t.Issuer)},
		{word: "audience", parse: text(&t.Audience)},
		{word: "leeway", parse: duration(&t.Leeway, tokenLeeway)},
		{word: "cookie", parse: text(&t.Cookie)},
		{word: "query", parse: text(&t.Query)},
	})
}

// validateToken tells what is wrong with the tokens, as far as that can be told with placeholders in the secrets and without reading a file.
func (h *Handler) validateToken() error {
	t := h.Token
	if t == nil {
		return h.needsToken()
	}
	err := tokenLeeway.check("leeway", t.Leeway)
	switch {
	case err != nil:
	case h.User != "" && h.User != defaultUser:
		err = errors.New("the user is the sub of the token: there can't be a user template besides")
	case len(t.Secrets) == 0 && len(t.Keys) == 0 && t.JWKS == "":
		err = errors.New("none of secret, key and jwks is there")
	case t.JWKS != "" && !strings.Contains(t.JWKS, "{"):
		err = token.CheckJWKS(t.JWKS)
	}
	if err == nil {
		err = t.validateAlgorithms()
	}
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return nil
}

// needsToken refuses the placeholders of tokens where there are none.
func (h *Handler) needsToken() error {
	templates := slices.Concat([]string{h.Device}, h.AutoJoin)
	for _, l := range h.Limits {
		templates = append(templates, l.Key)
	}
	for _, template := range templates {
		if strings.Contains(template, tokenPlaceholder) {
			return fmt.Errorf("%q is of the token, and there is no token block", template)
		}
	}
	return nil
}

func (t *TokenConfig) validateAlgorithms() error {
	for i, a := range t.Algorithms {
		if !slices.Contains(token.Algorithms(), a) {
			return fmt.Errorf("algorithm %q is unknown (allowed: %s)", a, strings.Join(token.Algorithms(), ", "))
		}
		if slices.Contains(t.Algorithms[:i], a) {
			return fmt.Errorf("algorithm %q is repeated", a)
		}
	}
	return nil
}

// jwksPool has the published keys that are in use, by URL. They outlive configurations, so that a reload during an outage loses none.
var jwksPool = caddy.NewUsagePool()

// sharedJWKS is a key set in the pool.
type sharedJWKS struct{ *token.JWKS }

// Destruct implements caddy.Destructor.
func (sharedJWKS) Destruct() error { return nil }

// verifier returns what verifies tokens, with everything filled in and read, and the key of its key set in the pool, "" for none. It asks no server.
func (t *TokenConfig) verifier(logger *zap.Logger) (v *token.Verifier, jwks string, err error) {
	if t == nil {
		return nil, "", nil
	}
	repl := caddy.NewReplacer()
	o := token.Options{
		Algorithms: t.Algorithms, Issuer: t.Issuer, Audience: t.Audience,
		Leeway: max(0, time.Duration(cmp.Or(t.Leeway, tokenLeeway.def))),
	}
	secrets, err := fillSecrets(t.Secrets)
	if err != nil {
		return nil, "", fmt.Errorf("token: %w", err)
	}
	o.Secrets = secrets
	for _, file := range t.Keys {
		text, err := os.ReadFile(file) //nolint:gosec // the operator has named it
		if err != nil {
			return nil, "", fmt.Errorf("token: key: %w", err)
		}
		keys, err := token.ParseKeys(text)
		if err != nil {
			return nil, "", fmt.Errorf("token: key %s: %w", file, err)
		}
		o.Keys = append(o.Keys, keys...)
	}
	if t.JWKS != "" {
		if jwks, err = repl.ReplaceOrErr(t.JWKS, true, true); err != nil {
			return nil, "", fmt.Errorf("token: jwks: %w", err)
		}
		if err := token.CheckJWKS(jwks); err != nil {
			return nil, "", fmt.Errorf("token: %w", err)
		}
		set, _, err := jwksPool.LoadOrNew(jwks, func() (caddy.Destructor, error) {
			return sharedJWKS{token.NewJWKS(jwks, logger)}, nil
		})
		if err != nil {
			return nil, "", fmt.Errorf("token: jwks: %w", err)
		}
		o.JWKS = set.(sharedJWKS).JWKS
	}
	if v, err = token.New(o); err != nil {
		return nil, jwks, fmt.Errorf("token: %w", err)
	}
	return v, jwks, nil
}

// fillSecrets returns secrets with their placeholders filled in, and without the line end that a file has. A placeholder for nothing is refused.
func fillSecrets(templates []string) (secrets [][]byte, err error) {
	for _, template := range templates {
		filled, err := caddy.NewReplacer().ReplaceOrErr(template, true, true)
		if err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
		secrets = append(secrets, []byte(strings.TrimSpace(filled)))
	}
	return secrets, nil
}

// authority is whose tokens are taken. Who was let in by the tokens of one is none of another's.
func (t *TokenConfig) authority() []string {
	if t == nil {
		return nil
	}
	return []string{"token", t.JWKS, t.Issuer, t.Audience}
}

// authenticate returns what the hub needs to take new tokens.
func (h *Handler) authenticate() hub.Authenticate {
	if h.verifier == nil {
		return nil
	}
	return func(ctx context.Context, raw string) (*hub.Access, *wire.Error) {
		a, _, refusal := h.access(ctx, raw)
		return a, refusal
	}
}

// access returns what a token allows, with its claims, or why it is refused: to the client no more than it knows.
func (h *Handler) access(ctx context.Context, raw string) (*hub.Access, map[string]any, *wire.Error) {
	c, err := h.verifier.Verify(ctx, raw)
	if err == nil && !hub.ValidUser(c.User) {
		err = errors.New("its sub can't be the id of a user: it is too long, has a control character, is . or .., or begins like that of an anonymous client")
	}
	var a *hub.Access
	if err == nil {
		a, err = newAccess(c)
	}
	switch {
	case err == nil:
		return a, c.All, nil
	case errors.Is(err, token.ErrUnavailable):
		return nil, nil, &wire.Error{Code: wire.Unavailable, Message: "tokens can't be checked now"}
	}
	h.logger.Debug("token refused", zap.Error(err))
	message := "token is not valid"
	if errors.Is(err, token.ErrExpired) {
		message = "token has expired"
	}
	return nil, nil, &wire.Error{Code: wire.Unauthorized, Message: message}
}

// newAccess translates the claims of a token for the hub.
func newAccess(c *token.Claims) (*hub.Access, error) {
	a := &hub.Access{User: c.User, Expires: c.Expires, State: string(c.State), Signer: c.Signer}
	if len(a.State) > wire.MaxState {
		return nil, fmt.Errorf("its state has %d bytes, allowed are %d", len(a.State), wire.MaxState)
	}
	if c.Rooms == nil {
		return a, nil
	}
	a.Grants = []hub.Grant{}
	for text, right := range c.Rooms {
		pattern, err := hub.ParsePattern(text)
		if err != nil {
			return nil, err
		}
		a.Grants = append(a.Grants, hub.Grant{
			Rooms: pattern, Join: right&token.Join != 0, Publish: right&token.Publish != 0, Presence: right&token.Presence != 0,
		})
	}
	return a, nil
}

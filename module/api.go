package module

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
)

func init() {
	caddy.RegisterModule(API{})
}

// API is an HTTP API for backends: they publish messages, see who is online and in which rooms, send users away, ban them, put them into rooms,
// and slow rooms down. What is asked of one instance is done and known on all that share the hub's Redis. It answers every request below its path.
// GET /openapi.json describes it, and docs/api.md.
//
// Whoever may use it may do anything with the hub: either it asks for a secret, or it is said to be unprotected, because something in front
// of it decides who may come in.
type API struct {
	// The name of the hub, which a `rooms` handler of the same configuration must have. Default: `default`.
	Hub string `json:"hub,omitempty"`

	// What the paths of the API begin with, like `/api`. It begins with a slash and ends without. Requests for other paths are passed on. Default:
	// empty, the API is at the root of what arrives, and gets all of it.
	PathPrefix string `json:"path_prefix,omitempty"`

	// Secrets of 16 bytes or more, one of which each request must have as `Authorization: Bearer <secret>`; with two, an old one can be replaced
	// without a moment in which neither holds. Write each as `{env.NAME}` or `{file./absolute/path}`: anything else is part of the config in plain
	// text. Required, unless it is unprotected.
	Secrets []string `json:"secrets,omitempty"`

	// Let everybody in who reaches the API. Default: false.
	Unprotected bool `json:"unprotected,omitempty"`

	apiState
}

// apiState is what the API has besides its configuration. Provision writes it, and App.Start the hub, before the gate opens; everything else reads it.
type apiState struct {
	logger *zap.Logger
	hashes [][sha256.Size]byte // of the secrets
	hub    *sharedHub
	gate   gate // opens when the configuration is live
}

// minSecret is the length of the shortest secret, in bytes.
const minSecret = 16

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.rooms_api",
		New: func() caddy.Module { return new(API) },
	}
}

// Provision sets the handler up. Which hub it serves is known once all handlers of the configuration are.
func (a *API) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	if err := a.validateConfig(); err != nil {
		return err
	}
	a.Hub = cmp.Or(a.Hub, defaultHub)
	secrets, err := fillSecrets(a.Secrets)
	if err != nil {
		return err
	}
	for _, secret := range secrets {
		if len(secret) < minSecret {
			return errShortSecret
		}
		a.hashes = append(a.hashes, sha256.Sum256(secret))
	}
	app, err := ctx.App("rooms")
	if err != nil {
		return fmt.Errorf("getting rooms app: %w", err)
	}
	a.gate = newGate(ctx)
	app.(*App).apis = append(app.(*App).apis, a)
	return nil
}

var errShortSecret = fmt.Errorf("a secret is too short (allowed: %d bytes or more)", minSecret)

// validateConfig tells what is wrong with the config, as far as that can be told with placeholders in the secrets.
func (a *API) validateConfig() error {
	if a.Hub != "" {
		if err := checkName("hub", a.Hub); err != nil {
			return err
		}
	}
	if p := a.PathPrefix; p != "" && (p[0] != '/' || strings.HasSuffix(p, "/") || strings.ContainsAny(p, "*?#{}")) {
		return fmt.Errorf("bad path_prefix %q (allowed: a path that begins with a slash, ends without one, and has no * and no placeholder)", p)
	}
	for _, s := range a.Secrets {
		if !strings.Contains(s, "{") && len(strings.TrimSpace(s)) < minSecret {
			return errShortSecret
		}
	}
	switch {
	case len(a.Secrets) > 0 && a.Unprotected:
		return errors.New("there are both secret and unprotected (allowed: one of them)")
	case len(a.Secrets) == 0 && !a.Unprotected:
		return errors.New("neither secret nor unprotected is there: write secret {env.NAME}, or unprotected if something in front of it decides who may come in")
	}
	return nil
}

// ServeHTTP answers the request, or passes it on if its path is none of the API's.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if a.PathPrefix != "" && !strings.HasPrefix(r.URL.EscapedPath(), a.PathPrefix+"/") {
		return next.ServeHTTP(w, r)
	}
	if err := a.serve(w, r); err != nil {
		a.refuse(w, r, err)
	}
	return nil
}

// crossOrigin refuses what a browser sends for the page of another site.
var crossOrigin http.CrossOriginProtection

func (a *API) serve(w http.ResponseWriter, r *http.Request) error {
	if !a.authorized(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return statusError(http.StatusUnauthorized, "no valid secret (wanted: Authorization: Bearer <secret>)")
	}
	if err := crossOrigin.Check(r); err != nil {
		return statusError(http.StatusForbidden, "%w", err)
	}
	route, err := a.route(w, r)
	if err != nil {
		return err
	}
	if !a.gate.wait(r.Context()) {
		return statusError(http.StatusServiceUnavailable, "the configuration is not live")
	}
	if state := a.hub.State(); state != hub.StateOpen && !route.always {
		return statusError(http.StatusServiceUnavailable, "the hub is %s", state)
	}
	return withStatus(route.serve(w, r, a.hub))
}

// authorized tells whether the request has one of the secrets, or needs none. All are compared, each as its hash: how long that takes tells
// nothing of them.
func (a *API) authorized(r *http.Request) bool {
	if a.Unprotected {
		return true
	}
	fields := r.Header.Values("Authorization")
	if len(fields) != 1 {
		return false
	}
	scheme, secret, _ := strings.Cut(fields[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	given, found := sha256.Sum256([]byte(strings.TrimSpace(secret))), 0
	for i := range a.hashes {
		found |= subtle.ConstantTimeCompare(given[:], a.hashes[i][:])
	}
	return found == 1
}

// Interface guards
var (
	_ caddy.Provisioner           = (*API)(nil)
	_ caddyhttp.MiddlewareHandler = (*API)(nil)
)

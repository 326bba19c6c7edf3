package module

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// parseAPICaddyfile makes a route of a rooms_api directive. A path matcher that ends in /* also says where the API begins.
//
// Who asks for a secret then matches the path itself: Caddy's matcher cleans decoded paths, so that a user who calls himself "../../x" would lead
// a request of the backend, with its secret, past the API. Where something in front asks, it may be by such a matcher, which the API must not
// let anybody past.
func parseAPICaddyfile(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	api := new(API)
	h.Next() // the directive
	if h.NextArg() && strings.HasPrefix(h.Val(), "/") && strings.HasSuffix(h.Val(), "/*") {
		api.PathPrefix = strings.TrimSuffix(h.Val(), "/*")
	}
	h.Reset()
	h.Next()
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	if err := api.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if api.PathPrefix != "" && !api.Unprotected {
		matcher = nil
	}
	return h.NewRoute(matcher, api), nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	rooms_api [<matcher>] [<hub>] {
//		secret <secrets...>
//		unprotected
//	}
//
// Either secret or unprotected is required. Placeholders are kept as they are.
func (a *API) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	return checked(a.parseDirective, a.validateConfig)(d)
}

// parseDirective parses what comes after the directive.
func (a *API) parseDirective(d *caddyfile.Dispenser) error {
	if err := parseHub(d, &a.Hub); err != nil {
		return err
	}
	return parseBlock(d, "rooms_api", []subdirective{
		{word: "secret", parse: texts(&a.Secrets)},
		{word: "unprotected", parse: flag(&a.Unprotected)},
	})
}

// Interface guard
var _ caddyfile.Unmarshaler = (*API)(nil)

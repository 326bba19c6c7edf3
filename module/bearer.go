package module

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

const (
	// bearerPrefix begins a subprotocol that carries a token: what a browser can send with a WebSocket handshake, besides cookies and the URL.
	bearerPrefix = "rooms.bearer."
	// tokenPlaceholder begins the placeholders of a token's claims.
	tokenPlaceholder = "{rooms.token."

	redacted = "REDACTED"
)

// takeBearer returns the token that is offered as a subprotocol, and takes it out of the request: headers are logged.
func takeBearer(r *http.Request) (raw string, offered bool) {
	lines := r.Header.Values("Sec-WebSocket-Protocol")
	for i, line := range lines {
		protocols := strings.Split(line, ",")
		for j, p := range protocols {
			encoded, is := strings.CutPrefix(strings.TrimSpace(p), bearerPrefix)
			if !is {
				continue
			}
			if !offered {
				offered = true
				text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
				if err == nil {
					raw = string(text)
				}
			}
			protocols[j] = " " + bearerPrefix + redacted
		}
		lines[i] = strings.Join(protocols, ",")
	}
	return raw, offered
}

// tokenLike is what JSON Web Tokens look like in a URL.
var tokenLike = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*`)

// hideTokens takes what looks like a token out of the request's URI, which is logged. Other handlers see the URL as it is.
func hideTokens(r *http.Request) { r.RequestURI = tokenLike.ReplaceAllString(r.RequestURI, redacted) }

// findToken returns the token that came with an upgrade; false when none did. bearer is that of takeBearer. The first place that has one counts.
func (h *Handler) findToken(r *http.Request, bearer string, offered bool) (raw string, found bool) {
	if offered {
		return bearer, true
	}
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(value), true
	}
	if h.Token.Cookie != "" && sameOrigin(r) {
		if c, err := r.Cookie(h.Token.Cookie); err == nil {
			return c.Value, true
		}
	}
	if h.Token.Query != "" {
		if query := r.URL.Query(); query.Has(h.Token.Query) {
			return query.Get(h.Token.Query), true
		}
	}
	return "", false
}

// sameOrigin tells whether the request is from a page of its own host, or from no page. Cookies come along with those of others, too.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// provideClaims makes the claims of a token placeholders of the request; nil: all are empty.
func provideClaims(repl *caddy.Replacer, claims map[string]any) {
	repl.Map(func(key string) (any, bool) {
		name, ok := strings.CutPrefix(key, "rooms.token.")
		if !ok {
			return nil, false
		}
		return claimText(claims[name]), true
	})
}

// claimText returns a claim as text: a string as it is, all else as JSON.
func claimText(claim any) string {
	switch c := claim.(type) {
	case nil:
		return ""
	case string:
		return c
	case float64:
		return strconv.FormatFloat(c, 'f', -1, 64)
	}
	text, err := json.Marshal(claim)
	if err != nil {
		return ""
	}
	return string(text)
}

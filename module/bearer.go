package module

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// bearerPrefix begins a subprotocol that carries a token: what a browser can send with a WebSocket handshake, besides cookies and the URL.
	bearerPrefix = "rooms.bearer."
	// tokenPlaceholder begins the placeholders of a token's claims.
	tokenPlaceholder = "{rooms.token."
)

// offeredToken returns the token that is offered as a subprotocol.
func offeredToken(r *http.Request) (raw string, offered bool) {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			encoded, is := strings.CutPrefix(strings.TrimSpace(p), bearerPrefix)
			if !is {
				continue
			}
			text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
			if err != nil {
				return "", true
			}
			return string(text), true
		}
	}
	return "", false
}

// What tokens look like in the header and in a URL.
var (
	bearerLike = regexp.MustCompile(`rooms\.bearer\.([^,\s]+)`)
	tokenLike  = regexp.MustCompile(`(eyJ[A-Za-z0-9_-]+(?:\.|%2[Ee])[A-Za-z0-9_-]*(?:\.|%2[Ee])[A-Za-z0-9_-]*)`)
)

// eraseTokens overwrites the tokens in the subprotocols and the URIs of an upgrade, whether they are taken there or not.
//
// The server has copied the request for its logs before any handler could see it, and the logs, of access and of errors, show these headers
// and the URI, as it was before any handler has rewritten it. But what was copied are the strings, not the bytes that they stand for.
func (h *Handler) eraseTokens(r *http.Request) {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		eraseLike(line, bearerLike)
	}
	original, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	for _, uri := range slices.Concat([]string{r.RequestURI, original.RequestURI}, r.Header.Values("Referer")) {
		eraseLike(uri, tokenLike)
		if h.Token != nil && h.Token.Query != "" {
			eraseParameter(uri, h.Token.Query)
		}
	}
}

// eraseLike erases what matches in s.
func eraseLike(s string, like *regexp.Regexp) {
	for _, at := range like.FindAllStringSubmatchIndex(s, -1) {
		erase(s[at[2]:at[3]])
	}
}

// eraseParameter erases all values of a query parameter in a URI.
func eraseParameter(uri, parameter string) {
	_, query, _ := strings.Cut(uri, "?")
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(name); err == nil && name == parameter {
			erase(value)
		}
	}
}

// erase overwrites a string in all of its copies. It must be one that was read from a connection, which no program has for a constant.
func erase(secret string) {
	//nolint:gosec // there is no other way to what the server has copied
	bytes := unsafe.Slice(unsafe.StringData(secret), len(secret))
	for i := range bytes {
		bytes[i] = 'X'
	}
}

// findToken returns the token that came with an upgrade; false when none did, or none is wanted. The first place that has one counts. What it
// returns has memory of its own.
func (h *Handler) findToken(r *http.Request) (raw string, found bool) {
	if h.Token == nil {
		return "", false
	}
	if raw, offered := offeredToken(r); offered {
		return raw, true
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
			return strings.Clone(query.Get(h.Token.Query)), true
		}
	}
	return "", false
}

// sameOrigin tells whether the request is from a page of its own origin, or from no page. Cookies come along with those of others, too. Without
// TLS a proxy may have ended it, so that nobody here knows the scheme of the page.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host) && (r.TLS == nil || u.Scheme == "https")
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
	case json.Number:
		return c.String()
	}
	text, err := json.Marshal(claim)
	if err != nil {
		return ""
	}
	return string(text)
}

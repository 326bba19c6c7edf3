package module

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/small"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// ServeHTTP takes WebSocket upgrades over and passes everything else on. It returns as soon as the connection is upgraded: what
// lives on is small, and survives a reload.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if extendedConnect(r) {
		return caddyhttp.Error(http.StatusNotImplemented, errors.New("WebSockets over HTTP/2 and HTTP/3 are not supported"))
	}
	if !isUpgrade(r) {
		return next.ServeHTTP(w, r)
	}
	return traced(w, r, h.upgrade)
}

// upgrade makes the request a connection, or refuses it.
func (h *Handler) upgrade(w http.ResponseWriter, r *http.Request) error {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, name := range []string{"rooms.conn", "rooms.user"} {
		repl.Set(name, "") // until it is known; else error pages would show the placeholder
	}
	raw, found := h.findToken(r)
	h.eraseTokens(r)
	if err := checkHandshake(w, r); err != nil {
		return err
	}
	// Only who has offered the protocol can read an error in it.
	speaks, err := offersProtocol(r)
	if err != nil {
		return err
	}
	endpoint := h.await(r.Context())
	if endpoint == nil || !endpoint.Accepting() {
		return notAccepting(w)
	}
	if !h.originAllowed(r) {
		return caddyhttp.Error(http.StatusForbidden, fmt.Errorf("origin %q not allowed", r.Header.Get("Origin")))
	}
	var keys small.Map[string, []string]
	h.expandKeys(&keys, repl, false)
	if limit, decision := endpoint.Connect(r.Context(), &keys); limit != nil {
		return refuseLimit(w, limit, decision)
	}
	client, refusal := h.identify(r.Context(), repl, raw, found)
	if refusal != nil {
		return h.refuseClient(w, r, speaks, refusal)
	}
	announce(r, repl, &client)
	if _, banned := h.hub.Banned(client.User); banned {
		return h.refuseClient(w, r, speaks, &wire.Error{Code: wire.Forbidden, Message: "banned"})
	}
	if limit, decision := endpoint.Pace(r.Context()); limit != nil {
		if speaks {
			// Unlike a client over a limit of its own, this one did nothing wrong, and a browser can't read when to come back.
			code := wire.CloseTooManyConnections
			if limit.Unavailable(decision) {
				code = wire.CloseUnavailable
			}
			return h.refuseSpeaking(w, r, code, limit.Refusal(decision))
		}
		return refuseLimit(w, limit, decision)
	}
	h.expandKeys(&keys, repl, true)
	client.Keys = keys
	for _, template := range h.AutoJoin {
		if room := repl.ReplaceAll(template, ""); room != "" {
			client.Rooms = append(client.Rooms, room)
		}
	}
	if !endpoint.Admit() {
		if !endpoint.Accepting() { // any more
			return notAccepting(w)
		}
		refusal := &wire.Error{Code: wire.Unavailable, Message: "too many connections"}
		if speaks {
			return h.refuseSpeaking(w, r, wire.CloseTooManyConnections, &wire.Refusal{Error: *refusal})
		}
		return refuseFor(w, http.StatusServiceUnavailable, 5*time.Second+rand.N(5*time.Second), refusal)
	}
	h.answered(r, "", endpoint.Accept(w, r, client))
	return nil
}

// refuseClient answers a client that could not be identified, or is banned.
func (h *Handler) refuseClient(w http.ResponseWriter, r *http.Request, speaks bool, refusal *wire.Error) error {
	code, status := wire.CloseUnauthorized, http.StatusUnauthorized
	switch refusal.Code { //nolint:exhaustive // no other
	case wire.Unavailable:
		code, status = wire.CloseUnavailable, http.StatusServiceUnavailable
	case wire.Forbidden:
		code, status = wire.CloseForbidden, http.StatusForbidden
	}
	switch {
	case speaks:
		return h.refuseSpeaking(w, r, code, &wire.Refusal{Error: *refusal})
	case status == http.StatusServiceUnavailable:
		return refuseFor(w, status, 5*time.Second+rand.N(5*time.Second), refusal)
	}
	return caddyhttp.Error(status, refusal)
}

// refuseSpeaking upgrades only to say why the client is not admitted.
func (h *Handler) refuseSpeaking(w http.ResponseWriter, r *http.Request, code int, refusal *wire.Refusal) error {
	h.answered(r, refusal.Code, h.endpoint.Load().Refuse(w, r, code, refusal))
	return nil
}

// isUpgrade tells whether r asks for a WebSocket (RFC 6455, section 4.2.1).
func isUpgrade(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// extendedConnect tells whether r asks for a WebSocket over HTTP/2 (RFC 8441) or HTTP/3 (RFC 9220).
func extendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect &&
		(r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket")
}

// checkHandshake refuses what coder/websocket would refuse in words of its own, past Caddy's error handling.
func checkHandshake(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.Method != http.MethodGet:
		return caddyhttp.Error(http.StatusMethodNotAllowed, fmt.Errorf("a WebSocket handshake is a GET, not a %s", r.Method))
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1:
		return caddyhttp.Error(http.StatusUpgradeRequired, fmt.Errorf("a WebSocket handshake needs HTTP/1.1, not %s", r.Proto))
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		return caddyhttp.Error(http.StatusUpgradeRequired, errors.New("unsupported WebSocket version (supported: 13)"))
	case len(r.Header.Values("Sec-WebSocket-Key")) != 1 || !validKey(r.Header.Get("Sec-WebSocket-Key")):
		return caddyhttp.Error(http.StatusBadRequest, errors.New("bad Sec-WebSocket-Key"))
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// A body would be taken for frames.
		return caddyhttp.Error(http.StatusBadRequest, errors.New("a WebSocket handshake has no body"))
	}
	return nil
}

// validKey tells whether key is 16 bytes in base64, as RFC 6455 has it.
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key))
	return err == nil && len(b) == 16
}

// offersProtocol tells whether the client has named our subprotocol. It may also name none, but not only others.
func offersProtocol(r *http.Request) (bool, error) {
	var offered []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(line, ",") {
			offered = append(offered, strings.TrimSpace(protocol))
		}
	}
	if len(offered) == 0 || slices.Contains(offered, wire.Subprotocol) {
		return len(offered) > 0, nil
	}
	// One of those offered may be a token.
	return false, caddyhttp.Error(http.StatusBadRequest, errors.New("no known subprotocol offered (supported: "+wire.Subprotocol+")"))
}

// identify returns the client that the request is from: by its token, where these are taken, else as whoever authenticated it has left it.
func (h *Handler) identify(ctx context.Context, repl *caddy.Replacer, raw string, found bool) (hub.Client, *wire.Error) {
	c := hub.Client{Conn: hub.NewConnID()}
	var claims map[string]any
	if h.verifier == nil {
		c.User = repl.ReplaceAll(h.User, "")
	} else if found {
		var refusal *wire.Error
		ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
		defer cancel()
		if c.Access, claims, refusal = h.access(ctx, raw); refusal != nil {
			return c, refusal
		}
		c.User = c.Access.User
	}
	provideClaims(repl, claims)
	c.Device = printable(repl.ReplaceAll(h.Device, ""))
	switch {
	case c.User == "" && h.Anonymous:
	case c.User == "":
		return c, &wire.Error{Code: wire.Unauthorized, Message: "not authenticated"}
	case !hub.ValidUser(c.User):
		h.logger.Warn("user id can't be used: it is too long, has a control character, is . or .., or begins like that of an anonymous client",
			zap.Int("length", len(c.User)))
		return c, &wire.Error{Code: wire.Unauthorized, Message: "user id can't be used"}
	}
	return c, nil
}

// announce makes known who the client is: to the templates that are expanded from here on, also those of other handlers, to the access log
// and to the trace. The keys of limits have been split and expanded before.
func announce(r *http.Request, repl *caddy.Replacer, c *hub.Client) {
	repl.Set("rooms.conn", c.Conn)
	repl.Set("rooms.user", c.UserID())
	if fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		fields.Set(zap.String("rooms_conn", c.Conn))
		fields.Set(zap.String("rooms_user", c.UserID()))
	}
	traceClient(r, c)
}

// printable makes a name for a device of what a client says of itself.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	if len(s) > presence.MaxName {
		s = strings.ToValidUTF8(s[:presence.MaxName], "")
	}
	return s
}

// tokenTimeout is how long an upgrade waits for keys that its token needs and that are not known yet.
const tokenTimeout = 3 * time.Second

// expandKeys adds to keys the expanded texts of the limits' keys that depend on the request: those that have something of the token in them,
// or the others.
func (h *Handler) expandKeys(keys *small.Map[string, []string], repl *caddy.Replacer, ofToken bool) {
	for _, k := range h.keys {
		if strings.Contains(k.Template, tokenPlaceholder) != ofToken {
			continue
		}
		texts := make([]string, len(k.Texts))
		for i, text := range k.Texts {
			texts[i] = repl.ReplaceKnown(text, "")
		}
		if k.Template == clientIPKey {
			texts[0] = network(texts[0])
		}
		keys.Set(k.Template, texts)
	}
}

// network returns the /64 of an IPv6 address, which is what one customer gets, and any other address as it is.
func network(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Is4() || addr.Is4In6() {
		return ip
	}
	prefix, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.String()
}

// originAllowed tells whether a page of the request's Origin may connect. Other clients than browsers send none.
func (h *Handler) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return slices.Contains(h.Origins, "*") // "null", of a page without an origin
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	host, full := strings.ToLower(u.Host), strings.ToLower(u.Scheme+"://"+u.Host)
	for _, pattern := range h.Origins {
		subject := host
		if strings.Contains(pattern, "://") {
			subject = full
		}
		if ok, err := path.Match(strings.ToLower(pattern), subject); ok && err == nil {
			return true
		}
	}
	return false
}

// refuseLimit answers an upgrade that a limit on connect does not allow.
func refuseLimit(w http.ResponseWriter, l *hub.Limit, d ratelimit.Decision) error {
	if l.Unavailable(d) {
		return refuseFor(w, http.StatusServiceUnavailable, d.RetryAfter, fmt.Errorf("limit %q can't be decided without Redis", l.Name))
	}
	w.Header().Set(ratelimit.PolicyHeader, ratelimit.PolicyField(l.Limit))
	w.Header().Set(ratelimit.LimitHeader, ratelimit.LimitField(l.Limit, d))
	return refuseFor(w, http.StatusTooManyRequests, d.RetryAfter, fmt.Errorf("limit %q reached", l.Name))
}

// notAccepting answers while no clients are taken.
func notAccepting(w http.ResponseWriter) error {
	return refuseFor(w, http.StatusServiceUnavailable, 1+rand.N(5*time.Second), errors.New("not accepting connections"))
}

// refuseFor answers that the client may try again after wait.
func refuseFor(w http.ResponseWriter, status int, wait time.Duration, err error) error {
	w.Header().Set("Retry-After", ratelimit.RetryAfterField(ratelimit.Decision{RetryAfter: wait}))
	return caddyhttp.Error(status, err)
}

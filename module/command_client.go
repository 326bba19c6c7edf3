package module

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// adminClient asks the admin endpoint of one instance. Unlike Caddy's own helper for commands it keeps the body of an answer that is an
// error, which is where an unhealthy hub tells its problems, and takes a context, which ends a tail.
type adminClient struct {
	address string // as people wrote it, for errors
	base    string // what URLs begin with
	origin  string // for the header; empty on a Unix socket, where Caddy allows none
	http    *http.Client
}

// newAdminClient returns a client for an address in Caddy's notation, as localhost:2019 or unix//run/caddy.sock.
func newAdminClient(address string) (*adminClient, error) {
	if strings.Contains(address, "://") {
		return nil, fmt.Errorf("admin endpoint's address %q is a URL: write it without http://, as localhost:2019", address)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return nil, fmt.Errorf("admin endpoint's address %q: %w", address, err)
	}
	if parsed.PortRangeSize() > 1 {
		return nil, fmt.Errorf("admin endpoint's address %q has several ports: name one", address)
	}
	dial := parsed.JoinHostPort(0)
	base := "http://" + dial
	origin := base
	if parsed.IsUnixNetwork() {
		dial, _, _ = strings.Cut(dial, "|")   // the permissions of the socket
		base, origin = "http://127.0.0.1", "" // a URL must have a host
	}
	return &adminClient{address: address, base: base, origin: origin, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, parsed.Network, dial)
		},
	}}}, nil
}

// refusedError is an answer with an error's status.
type refusedError struct {
	status int
	body   []byte
}

func (e *refusedError) Error() string {
	var doc struct {
		Error string `json:"error"`
	}
	words := string(e.body)
	if json.Unmarshal(e.body, &doc) == nil && doc.Error != "" {
		words = doc.Error
	}
	words = strings.TrimSpace(visibleText(words))
	if words == "" {
		words = http.StatusText(e.status)
	}
	return fmt.Sprintf("%s (HTTP %d)", words, e.status)
}

// open makes a request. body may be nil. The caller closes the answer's body.
func (a *adminClient) open(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if a.origin != "" {
		req.Header.Set("Origin", a.origin)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // without the URL, which says nothing to people
		}
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return nil, fmt.Errorf("no admin endpoint at %s: is caddy running? If the endpoint is elsewhere, give --address or --config (%w)", a.address, err)
		}
		return nil, fmt.Errorf("asking caddy at %s: %w", a.address, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		refused, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, fmt.Errorf("reading caddy's answer: %w", err)
		}
		return nil, &refusedError{resp.StatusCode, refused}
	}
	return resp, nil
}

// call makes a request and returns the whole answer.
func (a *adminClient) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	resp, err := a.open(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading caddy's answer: %w", err)
	}
	return doc, nil
}

// pages calls each with one page after the other of a list. path has no query.
func (a *adminClient) pages(ctx context.Context, path string, query url.Values, each func(doc []byte) error) error {
	for {
		target := path
		if len(query) > 0 {
			target += "?" + query.Encode()
		}
		doc, err := a.call(ctx, http.MethodGet, target, nil)
		if err != nil {
			return err
		}
		var page struct {
			Next string `json:"next"`
		}
		if err := decodeAnswer(doc, &page); err != nil {
			return err
		}
		if err := each(doc); err != nil {
			return err
		}
		if page.Next == "" {
			return nil
		}
		if page.Next == query.Get("after") {
			return fmt.Errorf("the server's list does not go on after %q", page.Next)
		}
		query.Set("after", page.Next)
	}
}

// health returns what the hubs say of themselves. Hubs that aren't well say it with an error's status.
func (a *adminClient) health(ctx context.Context) ([]byte, error) {
	doc, err := a.call(ctx, http.MethodGet, "/rooms/health/ready?strict", nil)
	if refused, ok := errors.AsType[*refusedError](err); ok && refused.status == http.StatusServiceUnavailable {
		var health healthAnswer
		if json.Unmarshal(refused.body, &health) == nil && health.Status != "" {
			return refused.body, nil
		}
	}
	return doc, err
}

func decodeAnswer(doc []byte, into any) error {
	if err := json.Unmarshal(doc, into); err != nil {
		return fmt.Errorf("the answer is not that of caddy's admin endpoint with this version of the rooms plugin: %w", err)
	}
	return nil
}

// hubs returns the hubs as the API lists them: with --hub, it is among them.
func (c *console) hubs(ctx context.Context) (doc []byte, hubs []hubAnswer, err error) {
	doc, err = c.api.call(ctx, http.MethodGet, "/rooms/", nil)
	if refused, ok := errors.AsType[*refusedError](err); ok && refused.status == http.StatusNotFound {
		return nil, nil, fmt.Errorf("caddy at %s has no rooms plugin, or one without an admin API", c.api.address)
	}
	if err != nil {
		return nil, nil, err
	}
	var answer struct {
		Hubs []hubAnswer `json:"hubs"`
	}
	if err := decodeAnswer(doc, &answer); err != nil {
		return nil, nil, err
	}
	if len(answer.Hubs) == 0 {
		return nil, nil, fmt.Errorf("caddy at %s has the rooms plugin, but no hub: its configuration has no rooms directive", c.api.address)
	}
	if c.hub != "" && !slices.Contains(hubNames(answer.Hubs), c.hub) {
		return nil, nil, fmt.Errorf("no hub %q: --hub can be %s", c.hub, strings.Join(hubNames(answer.Hubs), ", "))
	}
	return doc, answer.Hubs, nil
}

// hubPath returns the path of something in the hub that is meant.
func (c *console) hubPath(ctx context.Context, segments ...string) (string, error) {
	_, hubs, err := c.hubs(ctx)
	if err != nil {
		return "", err
	}
	name := c.hub
	if name == "" {
		names := hubNames(hubs)
		if len(names) > 1 {
			return "", fmt.Errorf("there are several hubs: name one with --hub, of %s", strings.Join(names, ", "))
		}
		name = names[0]
	}
	var path strings.Builder
	path.WriteString("/rooms")
	for _, s := range append([]string{name}, segments...) {
		path.WriteString("/" + pathSegment(s))
	}
	return path.String(), nil
}

// hubNames returns each name once: while one hub drains, its successor has the same name.
func hubNames(hubs []hubAnswer) []string {
	names := make([]string, len(hubs))
	for i, h := range hubs {
		names[i] = h.Hub
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pathSegment encodes a name, also one that would be taken for a step up.
func pathSegment(name string) string {
	if wire.Dots(name) {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

package module

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// pageLimit is how many elements of a list are in one answer.
var pageLimit = bounds[int]{def: 100, min: 1, max: 1000}

// readQuery returns the parameters of a request. Each may be given once, and no others than those allowed.
func readQuery(r *http.Request, allowed ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("query: %v", err)
	}
	for name, given := range values {
		switch {
		case !slices.Contains(allowed, name):
			return nil, badRequest("unknown parameter %q (allowed: %s)", name, listed(allowed))
		case len(given) > 1:
			return nil, badRequest("parameter %q is given %d times (allowed: once)", name, len(given))
		}
	}
	return values, nil
}

// listed returns names as one text for people.
func listed(names []string) string { return cmp.Or(strings.Join(names, ", "), "none") }

// readPage is readQuery for a list, which has two parameters more.
func readPage(r *http.Request, allowed ...string) (query url.Values, after string, limit int, err error) {
	query, err = readQuery(r, append(allowed, "after", "limit")...)
	if err != nil {
		return nil, "", 0, err
	}
	limit = pageLimit.def
	if query.Has("limit") {
		n, err := strconv.Atoi(query.Get("limit"))
		if err != nil || pageLimit.checkGiven(n) != nil {
			return nil, "", 0, badRequest("bad limit %q (allowed: %s)", query.Get("limit"), pageLimit)
		}
		limit = n
	}
	return query, query.Get("after"), limit, nil
}

// readRoomsPage is readPage for rooms, whose names may be asked to have a prefix.
func readRoomsPage(r *http.Request) (prefix, after string, limit int, err error) {
	query, after, limit, err := readPage(r, "prefix")
	if prefix = query.Get("prefix"); err == nil && prefix != "" {
		err = checkRoomName(prefix)
	}
	return prefix, after, limit, err
}

// readStrict tells whether a question for health is strict.
func readStrict(r *http.Request) (strict bool, err error) {
	query, err := readQuery(r, "strict")
	if v := query.Get("strict"); err == nil && v != "" && v != "true" {
		err = badRequest(`bad strict %.300q (allowed: true, or nothing)`, v)
	}
	return query.Has("strict"), err
}

// nextPage is a cursor as lists have it: null at the end.
func nextPage(cursor string) *string {
	if cursor == "" {
		return nil
	}
	return &cursor
}

// readBody decodes the body of a request, of at most so many bytes, into what it must fit exactly. form is what it looks like, for errors.
func readBody(w http.ResponseWriter, r *http.Request, most int, form string, into any) error {
	b, err := readBytes(w, r, most)
	if err != nil {
		return err
	}
	return decodeBody(b, form, into)
}

// readBytes returns the body of a request that has no parameters, of at most so many bytes.
func readBytes(w http.ResponseWriter, r *http.Request, most int) ([]byte, error) {
	if _, err := readQuery(r); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(most)))
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return nil, statusError(http.StatusRequestEntityTooLarge, "body is too long (allowed: %d bytes)", most)
	}
	if err != nil {
		return nil, badRequest("reading body: %w", err)
	}
	return b, nil
}

// decodeBody is what readBody does with a body that has been read.
func decodeBody(b []byte, form string, into any) error {
	if !utf8.Valid(b) {
		return badRequest("body is not UTF-8")
	}
	if bytes.Equal(bytes.TrimSpace(b), []byte("null")) { // which would decode into anything, and change nothing
		return badRequest("bad body: it can't be a JSON null (allowed: %s)", form)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badRequest("bad body: %s can't be a JSON %s (allowed: %s)", cmp.Or(wrong.Field, "it"), wrong.Value, form)
	}
	if err != nil {
		return badRequest("bad body: %s (allowed: %s)", strings.TrimPrefix(err.Error(), "json: "), form)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("bad body: something follows the JSON object (allowed: %s)", form)
	}
	return nil
}

// checkRoomName tells what is wrong with a room's name.
func checkRoomName(name string) error {
	if name == "" {
		return badRequest("room is missing")
	}
	if err := wire.CheckRoom(name); err != nil {
		return badRequest("bad room %.300q: %s", name, err.Message)
	}
	return nil
}

// checkMessage tells what is wrong with what a message says, and fills in the event.
func checkMessage(event *string, data []byte) error {
	if *event == "" {
		*event = wire.DefaultEvent
	}
	if err := wire.CheckEvent(*event); err != nil {
		return badRequest("event %.300q: %s", *event, err.Message)
	}
	if data == nil {
		return badRequest(`"data" is missing (allowed: any JSON)`)
	}
	return nil
}

// checkWho tells what is wrong with what a user or a connection is called.
func checkWho(field, name string) error {
	if name == "" || len(name) > presence.MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return badRequest("bad %s %.300q (allowed: 1 to %d bytes of UTF-8 without control characters)", field, name, presence.MaxName)
	}
	return nil
}

func checkMethod(w http.ResponseWriter, r *http.Request, allowed []string) error {
	if slices.Contains(allowed, r.Method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return statusError(http.StatusMethodNotAllowed, "method %s is not allowed here (allowed: %s)", r.Method, strings.Join(allowed, ", "))
}

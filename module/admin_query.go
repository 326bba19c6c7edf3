package module

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
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
		case !slices.Contains(allowed, name) && len(allowed) == 0:
			return nil, badRequest("unknown parameter %q (allowed: none)", name)
		case !slices.Contains(allowed, name):
			return nil, badRequest("unknown parameter %q (allowed: %s)", name, strings.Join(allowed, ", "))
		case len(given) > 1:
			return nil, badRequest("parameter %q is given %d times (allowed: once)", name, len(given))
		}
	}
	return values, nil
}

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

// nextPage is a cursor as lists have it: null at the end.
func nextPage(cursor string) *string {
	if cursor == "" {
		return nil
	}
	return &cursor
}

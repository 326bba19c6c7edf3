package module

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// apiRoute is something that the API does. path is as in the OpenAPI document; what stands in braces is a name, which serve finds among the path
// values of the request.
type apiRoute struct {
	method, path string
	serve        func(w http.ResponseWriter, r *http.Request, h *sharedHub) error
	always       bool // also while the hub drains
}

// apiRoutes are all routes. A GET is a HEAD too.
var apiRoutes = []apiRoute{
	{http.MethodPost, "/rooms/{room}/messages", publishToRoom, false},
	{http.MethodPost, "/users/{user}/messages", publishToUser, false},
	{http.MethodPost, "/messages", publishBatch, false},
	{http.MethodGet, "/rooms", listRooms, false},
	{http.MethodGet, "/rooms/{room}", getRoom, false},
	{http.MethodGet, "/rooms/{room}/members", listMembers, false},
	{http.MethodPost, "/rooms/{room}/kick", kickOut, false},
	{http.MethodPut, "/rooms/{room}/limits", putRoomLimits, false},
	{http.MethodDelete, "/rooms/{room}/limits", deleteRoomLimits, false},
	{http.MethodGet, "/users/{user}", getUser, false},
	{http.MethodPost, "/users/{user}/disconnect", disconnectUser, false},
	{http.MethodDelete, "/users/{user}/ban", liftBan, false},
	{http.MethodPost, "/users/{user}/join", joinRoom, false},
	{http.MethodPost, "/users/{user}/leave", leaveRoom, false},
	{http.MethodDelete, "/limits/{limit}/{key}", resetLimit, false},
	{http.MethodGet, "/stats", getStats, false},
	{http.MethodGet, "/health", getHealth, true},
	{http.MethodGet, "/openapi.json", getDocument, true},
}

// match tells whether a path with these segments is one of the route's.
func (t *apiRoute) match(segments []string) bool {
	i := 0
	for p := range strings.SplitSeq(t.path[1:], "/") {
		if i == len(segments) || p[0] != '{' && p != segments[i] {
			return false
		}
		i++
	}
	return i == len(segments)
}

// name makes the names in a path that matches path values of the request.
func (t *apiRoute) name(r *http.Request, segments []string) {
	i := 0
	for p := range strings.SplitSeq(t.path[1:], "/") {
		if p[0] == '{' {
			r.SetPathValue(p[1:len(p)-1], segments[i])
		}
		i++
	}
}

// route returns the route of a request, whose names become its path values. The path is split before it is decoded: a name may have slashes in it.
func (a *API) route(w http.ResponseWriter, r *http.Request) (*apiRoute, error) {
	path, under := strings.CutPrefix(r.URL.EscapedPath(), a.PathPrefix+"/")
	segments := strings.Split(path, "/")
	for i := range segments {
		var err error
		if segments[i], err = url.PathUnescape(segments[i]); err != nil {
			under = false // EscapedPath has none such
		}
	}
	var allowed []string
	for i := range apiRoutes {
		t := &apiRoutes[i]
		if !under || !t.match(segments) {
			continue
		}
		methods := []string{t.method}
		if t.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		if !slices.Contains(methods, r.Method) {
			allowed = append(allowed, methods...)
			continue
		}
		t.name(r, segments)
		return t, nil
	}
	if len(allowed) > 0 {
		return nil, checkMethod(w, r, allowed)
	}
	return nil, statusError(http.StatusNotFound, "nothing is at %.300q (the API begins at %s/, and is described at %[2]s/openapi.json; a slash in a name is %%2F)",
		r.URL.EscapedPath(), a.PathPrefix)
}

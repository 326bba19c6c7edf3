package module

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
)

func init() {
	caddy.RegisterModule(adminRooms{})
}

// adminPrefix is what the paths begin with.
const adminPrefix = "/rooms/"

// adminRooms is the part of Caddy's admin endpoint that shows and steers the hubs of this process. It keeps nothing: it is made
// before a configuration is loaded, and outlives none.
type adminRooms struct{}

// CaddyModule returns the Caddy module information.
func (adminRooms) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.rooms",
		New: func() caddy.Module { return new(adminRooms) },
	}
}

// Provision implements caddy.Provisioner. Requests may come before anything else of the configuration is provisioned.
func (adminRooms) Provision(ctx caddy.Context) error { return showInForce(ctx) }

// Routes implements caddy.AdminRouter.
func (adminRooms) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPrefix, Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

// adminRoute is something in a hub. serve gets the hub, which has started, and what the path names, if it names something.
type adminRoute struct {
	methods []string
	serve   func(w http.ResponseWriter, r *http.Request, h *sharedHub, name string) error
}

var (
	adminReads = []string{http.MethodGet, http.MethodHead}
	adminActs  = []string{http.MethodPost}
)

// adminRoutes are by what follows the hub in the path; a slash at the end stands for a name.
var adminRoutes = map[string]adminRoute{
	"rooms":       {adminReads, showRooms},
	"rooms/":      {adminReads, showMembers},
	"users/":      {adminReads, showUser},
	"connections": {adminReads, showConnections},
	"disconnect":  {adminActs, disconnect},
	"kick":        {adminActs, kick},
	"publish":     {adminActs, publishMessage},
	"tail/":       {[]string{http.MethodGet}, tailRoom},
}

// serveAdmin answers every request under the prefix.
func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	// Not the decoded path: a name may have slashes in it.
	path := strings.TrimPrefix(r.URL.EscapedPath(), adminPrefix)
	switch path {
	case "":
		return serveRoot(w, r, showHubs)
	case "health/live":
		return serveRoot(w, r, showLive)
	case "health/ready":
		return serveRoot(w, r, showReady)
	}
	hubName, section, _ := strings.Cut(path, "/")
	section, name, named := strings.Cut(section, "/")
	if named {
		section += "/"
	}
	route, known := adminRoutes[section]
	if !known {
		return statusError(http.StatusNotFound, "nothing is at %s (behind %s{hub}/ there are: %s)", r.URL.Path, adminPrefix,
			strings.Join(slices.Sorted(maps.Keys(adminRoutes)), ", "))
	}
	if err := checkMethod(w, r, route.methods); err != nil {
		return err
	}
	hubName, err := url.PathUnescape(hubName)
	if err != nil {
		return badRequest("hub: %v", err)
	}
	if name, err = url.PathUnescape(name); err != nil {
		return badRequest("%s: %v", section, err)
	}
	h, err := findHub(hubName)
	if err != nil {
		return err
	}
	return withStatus(route.serve(w, r, h, name))
}

// serveRoot serves what is in no hub.
func serveRoot(w http.ResponseWriter, r *http.Request, show func(http.ResponseWriter, *http.Request) error) error {
	if err := checkMethod(w, r, adminReads); err != nil {
		return err
	}
	return show(w, r)
}

// findHub returns the hub of that name that clients come to.
func findHub(name string) (*sharedHub, error) {
	all := presentHubs()
	at := slices.IndexFunc(all, func(h *sharedHub) bool { return h.key.name == name })
	if at < 0 {
		var names []string
		for _, h := range all {
			names = append(names, h.key.name)
		}
		return nil, statusError(http.StatusNotFound, "no hub %q (there are: %s)", name, listed(slices.Compact(names)))
	}
	if all[at].State() == hub.StateStarting {
		return nil, statusError(http.StatusServiceUnavailable, "hub %q has not started yet", name)
	}
	return all[at], nil
}

// Interface guards
var (
	_ caddy.Module      = (*adminRooms)(nil)
	_ caddy.Provisioner = (*adminRooms)(nil)
	_ caddy.AdminRouter = (*adminRooms)(nil)
)

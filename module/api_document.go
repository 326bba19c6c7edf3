package module

import (
	"bytes"
	_ "embed"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// apiDocument is the OpenAPI document.
//
//go:embed openapi.json
var apiDocument []byte

// getDocument answers with the document, in which stands where the API is: tools differ in what they make of a relative URL.
func getDocument(w http.ResponseWriter, r *http.Request, _ *sharedHub) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	path := r.URL.EscapedPath()
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		path = original.URL.EscapedPath() // before handle_path has taken something off
	}
	server := strings.TrimSuffix(path, "/openapi.json")
	if server == "" {
		server = "/"
	}
	url, err := encodeJSON(server)
	if err != nil {
		return err
	}
	document := bytes.Replace(apiDocument, []byte(`"url": "/"`), append([]byte(`"url": `), bytes.TrimSpace(url)...), 1)
	writeAnswer(w, http.StatusOK, "application/json", document)
	return nil
}

package module

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// contract holds requests and answers of the API to its OpenAPI document.
type contract struct {
	validator.Validator
	base string // what its paths come behind
}

// newContract reads the document of an API as any client would get it.
func newContract(t *testing.T, base string, document []byte) *contract {
	t.Helper()
	parsed, err := libopenapi.NewDocument(document)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(parsed, config.WithStrictMode(), config.WithFormatAssertions(),
		config.WithStrictIgnorePaths("$.body.data", "$.body.data.**", "$.body.messages[*].data.**", "$.body.members[*].state.**"),
		config.WithStrictIgnoredHeadersExtra("Server", "Allow", "Sec-Fetch-Site"))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, e := range errs {
			t.Errorf("%v", e)
		}
		t.Fatal("the document is not OpenAPI")
	}
	return &contract{v, base}
}

// check holds an answer, and the request unless it is to be bad, to the document. body is that of the request.
func (c *contract) check(t *testing.T, req *http.Request, body []byte, resp *http.Response, answer []byte, badRequest bool) {
	t.Helper()
	again := req.Clone(t.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	if req.Method == http.MethodHead {
		return // an answer without its body
	}
	if _, err := (&API{PathPrefix: c.base}).route(httptest.NewRecorder(), again); err != nil || strings.Contains(req.URL.Path, "//") {
		// The document has no place for it. The answer is a problem as any other.
		there := *again.URL
		there.Path, there.RawPath, there.RawQuery = c.base+"/stats", "", ""
		again.Method, again.URL = http.MethodGet, &there
		copied := *resp
		copied.StatusCode = http.StatusInternalServerError
		resp, badRequest = &copied, true
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	validate := c.ValidateHttpRequestResponse
	if badRequest {
		validate = c.ValidateHttpResponse
	}
	if ok, errs := validate(again, resp); !ok {
		for _, e := range errs {
			t.Errorf("%s %s %.200s: %d %.300s: %s: %s %v", req.Method, req.URL, body, resp.StatusCode, answer, e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
}

// TestRoutesAreDocumented holds the table of routes to the document, in both directions.
func TestRoutesAreDocumented(t *testing.T) {
	var document struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(apiDocument, &document); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, operations := range document.Paths {
		for method := range operations {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	for _, r := range apiRoutes {
		served = append(served, r.method+" "+r.path)
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented are %q, served %q", documented, served)
	}
}

// TestCodesAreExplained holds the codes of problems to what their types lead to.
func TestCodesAreExplained(t *testing.T) {
	page, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Components struct {
			Schemas struct {
				Code struct{ Enum []string }
			}
		}
	}
	if err := json.Unmarshal(apiDocument, &document); err != nil {
		t.Fatal(err)
	}
	var explained []string
	for line := range strings.Lines(string(page)) {
		if code, ok := strings.CutPrefix(line, "### "); ok && !strings.Contains(code, " ") {
			explained = append(explained, strings.TrimSpace(code))
		}
	}
	if documented := document.Components.Schemas.Code.Enum; !slices.Equal(explained, documented) {
		t.Errorf("explained are %q, documented %q", explained, documented)
	}
	for status, code := range map[int]wire.Code{
		400: wire.BadRequest, 401: wire.Unauthorized, 403: wire.Forbidden, 404: codeNotFound, 405: wire.BadRequest, 409: wire.BadRequest, 413: wire.TooLarge,
		415: wire.BadRequest, 422: wire.BadRequest, 503: wire.Unavailable,
	} {
		if p := newProblem(statusError(status, "x")); p.Code != code || p.Status != status || (p.RetryAfter > 0) != (status == 409 || status == 503) {
			t.Errorf("%d is %v", status, p)
		}
	}
	if p := newProblem(errors.New("dial tcp 10.0.0.7: refused")); p.Status != 500 || p.Code != wire.Internal || strings.Contains(p.Detail, "dial") {
		t.Errorf("an error from within is %v", p)
	}
}

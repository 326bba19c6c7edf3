// Package browsertest drives pages in a real browser, as the people do who use the examples.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// patience bounds each wait for a page. It is longer than the default grace of presence (15 s), and its default ttl (20 s).
const patience = 40 * time.Second

// Start runs a browser without a window until the test ends, and returns the context to open pages in. Without a browser the test is
// skipped, with what to do about it; in CI (the environment variable CI is set) it fails.
func Start(t testing.TB) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		const missing = "no browser in PATH: install chromium or google-chrome"
		if os.Getenv("CI") != "" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.Flag("disable-component-update", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	browser, closeBrowser := chromedp.NewContext(allocator)
	t.Cleanup(closeBrowser)
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	return browser
}

// Page is one tab with a browser context, and so a session, of its own. It belongs to one test.
type Page struct {
	name string
	ctx  context.Context
}

// Open opens a URL in a new tab. The name is of whoever sits in front of it, for what the test says.
func Open(t testing.TB, browser context.Context, url, name string) *Page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &Page{name: name, ctx: ctx}
	// The first Do binds the tab to its context, so that one must not carry the deadline.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("opening a tab for %s: %v", name, err)
	}
	p.Do(t, "opening "+url, chromedp.Navigate(url))
	return p
}

// Do runs actions one after the other.
func (p *Page) Do(t testing.TB, what string, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.fatal(t, what, err)
	}
}

// Run runs JavaScript.
func (p *Page) Run(t testing.TB, script string) {
	t.Helper()
	p.Do(t, "running "+script, chromedp.Evaluate[chromedp.Void](script))
}

// Reads returns the value of a JavaScript expression, an array of strings.
func (p *Page) Reads(t testing.TB, script string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	texts, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](script))
	if err != nil {
		p.fatal(t, "reading "+script, err)
	}
	return texts
}

// Sees waits until a condition, a JavaScript expression, is true.
func (p *Page) Sees(t testing.TB, condition string) {
	t.Helper()
	p.Do(t, "waiting for "+condition,
		chromedp.Poll[chromedp.Void](condition, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(0)))
}

// Close closes the tab.
func (p *Page) Close(t testing.TB) {
	t.Helper()
	if err := chromedp.Cancel(p.ctx); err != nil {
		t.Fatalf("closing the tab of %s: %v", p.name, err)
	}
}

func (p *Page) fatal(t testing.TB, what string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	body, unreadable := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if unreadable != nil {
		body = unreadable.Error()
	}
	t.Fatalf("%s: %s: %v\nthe page:\n%s", p.name, what, err, body)
}

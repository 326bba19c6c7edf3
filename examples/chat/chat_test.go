// Package chat_test drives the chat example as two people would: in a browser, against a Caddy that runs the example's
// own Caddyfile in a process of its own.
package chat_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/caddyrooms/caddy-rooms/internal/browsertest"
	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

func TestChat(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a Caddy and starts a browser")
	}
	browser := browsertest.Start(t)
	server := caddytest.Start(t, "examples/chat/Caddyfile")

	ann := openPage(t, browser, "http://"+server.Addr, "Ann")
	bob := openPage(t, browser, "http://"+server.Addr, "Bob")

	// Both hear of each other.
	ann.Sees(t, event("Bob joined."))
	ann.Sees(t, member("Bob", "online"))
	bob.Sees(t, member("Ann", "online"))

	// Both hear each other, markup stays text, and the sender learns that it was delivered.
	ann.say(t, "hello <b>Bob</b>")
	bob.Sees(t, message("Ann", "hello <b>Bob</b>"))
	ann.Sees(t, delivered("hello <b>Bob</b>"))
	bob.say(t, "hello Ann")
	ann.Sees(t, message("Bob", "hello Ann"))

	// A status reaches the other side.
	bob.Run(t, `{ const select = document.querySelector("#status-select"); select.value = "busy"; select.dispatchEvent(new Event("change")); }`)
	ann.Sees(t, member("Bob", "busy"))
	ann.Sees(t, event("Bob is busy."))

	// Another room is out of sight and out of hearing.
	bob.Run(t, `location.hash = "#elsewhere"`)
	ann.Sees(t, event("Bob left."))
	ann.Sees(t, alone)
	ann.Sees(t, gone("Bob, just now"))
	bob.Sees(t, `document.querySelector("#room").textContent === "elsewhere" && `+alone)
	bob.say(t, "nobody hears this")
	bob.Sees(t, delivered("nobody hears this"))
	bob.Run(t, `location.hash = "#lobby"`)
	ann.Sees(t, count(`#messages [data-kind="event"]`, "Bob joined.", 2))
	bob.Sees(t, member("Ann", "online"))
	ann.Sees(t, gone())

	flood(t, ann, bob)

	for _, restart := range []struct {
		name string
		stop func()
		told string
	}{
		{"drain", server.Stop, "The server restarts."},
		{"crash", server.Kill, "Connection lost."},
	} {
		for _, p := range []*page{ann, bob} {
			p.watch(t, fmt.Sprintf(`document.querySelector("#state-text").textContent.startsWith(%q)`, restart.told))
		}
		restart.stop()
		for _, p := range []*page{ann, bob} {
			p.saw(t)
			p.Sees(t, `["waiting", "connecting"].includes(document.querySelector("#state").dataset.state) && !document.querySelector("#state").hidden`)
			p.Sees(t, `document.querySelector("#send").disabled`)
		}
		server.Run()
		for _, p := range []*page{ann, bob} {
			p.Sees(t, ready)
		}
		ann.Sees(t, member("Bob", "busy"))
		bob.Sees(t, member("Ann", "online"))
		ann.Sees(t, `document.querySelector("#count").textContent === "2"`)
		ann.say(t, "back after "+restart.name)
		bob.Sees(t, message("Ann", "back after "+restart.name))
		bob.say(t, "so am I after "+restart.name)
		ann.Sees(t, message("Bob", "so am I after "+restart.name))
	}

	// A closed tab leaves without a word of its own.
	left := count(`#messages [data-kind="event"]`, "Bob left.", 2)
	bob.Close(t)
	ann.Sees(t, left)
	ann.Sees(t, alone)
	ann.Sees(t, count("#messages .text", "nobody hears this", 0))

	// Who comes later is told who was here, for as long as an hour.
	cid := openPage(t, browser, "http://"+server.Addr, "Cid")
	for _, p := range []*page{ann, cid} {
		p.Sees(t, gone("Bob, just now"))
		for _, later := range []struct {
			minutes int
			want    string
		}{{1, gone("Bob, 1 minute ago")}, {59, gone("Bob, 59 minutes ago")}, {60, gone()}} {
			p.Run(t, fmt.Sprintf(`{
				const left = Date.parse(document.querySelector("#gone time").dateTime);
				Date.now = () => left + %d * 60000;
			}`, later.minutes))
			p.Sees(t, later.want)
		}
	}
}

// TestCrowdedChat enters a room of more people than are told by name: the page counts them, and names them again when some have left.
func TestCrowdedChat(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a Caddy and starts a browser")
	}
	browser := browsertest.Start(t)
	text, err := os.ReadFile("Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	server := caddytest.StartText(t, strings.Replace(string(text), "anonymous", "anonymous\n\t\tpresence {\n\t\t\tfull_up_to 2\n\t\t}", 1))

	ann := openPage(t, browser, "http://"+server.Addr, "Ann")
	bob := openPage(t, browser, "http://"+server.Addr, "Bob")
	ann.Sees(t, member("Bob", "online"))
	cid := openPage(t, browser, "http://"+server.Addr, "Cid")
	for _, p := range []*page{ann, bob, cid} {
		p.Sees(t, `document.querySelector("#count").textContent === "3" && document.querySelectorAll("#members li").length === 0 && !document.querySelector("#crowd").hidden`)
	}

	// Who speaks is named all the same.
	cid.say(t, "a full house")
	ann.Sees(t, message("Cid", "a full house"))

	bob.Close(t)
	cid.Close(t)
	ann.Sees(t, `document.querySelector("#count").textContent === "1" && document.querySelector("#crowd").hidden && `+alone)
	dan := openPage(t, browser, "http://"+server.Addr, "Dan")
	ann.Sees(t, event("Dan joined."))
	dan.Sees(t, member("Ann", "online"))
}

// flood sends faster than the example's limit allows: ann is told and held back, and may go on when the time is over.
func flood(t *testing.T, ann, bob *page) {
	t.Helper()
	ann.watch(t, `!document.querySelector("#notice").hidden && document.querySelector("#notice").dataset.code === "rate_limited" &&
		document.querySelector("#notice").textContent.includes("No more than 5 messages in 3 s") && document.querySelector("#send").disabled`)
	ann.Run(t, `for (let i = 1; i <= 8; i++) {
		document.querySelector("#text").value = "flood " + i;
		document.querySelector("#compose").requestSubmit();
	}`)
	ann.saw(t)
	ann.Sees(t, `document.querySelector('#messages [data-delivery="failed"]')`)

	ann.Sees(t, ready+` && document.querySelector("#notice").hidden`)
	ann.say(t, "after the flood")
	bob.Sees(t, message("Ann", "after the flood"))
	ann.Sees(t, delivered("after the flood"))

	const texts = `[...document.querySelectorAll('#messages %s .text')].map((e) => e.textContent).filter((text) => text.startsWith("flood "))`
	sent := ann.Reads(t, fmt.Sprintf(texts, `[data-delivery="sent"]`))
	refused := ann.Reads(t, fmt.Sprintf(texts, `[data-delivery="failed"]`))
	heard := bob.Reads(t, fmt.Sprintf(texts, ""))
	if len(sent)+len(refused) != 8 || len(refused) < 3 {
		t.Errorf("of 8 messages at once %q were sent and %q refused, want at most 5 sent", sent, refused)
	}
	if !slices.Equal(sent, heard) {
		t.Errorf("Ann is told that %q were sent, but Bob heard %q", sent, heard)
	}

	// What was refused can be sent again, as often as it takes.
	again := refused[0]
	ann.Sees(t, fmt.Sprintf(`(() => {
		const item = [...document.querySelectorAll("#messages li")].find((e) => e.querySelector(".text")?.textContent === %q);
		if (item.dataset.delivery === "failed" && %s) item.querySelector("button").click();
		return item.dataset.delivery === "sent";
	})()`, again, ready))
	bob.Sees(t, message("Ann", again))
}

// Conditions of the page, in JavaScript.
const (
	ready = `(document.querySelector("#state").dataset.state === "open" && !document.querySelector("#send").disabled)`
	alone = `document.querySelectorAll("#members li").length === 1`
)

func count(selector, text string, n int) string {
	return fmt.Sprintf(`[...document.querySelectorAll(%q)].filter((e) => e.textContent === %q).length === %d`, selector, text, n)
}

func event(text string) string { return count(`#messages [data-kind="event"]`, text, 1) }

// gone is that exactly these are shown as having left.
func gone(texts ...string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#gone li")].map((e) => e.textContent).join("|") === %q && document.querySelector("#left").hidden === %t`,
		strings.Join(texts, "|"), len(texts) == 0)
}

func delivered(text string) string {
	return count(`#messages [data-mine="true"][data-delivery="sent"] .text`, text, 1)
}

func member(name, status string) string {
	return fmt.Sprintf(`document.querySelectorAll('#members [data-name=%q][data-status=%q]').length === 1`, name, status)
}

func message(from, text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('#messages [data-kind="message"][data-mine="false"]')].filter((e) =>
		e.querySelector(".who b").textContent === %q && e.querySelector(".text").textContent === %q).length === 1`, from, text)
}

// page is one tab in which somebody has entered.
type page struct {
	*browsertest.Page
	watched string // the condition of the latest watch
}

func openPage(t *testing.T, browser context.Context, url, name string) *page {
	t.Helper()
	p := &page{Page: browsertest.Open(t, browser, url, name)}
	p.Do(t, "entering",
		chromedp.SendKeys(chromedp.CSS("#name-input"), name),
		chromedp.Click(chromedp.CSS("#enter-button")))
	p.Sees(t, ready)
	return p
}

// watch begins to watch for a condition that will not last. saw waits until it was true once.
func (p *page) watch(t *testing.T, condition string) {
	t.Helper()
	p.watched = condition
	p.Run(t, fmt.Sprintf(`window.watched = false;
		new MutationObserver((_, observer) => {
			if (!(%s)) return;
			window.watched = true;
			observer.disconnect();
		}).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });`, condition))
}

func (p *page) saw(t *testing.T) {
	t.Helper()
	p.Sees(t, "window.watched /* "+p.watched+" */")
}

// say types text and sends it, when that is possible.
func (p *page) say(t *testing.T, text string) {
	t.Helper()
	p.Sees(t, ready)
	p.Do(t, "saying "+text, chromedp.SendKeys(chromedp.CSS("#text"), text+"\r"))
}

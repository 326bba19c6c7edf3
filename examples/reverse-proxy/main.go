// Command reverse-proxy is an application that knows nothing of WebSockets: it has pages and users, and answers
// Caddy's forward_auth. Caddy does the rest.
package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"log"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// key signs the cookies; a restart signs everybody out.
var key = []byte(rand.Text())

var validUser = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

func main() {
	http.HandleFunc("GET /login", loginPage)
	http.HandleFunc("POST /login", login)
	http.HandleFunc("GET /auth", auth)
	http.HandleFunc("GET /{$}", page)
	server := &http.Server{
		// Out of reach of everybody but Caddy on this machine: page believes the header X-User.
		Addr:              "127.0.0.1:9000",
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

func sign(user string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(user))
	return hex.EncodeToString(mac.Sum(nil))
}

func loginPage(w http.ResponseWriter, r *http.Request) {
	render(w, loginTemplate, "")
}

// login takes everybody's word for their name. A real application asks for a password.
func login(w http.ResponseWriter, r *http.Request) {
	user := r.PostFormValue("user")
	if !validUser.MatchString(user) {
		http.Error(w, "a name is 1 to 20 lower case letters and digits", http.StatusBadRequest)
		return
	}
	//nolint:gosec // not Secure: the example is served over plain http
	http.SetCookie(w, &http.Cookie{Name: "session", Value: user + "." + sign(user), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// auth is what forward_auth asks before each request: whose is it?
func auth(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie("session")
	if err == nil {
		user, mac, _ := strings.Cut(cookie.Value, ".")
		if hmac.Equal([]byte(mac), []byte(sign(user))) {
			w.Header().Set("X-User", user)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func page(w http.ResponseWriter, r *http.Request) {
	render(w, pageTemplate, r.Header.Get("X-User"))
}

func render(w http.ResponseWriter, t *template.Template, user string) {
	if err := t.Execute(w, user); err != nil {
		log.Print(err)
	}
}

var loginTemplate = template.Must(template.New("login").Parse(`<!doctype html>
<meta charset="utf-8"><title>Sign in</title>
<form method="post"><label>Your name <input name="user" pattern="[a-z0-9]{1,20}" required autofocus></label> <button>Sign in</button></form>
`))

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<meta charset="utf-8"><title>Report</title>
<h1>Quarterly report</h1>
<p>You are {{.}}. Also reading this page: <b id="readers">…</b> <button id="wave">Wave</button></p>
<ul id="log"></ul>
<script>
const room = "report", readers = new Set();
function connect() {
	const ws = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws", "rooms.v1");
	ws.onopen = () => ws.send(JSON.stringify({ type: "join", room }));
	ws.onclose = ({ code }) => (code < 4000 || code >= 4100) && setTimeout(connect, 1000 + 4000 * Math.random());
	ws.onmessage = ({ data }) => {
		const frame = JSON.parse(data);
		if (frame.type === "ack" && frame.presence) {
			readers.clear();
			for (const { user } of frame.presence.members) readers.add(user);
		} else if (frame.type === "presence") {
			for (const { op, user } of frame.events ?? []) op === "leave" ? readers.delete(user) : readers.add(user);
		} else if (frame.type === "message") {
			document.querySelector("#log").append(Object.assign(document.createElement("li"), { textContent: (frame.from?.user ?? "The server") + " waves" }));
		}
		document.querySelector("#readers").textContent = [...readers].filter((user) => user !== {{.}}).join(", ") || "nobody";
	};
	document.querySelector("#wave").onclick = () => ws.send(JSON.stringify({ type: "publish", room, event: "wave" }));
}
connect();
</script>
`))

"""The application: it signs people in, mints tokens for their WebSockets, keeps what they say, and tells Caddy over the HTTP API of rooms."""
import base64, contextlib, hmac, http.client, http.server, json, os, pathlib, re, secrets, time, urllib.parse

API_ADDRESSES = os.environ["API_ADDRESSES"].split()  # of all instances: each speaks for all
API_SECRET, TOKEN_SECRET = os.environ["API_SECRET"], os.environ["TOKEN_SECRET"]  # Caddy has both too
SESSION_SECRET = os.environ.get("SESSION_SECRET") or secrets.token_hex()  # Caddy has not; a random one ends with this program
TOKEN_SECONDS = int(os.environ.get("TOKEN_SECONDS", 300))
PAGE = pathlib.Path(__file__).with_name("index.html").read_bytes()
kept = {}  # (user, id) -> message, the oldest first; a real application has a database

class Problem(Exception):
    """Is answered in place of what was asked for: a status, and why in words."""

def api(method, path, body=None, **headers):
    """Asks one instance after the other until one answers."""
    headers.update({"Authorization": "Bearer " + API_SECRET, "Content-Type": "application/json"})
    for address in API_ADDRESSES:
        try:
            with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
                connection.request(method, path, json.dumps(body) if body else None, headers)
                response = connection.getresponse()
                status, answer = response.status, json.load(response)
        except (OSError, http.client.HTTPException, ValueError) as broken:
            status, answer = 503, {"detail": f"no answer from the rooms: {broken}"}
        if status == 200:
            return answer
        if status != 503:
            break
    raise Problem(502 if status in (401, 403) else status, answer["detail"])  # these two are about this program, not its user

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

def signature(secret, text):
    return b64(hmac.digest(secret.encode(), text.encode(), "sha256"))

def user_of(cookies):  # or None
    found = re.search(r"\bbackend_session=(([a-z0-9]+)\.(\d+))\.([\w-]+)", cookies, re.ASCII)
    if found and hmac.compare_digest(found[4], signature(SESSION_SECRET, found[1])) and int(found[3]) > time.time():
        return found[2]

def sign_in(_, asked):
    """Takes everybody's word for their name. A real application asks for a password."""
    if not re.fullmatch("[a-z0-9]{1,20}", str(asked.get("name"))):
        raise Problem(400, "A name is 1 to 20 lower case letters and digits.")
    session = f"{asked['name']}.{int(time.time()) + 8 * 3600}"
    return {"session": session + "." + signature(SESSION_SECRET, session)}

def sign_out(user, _):
    api("POST", f"/users/{user}/disconnect")  # all of the user's connections, on whichever instance
    return {"session": ""}

def token(user, _):
    """Mints a JSON Web Token. In the lobby its user may listen and see who is there, no more: what there is to say comes to say."""
    claims = {"sub": user, "exp": int(time.time()) + TOKEN_SECONDS, "rooms": {"lobby": ["join", "presence"]}}
    text = b64(b'{"alg":"HS256","typ":"JWT"}') + "." + b64(json.dumps(claims).encode())
    return {"user": user, "token": text + "." + signature(TOKEN_SECRET, text), "expires_in": TOKEN_SECONDS}

def say(user, asked):
    """Keeps a message and tells the room, but not the connection whose page shows it already. The same id again is the same message."""
    text, id, conn = (str(asked.get(name, "")) for name in ("text", "id", "conn"))
    if not 0 < len(text) <= 2000 or not re.fullmatch(r"[\w-]{8,64}", id, re.ASCII):
        raise Problem(400, "A message has a text of 1 to 2000 characters and an id.")
    message = kept.setdefault((user, id), {"id": id, "user": user, "text": text, "ts": int(time.time() * 1000)})
    key = {"Idempotency-Key": f"{user}-{id}"}  # said once, also if an instance does it, dies without an answer, and the next one is asked
    return {**api("POST", "/rooms/lobby/messages", {"event": "chat", "data": message} | ({"exclude_conn": conn} if conn else {}), **key), "ts": message["ts"]}

def online(*_):
    """Returns who is in the lobby, and for each of them on which instances and in which rooms."""
    lobby = api("GET", "/rooms/lobby/members?limit=20")
    return {"count": lobby["count"], "people": [api("GET", "/users/" + urllib.parse.quote(m["user"], "")) for m in lobby["members"]]}

ROUTES = {"POST /sign-in": sign_in, "POST /sign-out": sign_out, "GET /token": token, "POST /say": say, "GET /online": online,
          "GET /messages": lambda *_: {"messages": list(kept.values())[-100:]}}

class Handler(http.server.BaseHTTPRequestHandler):
    def result(self):
        route, user = ROUTES.get(f"{self.command} {self.path}"), user_of(self.headers.get("Cookie", ""))
        if not route or not user and route is not sign_in:
            raise Problem(401, "Sign in first.") if route else Problem(404, "Nothing is here.")
        if self.command == "POST" and self.headers.get_content_type() != "application/json":  # which no other site's page may send
            raise Problem(415, "Send JSON.")
        return route(user, dict(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")))

    def do_GET(self):
        try:
            status, result = 200, {} if self.path == "/" else self.result()
        except (Problem, ValueError, TypeError) as problem:  # the last two: what was sent is no JSON object
            status, why = problem.args if isinstance(problem, Problem) else (400, "Send a JSON object.")
            result = {"detail": why}
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/" else "application/json")
        if "session" in result:
            self.send_header("Set-Cookie", f"backend_session={result.pop('session')}; Path=/; HttpOnly; SameSite=Strict")
        self.end_headers()
        self.wfile.write(PAGE if self.path == "/" else json.dumps(result).encode())
    do_POST = do_GET

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), Handler).serve_forever()

"""P4: nobody takes over an approver's session in the inbox: not by another port of `localhost`, which their browser
visits, nor by the inbox's own port while the inbox is closed."""

import http.server
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.live.running_guard import cli, scripted, write_config
from tests.proof_size import in_full
from tests.web.inbox_client import InboxClient
from tests.web.inbox_process import add_passkeys, browser, enrol, free_port, inbox

STEAL = """async (inbox) => {
  const attempt = async (work) => { try { return String(await work()); } catch (error) { return `${error.name}`; } };
  const isThere = (target) => { try { return target.location.href !== "about:blank"; } catch { return true; } };
  const arrive = async (target) => {
    for (let turn = 0; turn < 200 && !isThere(target); turn += 1) await new Promise((go) => setTimeout(go, 50));
  };
  const opened = window.open(inbox, "inbox");
  await arrive(opened);
  const frame = document.createElement("iframe"); frame.src = inbox; document.body.append(frame);
  await arrive(frame.contentWindow);
  return {
    cookie: document.cookie,
    storage: JSON.stringify({ ...localStorage, ...sessionStorage }),
    fetched: await attempt(async () => (await fetch(inbox, { credentials: "include" })).text()),
    opened: await attempt(() => opened.localStorage.length + opened.document.body.innerText),
    framed: await attempt(() => frame.contentWindow.localStorage.length + frame.contentDocument.body.innerText),
  };
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, scripted("up", tmp_path), more=f"[inbox]\nport = {free_port()}\n")


def code(config: Path, *options: str) -> str:
    return str(
        json.loads(cli("approvers", "code", "alice", "--json", "--config", str(config), *options).stdout)["code"]
    )


def sign_in(page: Page, url: str, config: Path) -> str:
    """Sign alice in; returns the token that her page keeps."""
    page.goto(f"{url}/sign-in")
    page.fill("input[name=code]", code(config))
    page.press("input[name=code]", "Enter")
    page.wait_for_url(f"{url}/")
    expect(page.get_by_text("Alice")).to_be_visible()
    [token] = page.evaluate("Object.values(localStorage)")
    return str(token)


@contextmanager
def web_server(
    port: int, answer: Callable[[str], tuple[str, bytes]], *, max_age: int = 0
) -> Iterator[list[dict[str, str]]]:
    """A server of the agent's: `answer` gives content type and body for a path. Yields the headers that it gets."""
    received: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(dict(self.headers))
            kind, body = answer(self.path)
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("cache-control", f"max-age={max_age}, immutable")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_page_on_another_port_gets_nothing_of_the_session(config: Path, chromium: Browser) -> None:
    """Neither what the browser sends to it, nor what its script can read, opens the inbox."""
    context = chromium.new_context()
    with inbox(config) as url, web_server(port := free_port(), lambda _: ("text/html", b"<p>your app")) as received:
        page = context.new_page()
        token = sign_in(page, url, config)
        other = context.new_page()
        for host in ("localhost", "app.localhost", "127.0.0.1"):
            other.goto(f"http://{host}:{port}/")
            stolen = other.evaluate(STEAL, url)
            assert (stolen["cookie"], stolen["storage"]) == ("", "{}")
            assert {stolen["fetched"], stolen["opened"], stolen["framed"]} <= {"TypeError", "SecurityError"}
        assert len(received) >= 3
        assert token not in json.dumps(received)
        for headers in received:
            replayed = {
                name.lower(): value for name, value in headers.items() if name.lower() not in ("host", "connection")
            }
            status, _ = InboxClient(url, replayed | {"origin": url}).get("/?part=list")
            assert status == 401
        page.reload()
        expect(page.get_by_text("Alice")).to_be_visible()  # the session lives, and is hers alone
        assert InboxClient(url, {"authorization": f"Bearer {token}"}).get("/?part=list")[0] == 200
    context.close()


SIGN = """async (challenge) => {
  const toBytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const toText = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replace(/\\+/g, "-").replace(/\\//g, "_");
  const publicKey = { challenge: toBytes(challenge), rpId: "localhost", userVerification: "required" };
  const { id, rawId, type, response } = await navigator.credentials.get({ publicKey });
  const { clientDataJSON, authenticatorData, signature } = response;
  const parts = Object.entries({ clientDataJSON, authenticatorData, signature });
  const texts = Object.fromEntries(parts.map(([name, part]) => [name, toText(part)]));
  return { id, rawId: toText(rawId), type, response: texts };
}"""
ROGUE = b"""<p id=stolen></p><script>
stolen.textContent = JSON.stringify({ ...localStorage });
navigator.serviceWorker.register("/worker.js").then(() => navigator.serviceWorker.ready)
  .then(() => { document.title = "installed"; });
</script>"""
WORKER = b"""self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
self.addEventListener("fetch", (event) => event.respondWith(
  new Response("<title>imitation</title>", { headers: { "content-type": "text/html" } })));
"""


@in_full
def test_server_on_the_port_of_a_closed_inbox_gets_a_dead_session(config: Path, chromium: Browser) -> None:
    """It shares the origin, so it can read the token and leave a service worker behind. The token ended with the inbox,
    and the worker is removed when the browser next asks for its update."""
    context = chromium.new_context()
    page = context.new_page()
    with inbox(config) as url:
        token = sign_in(page, url, config)
        page.goto("about:blank")
    port = urlsplit(url).port
    assert port

    def answer(path: str) -> tuple[str, bytes]:
        return ("text/javascript", WORKER) if path == "/worker.js" else ("text/html", ROGUE)

    with web_server(port, answer):
        page.goto(url)
        assert token in page.locator("#stolen").inner_text()
        page.wait_for_function("document.title === 'installed'")
        page.goto("about:blank")
    with inbox(config) as url:
        assert InboxClient(url, {"authorization": f"Bearer {token}"}).get("/?part=list")[0] == 401
        page.goto(url)
        expect(page).to_have_title("imitation")
        for _ in range(4):
            page.wait_for_timeout(2000)  # Chromium looks for an update a second after a page was loaded
            page.goto(url)
            if page.title() != "imitation":
                break
        page.wait_for_url(f"{url}/sign-in")
        expect(page.get_by_label("One-time code")).to_be_visible()
        assert page.evaluate("navigator.serviceWorker.getRegistrations().then((found) => found.length)") == 0
    context.close()


@in_full
def test_pages_that_another_server_had_cached_are_forgotten(config: Path, chromium: Browser) -> None:
    """A server that had the inbox's port before lets the browser keep an imitation of it for a year. The first answer
    of the inbox itself removes it, and the script of the inbox was never in the cache."""
    context = chromium.new_context()
    page = context.new_page()
    port = int(re.findall(r"\d+", config.read_text())[-1])
    address = f"http://localhost:{port}"
    pages = ("/", "/sign-in", "/static/app.js")
    with web_server(port, lambda _: ("text/html", b"<title>imitation</title>"), max_age=31_536_000):
        for path in pages:
            page.goto(address + path)
        page.goto("about:blank")
    with inbox(config) as url:
        page.goto(url)
        assert page.title() == "imitation"
        page.goto(f"{url}/requests/ap_0")  # the link of a notification
        page.wait_for_url(f"{url}/sign-in")
        for path in pages:
            page.goto(url + path)
            assert page.title() != "imitation"
        sign_in(page, url, config)
    context.close()


@in_full
def test_passkey_used_on_another_port_signs_nothing_for_the_inbox(config: Path, chromium: Browser) -> None:
    """Passkeys belong to `localhost` too. A page on another port can have one sign the inbox's own challenge; what it
    signs names that page."""
    context = chromium.new_context()
    with inbox(config) as url, web_server(port := free_port(), lambda _: ("text/html", b"<p>your app")):
        page = context.new_page()
        add_passkeys(context, page)
        sign_in(page, url, config)
        enrol(page)
        options = InboxClient(url).post("/sign-in/options")[1]
        page.goto(f"http://localhost:{port}/")
        signed = page.evaluate(SIGN, options["challenge"])
        status, answer = InboxClient(url).post("/sign-in/passkey", signed)
        assert status == 409
        assert "the passkey was not accepted: Unexpected client data origin" in answer["problem"]
        page.goto(f"{url}/history")
        expect(page.get_by_text("Alice")).to_be_visible()
        signed = page.evaluate(SIGN, options["challenge"])
        assert InboxClient(url).post("/sign-in/passkey", signed)[0] == 200  # the same, on the inbox's own page
    context.close()


def test_inbox_does_not_start_beside_another_server_on_its_port(config: Path) -> None:
    """`localhost` is also `::1`: whoever has the port there would have the inbox's origin."""
    port = int(re.findall(r"\d+", config.read_text())[-1])
    with socket.socket(socket.AF_INET6) as squatter:
        try:
            squatter.bind(("::1", port))
        except OSError:
            pytest.skip("this machine has no IPv6")
        squatter.listen()
        done = cli("inbox", "--config", str(config), check=False)
    assert done.returncode == 9
    assert f"cannot listen on ::1 port {port}: Address already in use" in done.stderr

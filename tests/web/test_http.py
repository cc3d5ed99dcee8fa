"""The inbox over plain HTTP, as an attacker would address it."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.live.running_guard import cli
from tests.web.inbox_process import InboxScenario, inbox_scenario


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InboxScenario]:
    with inbox_scenario(tmp_path_factory.mktemp("inbox")) as made:
        made.hold()
        yield made


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def problem(self) -> str:
        return str(json.loads(self.body)["problem"])


def ask(on: InboxScenario, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
    """One request; a header given as empty text is left out."""
    host = urlsplit(on.url).netloc
    said = {"host": host, **({"origin": on.url} if method == "POST" else {})}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request(method, path, body, {name: value for name, value in said.items() if value})
        with connection.getresponse() as reply:
            return Reply(reply.status, {n.lower(): v for n, v in reply.getheaders()}, reply.read())


def cookie(on: InboxScenario, approver: str = "alice") -> tuple[str, str]:
    """A session cookie and the CSRF token of its page."""
    reply = ask(on, "POST", "/sign-in", f"code={on.code(approver)}")
    assert reply.status == 303
    value = reply.headers["set-cookie"]
    assert "HttpOnly" in value
    assert "SameSite=strict" in value
    session = value.split(";", maxsplit=1)[0]
    page = ask(on, "GET", "/", cookie=session).text
    return session, page.split('name="csrf" content="')[1].split('"')[0]


def test_every_page_has_the_strict_headers(on: InboxScenario) -> None:
    session, _ = cookie(on)
    for path in ("/sign-in", "/", "/history", f"/requests/{on.requests()[0]['id']}", "/static/app.js", "/nonesuch"):
        reply = ask(on, "GET", path, cookie=session)
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["cache-control"] == "no-store"
        text = reply.text
        assert "http://" not in text.replace(on.url, "").replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:80", "localhost"])
def test_other_host_is_refused(on: InboxScenario, host: str) -> None:
    assert ask(on, "GET", "/sign-in", host=host).status == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:1"])
def test_cross_site_change_is_refused(on: InboxScenario, origin: str) -> None:
    session, token = cookie(on)
    id = on.requests()[0]["id"]
    body = json.dumps({"verdict": "approve", "rationale": "x"})
    headers = {"cookie": session, "x_csrf_token": token, "origin": origin}
    assert ask(on, "POST", f"/requests/{id}/options", body, **headers).status == 403
    assert ask(on, "POST", "/sign-in", f"code={on.code()}", origin=origin).status == 403


CHANGES = ("/sign-out", "/passkeys/options", "/passkeys", "/requests/ID/options", "/requests/ID/decide", "/revoke/ID")


@pytest.mark.parametrize("path", CHANGES)
def test_change_needs_a_session_and_its_csrf_token(on: InboxScenario, path: str) -> None:
    session, token = cookie(on)
    path = path.replace("ID", on.requests()[0]["id"])
    assert ask(on, "POST", path, "{}").status == 403
    assert ask(on, "POST", path, "{}", cookie=session).status == 403
    assert ask(on, "POST", path, "{}", cookie=session, x_csrf_token="other").status == 403
    assert ask(on, "POST", path, "{}", x_csrf_token=token).status == 403


def test_pages_need_a_session(on: InboxScenario) -> None:
    for path in ("/", "/history", f"/requests/{on.requests()[0]['id']}"):
        reply = ask(on, "GET", path)
        assert (reply.status, reply.headers["location"]) == (303, "/sign-in")
    assert ask(on, "GET", f"/requests/{on.requests()[0]['id']}/state").status == 403


def test_sign_in_code_works_once(on: InboxScenario) -> None:
    code = on.code()
    assert ask(on, "POST", "/sign-in", f"code={code.lower()}").status == 303
    again = ask(on, "POST", "/sign-in", f"code={code}")
    assert again.status == 200
    assert "already used" in again.text
    for wrong in ("", "code=", "code=AAAAA-AAAAA", "x" * 5000):
        assert ask(on, "POST", "/sign-in", wrong).status == 200


def test_sign_in_code_alone_decides_nothing(on: InboxScenario) -> None:
    session, token = cookie(on)
    id = on.requests()[0]["id"]
    headers = {"cookie": session, "x_csrf_token": token}
    for body, problem in (
        ({"verdict": "approve", "rationale": "x"}, "you have no passkey yet"),
        ({"verdict": "approve", "rationale": " "}, "a rationale is required"),
        ({"verdict": "maybe", "rationale": "x"}, "`verdict` must be approve or deny"),
        ({"verdict": "approve", "rationale": "x", "terms": {"more": 0}}, "a grant requires"),
    ):
        reply = ask(on, "POST", f"/requests/{id}/options", json.dumps(body), **headers)
        assert reply.status == 409
        assert problem in reply.problem
    for junk in ({}, {"response": {"clientDataJSON": "e30"}}, {"id": "x", "response": {"clientDataJSON": "%%"}}):
        assert ask(on, "POST", f"/requests/{id}/decide", json.dumps(junk), **headers).status == 409
    assert ask(on, "POST", f"/requests/{id}/decide", "[]", **headers).status == 400
    assert [request["state"] for request in on.requests()] == ["requested"]


def test_unknown_and_malformed_requests_are_answered(on: InboxScenario) -> None:
    session, token = cookie(on)
    assert ask(on, "GET", "/requests/ap_none", cookie=session).status == 404
    headers = {"cookie": session, "x_csrf_token": token}
    reply = ask(on, "POST", "/requests/ap_none/options", '{"verdict": "approve", "rationale": "x"}', **headers)
    assert "no approval `ap_none`" in reply.problem


def test_agent_text_is_escaped(on: InboxScenario) -> None:
    on.hold(deal_id="790", guard_reason='<img src=x onerror="alert(1)">\u202e', amount=12500.0)
    session, _ = cookie(on)
    [id] = [request["id"] for request in on.requests() if request["subject"]["resource"]["id"] == "790"]
    text = ask(on, "GET", f"/requests/{id}", cookie=session).text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert "\u202e" not in text


def test_port_in_use_is_named(on: InboxScenario) -> None:
    done = cli("inbox", "--config", str(on.config), check=False)
    assert done.returncode == 3
    assert "cannot listen on port" in done.stderr
    assert "hint: set inbox.port to a free port" in done.stderr


def test_inbox_listens_only_on_loopback(on: InboxScenario, tmp_path: Path) -> None:
    port = urlsplit(on.url).port
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    mine = {row[1] for row in listening if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    assert mine
    assert mine <= {f"0100007F:{port:04X}", f"00000000000000000000000001000000:{port:04X}"}

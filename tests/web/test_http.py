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


def session(on: InboxScenario, approver: str = "alice") -> dict[str, str]:
    """The header of a new session."""
    reply = ask(on, "POST", "/sign-in", f"code={on.code(approver)}")
    assert reply.status == 200
    return {"authorization": f"Bearer {json.loads(reply.body)['token']}"}


def test_every_page_has_the_strict_headers(on: InboxScenario) -> None:
    alice = session(on)
    for path in ("/sign-in", "/", "/history", f"/requests/{on.requests()[0]['id']}", "/static/app.js", "/nonesuch"):
        reply = ask(on, "GET", path, **alice)
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
    alice = session(on)
    id = on.requests()[0]["id"]
    body = json.dumps({"verdict": "approve", "rationale": "x"})
    headers = alice | {"origin": origin}
    assert ask(on, "POST", f"/requests/{id}/options", body, **headers).status == 403
    assert ask(on, "POST", "/sign-in", f"code={on.code()}", origin=origin).status == 403


CHANGES = ("/sign-out", "/passkeys/options", "/passkeys", "/requests/ID/options", "/requests/ID/decide", "/revoke/ID")


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer other", "Basic YWxpY2U6eA==", "TOKEN"])
def test_change_needs_a_session(on: InboxScenario, path: str, authorization: str) -> None:
    token = session(on)["authorization"].partition(" ")[2]
    path = path.replace("ID", on.requests()[0]["id"])
    reply = ask(on, "POST", path, "{}", authorization=authorization.replace("TOKEN", token))
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert ask(on, "POST", f"{path}?token={token}", "{}", cookie=f"session={token}").status == 401


def test_page_without_a_session_has_no_data(on: InboxScenario) -> None:
    """It is the same page whether the request exists or not."""
    shells = {
        ask(on, "GET", path).body for path in ("/", "/history", f"/requests/{on.requests()[0]['id']}", "/requests/x")
    }
    assert len(shells) == 1
    assert b'data-page="shell"' in shells.pop()
    for path in ("/?part=list", f"/requests/{on.requests()[0]['id']}/state"):
        assert ask(on, "GET", path).status == 401
    assert ask(on, "GET", "/", authorization="Bearer other").status == 401


def test_session_ends_with_sign_out(on: InboxScenario) -> None:
    alice, other = session(on), session(on)
    assert ask(on, "POST", "/sign-out", "{}", **alice).status == 200
    assert ask(on, "GET", "/", **alice).status == 401
    assert ask(on, "GET", "/", **other).status == 200


def test_sign_in_code_works_once(on: InboxScenario) -> None:
    code = on.code()
    assert ask(on, "POST", "/sign-in", f"code={code.lower()}").status == 200
    again = ask(on, "POST", "/sign-in", f"code={code}")
    assert again.status == 403
    assert "already used" in again.problem
    for wrong in ("", "code=", "code=AAAAA-AAAAA", "x" * 5000, "&".join(["a=b"] * 3000)):
        assert ask(on, "POST", "/sign-in", wrong).status == 403


def test_sign_in_code_alone_decides_nothing(on: InboxScenario) -> None:
    alice = session(on)
    id = on.requests()[0]["id"]
    for body, problem in (
        ({"verdict": "approve", "rationale": "x"}, "you have no passkey of http"),
        ({"verdict": "approve", "rationale": " "}, "a rationale is required"),
        ({"verdict": "approve", "rationale": "\u202e\u200b"}, "a rationale is required"),
        ({"verdict": "approve", "rationale": "x\0"}, "cannot be kept"),
        ({"verdict": "maybe", "rationale": "x"}, "`verdict` must be approve or deny"),
        ({"verdict": "approve", "rationale": "x", "terms": {"more": 0}}, "a grant requires"),
    ):
        reply = ask(on, "POST", f"/requests/{id}/options", json.dumps(body), **alice)
        assert reply.status == 409
        assert problem in reply.problem
    no_text = '{"verdict": "approve", "rationale": null}'
    assert ask(on, "POST", f"/requests/{id}/options", no_text, **alice).status == 400
    for junk in ({}, {"response": {"clientDataJSON": "e30"}}, {"id": "x", "response": {"clientDataJSON": "%%"}}):
        assert ask(on, "POST", f"/requests/{id}/decide", json.dumps(junk), **alice).status == 409
    assert ask(on, "POST", f"/requests/{id}/decide", "[]", **alice).status == 400
    assert [request["state"] for request in on.requests()] == ["requested"]


def test_unknown_and_malformed_requests_are_answered(on: InboxScenario) -> None:
    alice = session(on)
    assert ask(on, "GET", "/requests/ap_none", **alice).status == 404
    reply = ask(on, "POST", "/requests/ap_none/options", '{"verdict": "approve", "rationale": "x"}', **alice)
    assert "no approval `ap_none`" in reply.problem


def test_agent_text_is_escaped(on: InboxScenario) -> None:
    on.hold(deal_id="790", guard_reason='<img src=x onerror="alert(1)">\u202e', amount=12500.0)
    alice = session(on)
    [id] = [request["id"] for request in on.requests() if request["subject"]["resource"]["id"] == "790"]
    text = ask(on, "GET", f"/requests/{id}", **alice).text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert "\u202e" not in text


def test_port_in_use_is_named(on: InboxScenario) -> None:
    done = cli("inbox", "--config", str(on.config), check=False)
    assert done.returncode == 9
    assert "cannot listen on 127.0.0.1 port" in done.stderr
    assert "hint: set inbox.port to a free port" in done.stderr


def test_inbox_listens_only_on_loopback(on: InboxScenario, tmp_path: Path) -> None:
    port = urlsplit(on.url).port
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    mine = {row[1] for row in listening if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    assert mine
    assert mine <= {f"0100007F:{port:04X}", f"00000000000000000000000001000000:{port:04X}"}

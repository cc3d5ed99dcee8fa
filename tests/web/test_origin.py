"""The pages at a real origin over TLS, as a program would address them."""

import http.client
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from mcp_guard.config import load
from mcp_guard.core.grants import Grant
from mcp_guard.ledger.place import ledger_place
from mcp_guard.storage.engines import open_store
from mcp_guard.web.carrier import cookie_name
from tests.live.running_guard import cli, text
from tests.storage.contract.engines import writing
from tests.web.inbox_process import free_port
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_client import OwnMachineConnection, WebClient
from tests.web.web_process import WebScenario, web_process, web_scenario


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebScenario]:
    roles = '[web.roles]\nauditor = ["bob"]\n[approvers.bob]\nname = "Bob"\n[approvers.carol]\nname = "Carol"\n'
    with web_scenario(tmp_path_factory.mktemp("web"), web=roles) as made:
        yield made


TWO_THOUSAND = """WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 1999)
INSERT INTO approval SELECT printf('ap_0%04d', n), state, instance, lookup || n, request_hash, decision_hash, nonce,
  rules, subject, votes, requested - 2000 + n, expires, note, outcome, answered, receipts
FROM approval, number WHERE id = ?"""


def client(on: WebScenario) -> WebClient:
    assert on.certificate is not None
    return WebClient(on.url, context=on.certificate.context)


def test_request_is_decided_with_a_session_in_a_cookie(on: WebScenario) -> None:
    call = on.hold()
    [request] = on.requests()
    alice, passkey = client(on).sign_in(on.code()), SoftwarePasskey(on.url)
    assert alice.headers == {}
    assert list(alice.cookies) == [cookie_name(on.url)]
    first = dict(alice.cookies)
    assert alice.enrol(passkey) == (200, {"go": "/keys"})
    assert alice.cookies != first  # who may do more has a new token
    status, page = alice.get(f"/requests/{request['id']}")
    assert status == 200
    assert "Proposed change" in page  # at once, without a script
    status, answer = alice.decide(request["id"], passkey)
    assert (status, answer["state"], answer["go"]) == (200, "approved", "/")
    assert "Closed Won" in text(on.client.wait(call))
    cli("verify", "--config", str(on.config))


def test_requests_are_for_the_approvers_of_their_routes_and_auditors(on: WebScenario) -> None:
    call = on.hold(deal_id="790", amount=12500.0)
    [request] = on.requests()
    people = {name: client(on).sign_in(on.code(name)) for name in ("alice", "bob", "carol")}
    for name, status in (("alice", 200), ("bob", 200), ("carol", 403)):
        assert people[name].get(f"/requests/{request['id']}")[0] == status
        assert people[name].get(f"/requests/{request['id']}/state")[0] == status
        assert (request["id"] in people[name].get("/")[1]) == (status == 200)
        assert (request["id"] in people[name].get("/history")[1]) is False
    page = people["carol"].get(f"/requests/{request['id']}")[1]
    assert "this request is for the approvers of its routes (crm-approvers), and you are none" in page
    on.client.notify("notifications/cancelled", {"requestId": call})


def test_thousands_of_open_requests_come_page_by_page(on: WebScenario) -> None:
    call = on.hold(deal_id="790", amount=12500.0)
    [request] = on.requests()
    with closing(sqlite3.connect(load(on.config).state_dir / "ledger.sqlite", isolation_level=None)) as ledger:
        ledger.execute(TWO_THOUSAND, (request["id"],))
    alice = client(on).sign_in(on.code())
    status, page = alice.get("/")
    assert status == 200
    assert "(2001)" in page
    seen: list[str] = []
    for _ in range(3):
        seen += re.findall(r'href="/requests/(ap_\w+)"', page)
        [after] = re.findall(r'href="(/\?after=[^"]+)" rel="next"', page)
        page = alice.get(after)[1]
    assert len(seen) == len(set(seen)) == 150
    assert seen == sorted(seen)
    assert alice.get("/?after=1.x")[0] == 200
    assert alice.get("/?after=x")[0] == 404
    with closing(sqlite3.connect(load(on.config).state_dir / "ledger.sqlite", isolation_level=None)) as ledger:
        ledger.execute("UPDATE approval SET state = 'denied' WHERE id LIKE 'ap_0____'")
    page, past = alice.get("/history")[1], list[str]()
    for _ in range(3):
        past += re.findall(r'href="/requests/(ap_0\d+)"', page)
        [before] = re.findall(r'href="(/history\?before=[^"]+)" rel="next"', page)
        page = alice.get(before)[1]
    assert past == [f"ap_0{number:04}" for number in range(1999, 1849, -1)]
    others = client(on).sign_in(on.code("carol")).get("/history")[1]
    assert "/requests/" not in others
    assert "Go on to look further back." in others
    with closing(sqlite3.connect(load(on.config).state_dir / "ledger.sqlite", isolation_level=None)) as ledger:
        ledger.execute("DELETE FROM approval WHERE id LIKE 'ap_0____'")
    on.client.notify("notifications/cancelled", {"requestId": call})


def test_active_grants_of_ones_routes_come_page_by_page(on: WebScenario) -> None:
    call = on.hold(deal_id="790", amount=12600.0)
    request = on.requests()[-1]
    alice, expires = client(on).sign_in(on.code()), time.time_ns() // 1000 + 3600 * 1_000_000
    binding, by = {"tool": "crm__update_deal", "instance": "run_1"}, ({"id": "alice"},)
    with closing(open_store(ledger_place(load(on.config)))) as store, writing(store):
        for number in range(70):
            ends = expires if number % 7 else 1
            store.add_grant(Grant(f"grant_{number:03}", request["id"], "active", binding, (), 3, 1, ends, by), "run_1")
    inbox = alice.get("/")[1]
    assert inbox.count("data-revoke") == 10
    assert 'href="/grants"' in inbox
    first = alice.get("/grants")[1]
    [after] = re.findall(r'href="(/grants\?after=[^"]+)" rel="next"', first)
    shown = re.findall(r'data-revoke="(grant_\d+)"', first + alice.get(after)[1])
    assert shown == [f"grant_{number:03}" for number in range(70) if number % 7]
    assert "data-revoke" not in client(on).sign_in(on.code("carol")).get("/grants")[1]
    on.client.notify("notifications/cancelled", {"requestId": call})


def test_page_without_a_session_is_the_sign_in_page(on: WebScenario) -> None:
    stranger = client(on)
    status, page = stranger.get("/requests/ap_none")
    assert status == 401
    assert 'data-page="sign-in"' in page
    assert "Your session has ended" not in page
    for path in ("/?part=list", "/requests/x/state"):
        assert stranger.get(path)[0] == 401
    stranger.cookies[cookie_name(on.url)] = "what is left of an old session"
    status, page = stranger.get("/history")
    assert status == 401
    assert "Your session has ended. Sign in again." in page
    assert stranger.cookies == {}  # the browser forgets it
    assert stranger.post("/requests/x/options")[0] == 401


def test_every_error_of_a_page_is_a_page(on: WebScenario) -> None:
    """With its status, whether somebody is signed in or not, or what they carry has ended."""
    alice = client(on).sign_in(on.code())
    ended = WebClient(on.url, {"accept": "text/html"}, alice.context, {cookie_name(on.url): "ended"})
    for who in (alice, ended, WebClient(on.url, {"accept": "text/html,*/*"}, alice.context)):
        status, page = who.get("/nonesuch")
        assert status == 404
        assert "There is no page at this address." in page
        assert 'id="back">←' in page
    assert ("alice" in page) is False
    assert client(on).get("/nonesuch") == (404, {"problem": "Not Found", "hint": ""})


def test_cookie_alone_changes_nothing_from_another_site(on: WebScenario) -> None:
    alice = client(on).sign_in(on.code())
    for headers in (
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": on.url.replace("https", "http")},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ):  # fmt: skip
        evil = WebClient(on.url, headers, alice.context, alice.cookies)
        status, answer = evil.post("/sign-out")
        assert (status, answer["problem"].partition(":")[0]) == (403, "origin not allowed")
    assert WebClient(on.url, {"host": "evil.example"}, alice.context, alice.cookies).get("/")[0] == 421
    assert alice.get("/")[0] == 200


def test_session_is_good_at_every_gateway_and_ends_at_all(on: WebScenario) -> None:
    alice, other = client(on).sign_in(on.code()), client(on).sign_in(on.code())
    moved, port = on.config.parent / "other.toml", free_port()
    moved.write_text(on.config.read_text().replace("listen = ", f'listen = "127.0.0.1:{port}" #'))
    with web_process(moved):
        there = replace(alice, port=port)
        assert there.get("/history")[0] == 200
        assert there.post("/sign-out/everywhere")[0] == 200
    assert [each.get("/?part=list")[0] for each in (alice, other)] == [401, 401]


def test_operator_signs_somebody_out(on: WebScenario) -> None:
    alice, bob = client(on).sign_in(on.code()), client(on).sign_in(on.code("bob"))
    done = cli("approvers", "sign-out", "alice", "--config", str(on.config))
    assert "alice is signed out of 1 session" in done.stdout
    assert (alice.get("/?part=list")[0], bob.get("/?part=list")[0]) == (401, 200)
    unknown = cli("approvers", "sign-out", "mallory", "--config", str(on.config), check=False)
    assert "`mallory` is not an approver" in unknown.stderr


def test_links_lead_to_the_origin(on: WebScenario) -> None:
    printed = cli("approvers", "code", "alice", "--config", str(on.config)).stdout
    assert f"{on.url}/sign-in#" in printed


def test_sent_cookie_is_kept_from_scripts_and_other_hosts(on: WebScenario) -> None:
    url = urlsplit(on.url)
    connection: http.client.HTTPConnection = OwnMachineConnection(url.hostname or "", url.port or 0, client(on).context)
    connection.request("POST", "/sign-in", f"code={on.code()}", {"host": url.netloc, "origin": on.url})
    reply = connection.getresponse()
    assert json.loads(reply.read()) == {}
    cookie = reply.headers["set-cookie"]
    assert "; Max-Age=28800; Path=/; Secure; HttpOnly; SameSite=Lax" in cookie
    assert "Domain" not in cookie
    assert reply.headers["strict-transport-security"] == "max-age=31536000"
    assert "clear-site-data" not in reply.headers
    connection.close()

"""The pages at a real origin, without a server: what ends a session, what permits a key, and how votes add up."""

import asyncio
import html
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx2 as httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import Response

from mcp_guard.cli.approvals import describe
from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.model import MINUTE, Agent, ToolCallRequest
from mcp_guard.ledger.approvals import approver_keys
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey
from mcp_guard.ledger.registry import issue
from mcp_guard.notify.message import make_message
from mcp_guard.storage.items import Item, Items
from mcp_guard.web.app import make_app
from mcp_guard.web.console import ATTENDED
from mcp_guard.web.middleware import AT_ONCE, AT_ORIGIN, HEADERS, ShareMiddleware
from mcp_guard.web.passkeys import Passkeys
from mcp_guard.web.sessions import BrowserSession, Person, SessionLifetimes
from tests.promises.harness import ALLOW, HOLD, ROUTES, make_instance, open_harness, pending_id
from tests.web.pages_in_process import CONFIG, ORIGIN, PROVIDER, Pages, open_pages, pages_over
from tests.web.software_passkey import SoftwarePasskey

TERMS = GrantTerms(100, 7200, ("amount",))


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    async with open_pages(tmp_path) as made:
        yield made


async def enrol(client: httpx.AsyncClient) -> tuple[SoftwarePasskey, httpx.Response]:
    passkey = SoftwarePasskey(ORIGIN)
    options = await client.post("/passkeys/options", json={})
    if options.status_code != 200:
        return passkey, options
    return passkey, await client.post("/passkeys", json=passkey.register(options.json()))


def words(page: str) -> str:
    return html.unescape(" ".join(re.sub("<[^>]+>", " ", page).split()))


async def test_a_page_that_asks_by_itself_does_not_keep_a_session(pages: Pages) -> None:
    client, id = await pages.sign_in(), await pages.hold()
    asked = ("/?part=list", f"/requests/{id}/state")
    minutes = SessionLifetimes().idle // MINUTE
    for minute in range(2 * minutes):  # somebody moves the pointer
        pages.harness.clock.time += MINUTE
        assert (await client.get(asked[minute % 2], headers={ATTENDED: "1"})).status_code == 200
    for minute in range(minutes - 1):
        pages.harness.clock.time += MINUTE
        assert (await client.get(asked[minute % 2])).status_code == 200
    pages.harness.clock.time += 2 * MINUTE
    assert (await client.get(asked[0])).status_code == 401


async def test_a_code_to_sign_in_enrols_no_key_once_there_was_one(pages: Pages) -> None:
    client, code = await pages.sign_in(), pages.code()
    assert (await enrol(client))[1].status_code == 200
    [key] = pages.harness.store.approver_keys()
    approver_keys.remove(pages.harness.ledger.writer, "alice", key.id, "lost")
    refused = (await enrol(await pages.sign_in(code=code)))[1]
    assert refused.status_code == 409
    assert "had a key already" in refused.json()["problem"]
    assert "--enrol" in refused.json()["hint"]
    assert (await enrol(await pages.sign_in(code=pages.code("alice", "enrolment_code"))))[1].status_code == 200


async def test_signing_out_everywhere_ends_codes_that_nobody_has_used(pages: Pages) -> None:
    client, code, other = await pages.sign_in(), pages.code(), pages.code("bob")
    assert (await client.post("/sign-out/everywhere", json={})).status_code == 200
    assert (await pages.client().post("/sign-in", content=f"code={code}")).status_code == 403
    await pages.sign_in("bob", other)


async def test_the_terms_of_a_vote_are_shown_to_the_next_who_signs_the_same(pages: Pages) -> None:
    id = await pages.hold()
    pages.harness.approve(id, "alice", terms=TERMS)
    client = await pages.sign_in("bob")
    passkey, _ = await enrol(client)
    page = (await client.get(f"/requests/{id}")).text
    terms = "and grants 100 more calls within 2 h, in which amount may differ"
    assert f"Alice approved {terms}" in words(page)
    decide = words(page.partition('<form id="decide"')[2])
    assert f"Approving allows this call {terms}." in decide
    assert "Approve and grant the same a" in decide
    match = re.search(r"data-terms='([^']+)'", page)
    assert match
    body = {"verdict": "approve", "rationale": "ok"}
    options = (await client.post(f"/requests/{id}/options", json=body)).json()
    refused = (await client.post(f"/requests/{id}/decide", json=passkey.sign(options))).json()
    assert "other grant terms" in refused["problem"]
    terms = httpx.Response(200, text=html.unescape(match[1])).json()
    options = (await client.post(f"/requests/{id}/options", json={**body, "terms": terms})).json()
    assert (await client.post(f"/requests/{id}/decide", json=passkey.sign(options))).status_code == 200
    [row] = [row for row in pages.harness.store.grants() if row.approval == id]
    assert (row.uses, row.free) == (100, ("amount",))


def test_an_approver_is_another_account_at_each_page_and_ledger() -> None:
    """An authenticator keeps one passkey for an account of a host, whatever the port."""
    session = BrowserSession(Person("alice"), "s", 0, 0, 0, 0, None, False, Item("session", "k", "o", b"{}", 1))
    pages = (("http://localhost:1", "one"), ("http://localhost:2", "one"), ("http://localhost:1", "two"))
    made = [Passkeys(page, ledger=ledger).registration(session, "Alice", [], 1) for page, ledger in pages]
    assert len({options["user"]["id"] for options in made}) == 3
    assert {options["rp"]["id"] for options in made} == {"localhost"}


async def test_a_request_shows_the_policy_that_asked_whole_and_letters_of_another_script(pages: Pages) -> None:
    client, id = await pages.sign_in(), await pages.hold(stage="\u0421losed Won")
    page = html.unescape((await client.get(f"/requests/{id}")).text)
    assert f"<pre>{HOLD}</pre>" in page
    assert r"has letters that can be taken for others: <code>\u{421}losed</code>" in page


async def test_letters_that_can_be_taken_for_others_are_marked_wherever_they_are(pages: Pages) -> None:
    client, id = await pages.sign_in(), await pages.hold(deal_id="\u0430\u0441\u0435")
    marked = r"can be taken for others: <code>\u{430}\u{441}\u{435}</code>"
    assert marked in html.unescape((await client.get(f"/requests/{id}")).text)
    approval = pages.harness.store.approval(id)[0]
    assert r"  caution        letters that can be taken for others, in: \u{430}\u{441}\u{435}" in describe(approval, 0)
    assert make_message(approval, "requested", "m", ORIGIN, 0).caution.startswith(
        "Some letters can be taken for others"
    )


async def test_whoever_may_not_decide_is_told_why(tmp_path: Path) -> None:
    others = '[approvers.carol]\nname = "Carol"\n[approvers.dana]\nname = "Dana"\n'
    config = f'{CONFIG}{PROVIDER}[web.roles]\nauditor = ["dana"]\n{others}'
    routes = {"people": replace(ROUTES["people"], approvers=("alice", "bob", "carol"))}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    async with pages_over(harness, tmp_path, config, routes) as pages:
        call = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
        own = make_instance(agent=Agent("a", "alice", ()), on_behalf_of="bob")
        id = pending_id(await harness.guard.call(own, call))
        told = {
            name: words((await (await pages.sign_in(name)).get(f"/requests/{id}")).text)
            for name in ("alice", "bob", "carol", "dana")
        }
        assert "You cannot decide this request: you own the agent that made it." in told["alice"]
        assert "You cannot decide this request: it was made on your behalf." in told["bob"]
        assert "You cannot decide" not in told["carol"]
        assert "You cannot decide this request: you are not an approver of its routes (people)." in told["dana"]


async def test_a_request_that_is_stale_says_what_changed_and_history_who_decided_how(pages: Pages) -> None:
    stale, denied = await pages.hold(), await pages.hold(deal_id="2")
    for name in ("alice", "bob"):
        pages.harness.approve(stale, name, rationale="fine")
    pages.harness.approve(denied, "alice", rationale="fine")
    pages.harness.approve(denied, "bob", "deny", rationale="not this one")
    pages.harness.upstream.facts["stage"] = "moved"
    await pages.call()
    client = await pages.sign_in()
    assert "What changed: facts" in words((await client.get(f"/requests/{stale}")).text)
    history = words((await client.get("/history")).text)
    assert "What changed: facts" in history
    assert "Alice approved: fine Bob approved: fine" in history
    assert "Alice approved: fine Bob denied: not this one" in history
    assert "What changed" not in words((await client.get(f"/requests/{denied}")).text)


async def test_an_approval_is_revoked_on_its_page_until_it_is_used(pages: Pages) -> None:
    id = await pages.hold()
    client = await pages.sign_in("bob")
    for name in ("alice", "bob"):
        assert "data-revoke" not in (await client.get(f"/requests/{id}")).text
        pages.harness.approve(id, name)
    assert f'data-revoke="{id}"' in (await client.get(f"/requests/{id}")).text
    answer = await client.post(f"/revoke/{id}", json={"rationale": "plans changed"})
    assert answer.json() == {"go": "/", "done": "Revoked."}
    page = (await client.get(f"/requests/{id}")).text
    assert "data-revoke" not in page
    assert "Revoked: plans changed" in words(page)


async def test_what_a_decision_has_done_is_said(pages: Pages) -> None:
    id, said = await pages.hold(), []
    for name, verdict in (("alice", "approve"), ("bob", "approve"), ("alice", "deny")):
        if verdict == "deny":
            id = await pages.hold(deal_id="2")
        client = await pages.sign_in(code=pages.code(name, "enrolment_code"))
        passkey, _ = await enrol(client)
        body = {"verdict": verdict, "rationale": "ok"}
        options = (await client.post(f"/requests/{id}/options", json=body)).json()
        said.append((await client.post(f"/requests/{id}/decide", json=passkey.sign(options))).json()["done"])
    assert said == [
        "You approved: update deal Deal 1. It needs one more from: bob, carol.",
        "You approved: update deal Deal 1.",
        "You denied: update deal Deal 2.",
    ]


async def test_many_fields_and_many_long_values_are_listed_in_a_box_that_says_how_many(pages: Pages) -> None:
    few = await pages.hold(a="x" * 500, b="y")
    many = await pages.hold(**{f"field{number}": number for number in range(40)})
    long = await pages.hold(**{f"field{number}": "x" * 500 for number in range(6)})
    client = await pages.sign_in()
    boxes = [
        re.findall('size">([^<]+): scroll', (await client.get(f"/requests/{id}")).text) for id in (few, many, long)
    ]
    assert boxes == [[], ["41 fields"], ["7 fields"]]


async def test_a_request_marks_where_values_differ_that_have_words_in_common(pages: Pages) -> None:
    pages.harness.upstream.facts["stage"] = "pay Dana 5 today"
    client, id = await pages.sign_in(), await pages.hold(stage="pay Dana 500 & <b> today")
    page = re.sub("<wbr>", "", (await client.get(f"/requests/{id}")).text)
    assert "<del>pay Dana <mark>5</mark> today</del>" in page
    assert "<ins>pay Dana <mark>500 &amp; &lt;b&gt;</mark> today</ins>" in page
    assert "<del>100</del>" in page  # the amount, which has nothing in common with the next


async def test_who_cannot_sign_changes_is_offered_none(tmp_path: Path) -> None:
    async with open_pages(tmp_path, CONFIG + PROVIDER) as pages:
        id = await pages.hold()
        for name in ("alice", "bob"):
            pages.harness.approve(id, name, terms=TERMS)
        operator, auditor = await pages.sign_in_by_provider("operator"), await pages.sign_in_by_provider("auditor")
        page = (await operator.get("/keys")).text
        assert "Ask whoever configures the guard" in page
        assert 'id="enrol"' not in page
        refused = await operator.post("/passkeys/options", json={})
        assert "keys belong to the entries in [approvers]" in refused.json()["problem"]
        assert "data-revoke" not in (await auditor.get("/grants")).text
        assert "data-revoke" in (await (await pages.sign_in()).get("/grants")).text


@pytest.mark.parametrize("path", ["/agents", "/agents/zed", "/tools/crm__update_deal"])
async def test_changes_of_agents_and_tools_are_offered_to_operators_with_an_entry(tmp_path: Path, path: str) -> None:
    config = f'{CONFIG}{PROVIDER}[web.roles]\noperator = ["alice"]\n[agents.zed]\nowner = "bob"\n'
    async with open_pages(tmp_path, config) as pages:
        zed = make_instance(agent=Agent("zed", "bob", ()), started=pages.console.now())
        pages.harness.ledger.writer.run(lambda tx: issue(tx, zed, {}))
        without = (await (await pages.sign_in_by_provider("operator")).get(path)).text
        assert "only people listed in [approvers] can enrol one" in without
        viewer = (await (await pages.sign_in_by_provider("viewer")).get(path)).text
        with_entry = (await (await pages.sign_in()).get(path)).text
        assert ["<button" in page and 'data-sign="/operations"' in page for page in (without, viewer, with_entry)] == [
            False, False, True,
        ]  # fmt: skip


async def test_a_slash_too_many_leads_nowhere_else(pages: Pages) -> None:
    assert (await pages.client().get("/keys/")).status_code == 404


async def test_what_no_page_expects_is_refused_with_the_headers_of_all(pages: Pages) -> None:
    await enrol(await pages.sign_in())
    file_key = NewKey("ed25519", Ed25519PrivateKey.generate().public_key().public_bytes_raw(), {})
    approver_keys.enrol(pages.harness.ledger.writer, Approver("bob", "Bob"), file_key)
    client = pages.client()
    options = (await client.post("/sign-in/options", json={})).json()
    answer = SoftwarePasskey(ORIGIN).sign(options)
    for id in ({}, {"id": None}):
        credential = {name: value for name, value in answer.items() if name != "id"} | id
        reply = await client.post("/sign-in/passkey", json=credential)
        assert reply.status_code == 409, reply.text
        options = (await client.post("/sign-in/options", json={})).json()
        answer = SoftwarePasskey(ORIGIN).sign(options)
    signed_in = await pages.sign_in()
    reply = await signed_in.get("/ledger/" + "9" * 5000)
    assert reply.status_code == 404
    assert {name: reply.headers.get(name) for name in HEADERS | AT_ORIGIN} == HEADERS | AT_ORIGIN


async def test_one_person_has_a_share_of_the_pages_in_however_many_sessions() -> None:
    running: dict[str, int] = Counter()
    most: dict[str, int] = Counter()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        person = Request(scope).headers.get("authorization", "").partition(" ")[2][:1]
        running[person] += 1
        most[person] = max(most[person], running[person])
        await asyncio.sleep(0.01)
        running[person] -= 1
        await Response()(scope, receive, send)

    async def find_session(token: str) -> Item:
        return Item("session", token, token[:1], b"", 1)

    shared = httpx.ASGITransport(ShareMiddleware(app, "http://localhost:1", find_session))
    async with httpx.AsyncClient(transport=shared, base_url="http://localhost:1") as client, asyncio.TaskGroup() as all:
        for name in ("a1", "a2", "b1", ""):
            for _ in range(3 * AT_ONCE):
                all.create_task(client.get("/", headers={"authorization": f"Bearer {name}"} if name else {}))
    assert most == {"a": AT_ONCE, "b": AT_ONCE, "": 3 * AT_ONCE}


async def test_a_token_of_nobody_takes_no_share_of_the_person_whose_id_it_repeats() -> None:
    released = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if "nobody" in scope["path"]:
            await released.wait()
        await Response()(scope, receive, send)

    async def find_session(token: str) -> Item | None:
        return Item("session", token, "alice", b"", 1) if token == "hers" else None

    shared = httpx.ASGITransport(ShareMiddleware(app, "http://localhost:1", find_session))
    async with httpx.AsyncClient(transport=shared, base_url="http://localhost:1") as client, asyncio.TaskGroup() as all:
        for _ in range(AT_ONCE):
            all.create_task(client.get("/nobody", headers={"authorization": "Bearer alice"}))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await client.get("/", headers={"authorization": "Bearer hers"})
        released.set()


class CountedItems:
    """The items of a ledger; `asked` is how often one was looked up."""

    def __init__(self, items: Items) -> None:
        self._items, self.asked = items, 0

    def __getattr__(self, name: str) -> Any:
        self.asked += name == "get"
        return getattr(self._items, name)


async def test_a_session_is_looked_up_once_and_again_where_the_request_has_waited(pages: Pages) -> None:
    client, items = await pages.sign_in(), CountedItems(pages.console.items)
    pages.app = make_app(replace(pages.console, sessions=replace(pages.console.sessions, items=cast(Items, items))))
    counted = pages.client()
    counted.cookies = client.cookies
    assert (await counted.get("/keys")).status_code == 200
    assert items.asked == 1
    async with asyncio.TaskGroup() as all:
        for _ in range(AT_ONCE + 1):
            all.create_task(counted.get("/keys"))
    assert items.asked == 1 + AT_ONCE + 2


async def test_the_next_approver_is_told_of_a_vote_by_a_key_that_was_removed(pages: Pages) -> None:
    id = await pages.hold()
    alice = await pages.sign_in(code=pages.code("alice", "enrolment_code"))
    passkey, _ = await enrol(alice)
    options = await alice.post(f"/requests/{id}/options", json={"verdict": "approve", "rationale": "ok"})
    assert (await alice.post(f"/requests/{id}/decide", json=passkey.sign(options.json()))).status_code == 200
    bob = await pages.sign_in("bob")
    assert "approved by Alice<" in (await bob.get(f"/requests/{id}")).text.replace("</dd>", "<")
    [kept] = [key for key in pages.harness.store.approver_keys() if key.approver == "alice" and key.removed is None]
    approver_keys.remove(pages.harness.ledger.writer, "alice", kept.id, "lost")
    assert "approved by Alice (with a key that was removed since" in (await bob.get(f"/requests/{id}")).text


async def test_a_held_call_with_long_arguments_costs_the_inbox_nothing(pages: Pages) -> None:
    id = await pages.hold(memo="\u00e9" + "word " * 100_000, stage="\u00e9" * 100_000)
    client = await pages.sign_in()
    began = time.process_time()
    for _ in range(2):
        assert (await client.get("/?part=list")).status_code == 200
    assert time.process_time() - began < 0.6  # 1.5 \u00b5s for each character of each page otherwise
    page = await client.get(f"/requests/{id}")
    assert "word " * 99_999 in page.text


async def test_an_inbox_that_shows_what_there_is_costs_nothing(pages: Pages) -> None:
    await pages.hold()
    client = await pages.sign_in()

    async def poll(page: httpx.Response) -> httpx.Response:
        shown = page.text.partition('data-version="')[2].partition('"')[0]
        return await client.get("/", params={"part": "list", "shown": shown})

    first = await client.get("/")
    assert ((await poll(first)).status_code, (await poll(first)).text) == (204, "")
    await pages.hold(deal_id="2")
    second = await poll(first)
    assert second.text.count('href="/requests/') == 2
    assert (await poll(second)).status_code == 204
    pages.harness.clock.time += 10 * MINUTE
    assert (await poll(second)).status_code == 204
    for odd in ("x", "x.1.y", f"x.1.{'9' * 30}", "\u0661.1.\u0661"):
        assert (await client.get("/", params={"part": "list", "shown": odd})).status_code == 200
    pages.harness.clock.time += 55 * MINUTE
    client = await pages.sign_in()
    assert "No pending requests" in (await poll(second)).text


async def test_who_only_signs_in_to_upstreams_sees_nothing_else(tmp_path: Path) -> None:
    async with open_pages(tmp_path, CONFIG + PROVIDER) as pages:
        user, viewer = await pages.sign_in_by_provider("user"), await pages.sign_in_by_provider("viewer")
        for path in ("/policy-changes", "/policy-changes/replay", "/overview", "/ledger", "/?part=list"):
            assert (await user.get(path)).status_code == 403, path
        for client, first in ((user, "/upstreams"), (viewer, "/overview")):
            home = await client.get("/")
            assert (home.status_code, home.headers["location"]) == (303, first)
        page = await user.get("/upstreams")
        assert page.status_code == 200, page.text
        assert "/policy-changes" not in page.text

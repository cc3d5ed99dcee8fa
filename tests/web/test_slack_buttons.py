"""Votes by Slack's buttons: signed by Slack, recent, once, by an approver, and only where every route accepts them."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2 as httpx
import pytest

from mcp_guard.config.file import check
from mcp_guard.core.approval import ApprovalState, Route
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.start import make_dispatcher
from mcp_guard.settings import Settings
from mcp_guard.storage.items import Items
from mcp_guard.web.app import make_app, make_console
from tests.notify.slack_service import CHANNEL, SECRET, TEAM, TOKEN, Slack, sign, slack_service
from tests.notify.test_delivery import keep
from tests.promises.harness import ALLOW, HOLD, PEOPLE, SECOND, Harness, make_instance, open_harness, pending_id

ORIGIN = "https://guard.example"
APPROVE, DENY = "mcp-guard-approve", "mcp-guard-deny"
ROUTES = {
    "people": Route(
        "people", ("alice", "bob", "carol"), 3600 * SECOND, notify=("app",), follow=("app",), accept=("slack",)
    ),
    "keys": Route("keys", ("alice",), 3600 * SECOND, notify=("app",), follow=("app",)),
}
BOTH = '@id("both") @require_approval("people,keys") forbid (principal, action == Action::"crm__note", resource);'
CONFIG = f"""
[guard]
policies = "policies.cedar"
[approvers.alice]
name = "Alice"
slack = "U0ALICE"
[approvers.bob]
name = "Bob"
slack = "U0BOB"
[approvers.carol]
name = "Carol"
[routes.people]
approvers = ["alice", "bob", "carol"]
notify = ["app"]
accept = ["slack"]
[notifiers.app]
kind = "slack"
token = {{ file = "token" }}
channel = "{CHANNEL}"
signing_secret = {{ file = "signing" }}
team = "{TEAM}"
api = "API"
[web]
url = "{ORIGIN}"
"""


@dataclass
class Pages:
    """The pages and the dispatcher over a real ledger, and Slack."""

    harness: Harness
    client: httpx.AsyncClient
    dispatcher: NotificationDispatcher
    slack: Slack
    items: Items

    async def ask(self, request: ToolCallRequest | None = None) -> str:
        """Make a call that is held, and wait for its message; returns the request's id."""
        id = pending_id(await self.harness.guard.call(make_instance(), request or call("1")))
        await self.dispatcher.run_once()
        return id

    @property
    def ts(self) -> str:
        return list(self.slack.messages)[-1]

    def now(self) -> float:
        return self.harness.clock.time / SECOND

    async def press(self, action: str, presser: str = "U0ALICE", **changes: Any) -> int:
        body, _ = self.slack.press(self.ts, action, presser, **changes)
        return await self.post(*sign(body, self.now()))

    async def post(self, body: bytes, headers: dict[str, str]) -> int:
        return (await self.client.post("/slack/interactions", content=body, headers=headers)).status_code

    def state(self, id: str) -> ApprovalState:
        state: ApprovalState = self.harness.store.approval(id)[0].state
        return state

    @property
    def told(self) -> str:
        """What only the user has seen last."""
        method, arguments = self.slack.called[-1]
        assert method == "chat.postEphemeral"
        return str(arguments["blocks"][0]["text"]["text"])


def call(deal: str) -> ToolCallRequest:
    return ToolCallRequest("crm__update_deal", {"deal_id": deal, "amount": 150})


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=ROUTES)
    keep(tmp_path / "token", TOKEN)
    keep(tmp_path / "signing", SECRET)
    with slack_service() as slack:
        settings = as_configured(tmp_path, slack)
        ledger = harness.ledger
        items, proofs = ledger.engine.open_items(tmp_path), ledger.engine.open_used_proofs(tmp_path)
        votes = Votes(ledger.writer, ROUTES, PEOPLE)
        console = make_console(settings, votes, ledger.reader, items, proofs, ORIGIN)
        dispatcher = make_dispatcher(settings, ledger.writer, ledger.reader, items)
        transport = httpx.ASGITransport(make_app(console))
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            yield Pages(harness, client, dispatcher, slack, items)
        await items.close()
        await proofs.close()
        await ledger.reader.close()


def as_configured(folder: Path, slack: Slack) -> Settings:
    settings = check(CONFIG.replace("API", slack.url), folder / "mcp-guard.toml")
    return replace(settings, state_dir=folder, routes=ROUTES)


async def test_approve_button_approves_and_the_receipt_says_by_what(pages: Pages, tmp_path: Path) -> None:
    id = await pages.ask()
    assert await pages.press(APPROVE) == 200
    assert pages.state(id) is ApprovalState.APPROVED
    [receipt] = pages.harness.receipts("approval.granted")
    assert receipt["method"] == "slack"
    assert receipt["reported"] == {"team": TEAM, "user": "U0ALICE", "channel": CHANNEL, "message": pages.ts}
    assert receipt["approver"] == "alice"
    assert "key" not in receipt
    assert "signature" not in receipt
    await pages.dispatcher.run_once()
    assert "Approved by Alice (by Slack, not by a key)" in json.dumps(pages.slack.only)
    reply = await pages.harness.guard.call(make_instance(), call("1"))
    assert len(pages.harness.upstream.writes()) == 1, reply
    [intent] = [intent for intent in pages.harness.receipts("intent") if "approval" in intent]
    assert intent["approval"]["approvers"][0]["method"] == "slack"


async def test_deny_button_denies_at_once(pages: Pages) -> None:
    id = await pages.ask()
    assert await pages.press(DENY, "U0BOB") == 200
    assert pages.state(id) is ApprovalState.REQUESTED  # bob owns the agent: his own request
    assert "may not decide on their own request" in pages.told
    assert await pages.press(DENY) == 200
    assert pages.state(id) is ApprovalState.DENIED


@pytest.mark.parametrize("fault", ["signature", "secret", "body", "old", "ahead", "no time", "again"])
async def test_request_that_slack_did_not_sign_just_now_is_refused(pages: Pages, fault: str) -> None:
    id = await pages.ask()
    body, _ = pages.slack.press(pages.ts, APPROVE)
    at = {"old": pages.now() - 302, "ahead": pages.now() + 310}.get(fault, pages.now())
    body, headers = sign(body, at, "another" if fault == "secret" else SECRET)
    if fault == "signature":
        headers["x-slack-signature"] = "v0=" + "0" * 64
    if fault == "no time":
        del headers["x-slack-request-timestamp"]
    if fault == "body":
        body = body.replace(b"U0ALICE", b"U0CAROL")
    if fault == "again":
        assert await pages.post(body, headers) == 200
        pages.harness.clock.time += SECOND
        await pages.harness.guard.call(make_instance(), call("1"))
        id = await pages.ask(call("2"))
    assert await pages.post(body, headers) == 403
    assert pages.state(id) is ApprovalState.REQUESTED


@pytest.mark.parametrize(
    ("user", "changes", "problem"),
    [
        ("U0STRANGER", {}, "is not an approver's"),
        ("U0ALICE", {"user": {"id": "U0ALICE", "team_id": "T0OTHER"}}, "another workspace"),
        ("U0ALICE", {"container": {"channel_id": "C0OTHER", "message_ts": "1.1"}}, "another workspace or channel"),
        ("U0ALICE", {"container": {"channel_id": CHANNEL, "message_ts": "1.1"}}, "is not about this request"),
    ],
)
async def test_vote_by_somebody_else_or_elsewhere_is_refused_and_said(
    pages: Pages, user: str, changes: dict[str, Any], problem: str
) -> None:
    id = await pages.ask()
    assert await pages.press(APPROVE, user, **changes) == 200
    assert pages.state(id) is ApprovalState.REQUESTED
    if changes.get("container", {}).get("channel_id") != "C0OTHER":  # where the guard cannot write
        assert problem in pages.told


async def test_button_of_another_request_does_not_decide_this_one(pages: Pages) -> None:
    first = await pages.ask()
    second = await pages.ask(call("2"))
    body, _ = pages.slack.press(pages.ts, APPROVE)
    body = body.replace(second.encode(), first.encode())
    await pages.post(*sign(body, pages.now()))
    assert pages.state(first) is pages.state(second) is ApprovalState.REQUESTED
    assert "is not about this request" in pages.told


async def test_request_of_a_route_that_does_not_accept_slack_has_no_buttons_and_takes_no_vote(pages: Pages) -> None:
    pages.harness.load(ALLOW + BOTH)
    id = await pages.ask(ToolCallRequest("crm__note", {"text": "x"}))
    buttons = [item["action_id"] for item in pages.slack.only["blocks"][-1]["elements"]]
    assert buttons == ["mcp-guard-open"]
    forged = {"action_id": APPROVE, "value": id, "type": "button"}
    body, _ = pages.slack.press(pages.ts, "mcp-guard-open", actions=[forged])
    assert await pages.post(*sign(body, pages.now())) == 200
    assert pages.state(id) is ApprovalState.REQUESTED
    assert "route `keys` accepts no votes by Slack" in pages.told


async def test_link_button_and_other_interactions_are_acknowledged_and_do_nothing(pages: Pages) -> None:
    id = await pages.ask()
    before = list(pages.slack.called)
    assert await pages.press("mcp-guard-open") == 200
    for payload, status in (({"type": "view_submission"}, 200), ({}, 400), ([], 400), ({"type": "block_actions"}, 400)):
        body = urlencode({"payload": json.dumps(payload)}).encode()
        assert await pages.post(*sign(body, pages.now())) == status
    assert await pages.post(*sign(b"{}", pages.now())) == 400
    assert pages.slack.called == before
    assert pages.state(id) is ApprovalState.REQUESTED


async def test_votes_by_slack_and_by_keys_make_a_quorum_together(pages: Pages) -> None:
    two = {"people": replace(ROUTES["people"], quorum=2)}
    pages.harness.guard = replace(
        pages.harness.guard, approvals=replace(pages.harness.ledger.approvals, routes=ROUTES | two)
    )
    id = await pages.ask()
    assert await pages.press(APPROVE) == 200
    assert pages.told == "Your approval is recorded. Still needed on: people"
    assert await pages.press(APPROVE) == 200
    assert "`alice` has already voted" in pages.told
    pages.harness.approve(id, "carol")
    assert pages.state(id) is ApprovalState.APPROVED
